"""The engine that other languages call answers as the runner does, and tells what is wrong in a line."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.runner import Task, build_engine, launch

pytestmark = pytest.mark.slow


class Engine:
    """`host_bench/engine.h`, by ctypes."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(build_engine()))
        self.library.sharp_engine_open.restype = ctypes.c_void_p
        self.library.sharp_engine_logits.restype = ctypes.POINTER(ctypes.c_float)
        self.library.sharp_engine_vocabulary.restype = ctypes.c_int64
        self.library.sharp_engine_length.restype = ctypes.c_int64
        self.library.sharp_engine_runtime.restype = ctypes.c_char_p
        self.error = ctypes.create_string_buffer(1000)

    def open(self, pte: Path, packed: Path | None = None) -> ctypes.c_void_p | None:
        path = None if packed is None else str(packed).encode()
        found = self.library.sharp_engine_open(str(pte).encode(), 1, 1, path, self.error, len(self.error))
        return found and ctypes.c_void_p(found)

    def step(self, model: ctypes.c_void_p, tokens: Sequence[int], position: int) -> list[float] | None:
        given = (ctypes.c_int64 * len(tokens))(*tokens)
        position64, count = ctypes.c_int64(position), ctypes.c_int64(len(tokens))
        if self.library.sharp_engine_step(model, given, count, position64, self.error, ctypes.c_size_t(1000)):
            return None
        return self.library.sharp_engine_logits(model)[: self.library.sharp_engine_vocabulary(model)]  # type: ignore


def test_its_logits_are_the_runners_bit_for_bit(runner: Path, shared: Export, tmp_path: Path) -> None:
    engine = Engine()
    found = launch(runner, shared.pte, Task(prompt=(7, 300, 12), forwards=0, logits=tmp_path / "logits"))
    for _ in range(2):  # the second time from the packed weights that the first one left
        model = engine.open(shared.pte, tmp_path / "packed")
        assert model
        assert engine.library.sharp_engine_length(model) == shared.length
        logits = torch.tensor(engine.step(model, (7, 300, 12), 0))
        assert torch.equal(logits, torch.frombuffer(bytearray((tmp_path / "logits").read_bytes()), dtype=torch.float32))
        assert [(t, pytest.approx(v)) for t, v in found.likeliest] == [
            (t, logits[t].item()) for t, _ in found.likeliest
        ]
        assert [t for t, _ in found.likeliest] == logits.topk(5).indices.tolist()
        engine.library.sharp_engine_close(model)
    assert engine.library.sharp_engine_runtime().decode() == found.runtime


def test_what_is_wrong_comes_as_a_line(shared: Export, tmp_path: Path) -> None:
    engine = Engine()
    assert engine.open(tmp_path / "none.pte") is None
    assert engine.error.value.decode() == f"{tmp_path}/none.pte: no such file, or it cannot be read"
    (tmp_path / "cut.pte").write_bytes(shared.pte.read_bytes()[:-100])
    assert engine.open(tmp_path / "cut.pte") is None
    assert "is cut short" in engine.error.value.decode()
    model = engine.open(shared.pte)
    assert model
    assert engine.step(model, [1] * 40, 90) is None
    assert "do not fit in this export's cache of 96" in engine.error.value.decode()
    engine.library.sharp_engine_close(model)
