"""A tied embedding and LM head are one tensor of the file, and every runtime reads it as two."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.bench.runner import Task, launch
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.lower.program import assemble, lower_segments
from sharp_mobile.lower.pte_file import write_pte_file
from sharp_mobile.pte.runtime import load_pte
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.verify.inspect import inspect_pte

pytestmark = pytest.mark.slow

VOCABULARY, HIDDEN = 1024, 128
LENGTH = {"get_max_context_len": 32}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same program twice: as it is written here, and as ExecuTorch writes it."""
    model = tiny_model(
        num_hidden_layers=1, tie_word_embeddings=True, vocab_size=VOCABULARY, hidden_size=HIDDEN, head_dim=32
    )
    decoder = build_decoder(model, LowerSettings(max_length=32, attention="portable"))
    quantize(decoder, QuantizeSettings(recovery=4))
    program = assemble(lower_segments(decoder)[0], LENGTH)
    directory = tmp_path_factory.mktemp("tied")
    write_pte_file(program, directory / "once.pte")
    with (directory / "twice.pte").open("wb") as file:
        program.write_to_file(file)
    return directory / "once.pte", directory / "twice.pte"


def test_the_file_is_smaller_by_the_table(files: tuple[Path, Path]) -> None:
    once, twice = (inspect_pte(path, {}) for path in files)
    assert 0 <= twice.file_bytes - once.file_bytes - VOCABULARY * HIDDEN < 1000  # and what aligns segments
    assert abs(twice.tensor_bytes - once.tensor_bytes - VOCABULARY * HIDDEN) < 128  # what aligns the next segment
    (table,) = [tensor for tensor in once.tensors if tensor.bytes == VOCABULARY * HIDDEN]
    assert table.kind == "int8 codes"
    assert len(table.users) == 2
    assert f"[{VOCABULARY}, {HIDDEN}]" in table.users[1]
    others = [{t.key for t in i.tensors if t.kind in ("int4 codes", "scales")} for i in (once, twice)]
    assert others[0] == others[1]


def test_it_computes_the_same(files: tuple[Path, Path], runner: Path, tmp_path: Path) -> None:
    tokens = tiny_tokens(20)
    once, twice = (load_pte(path)(tokens, 0) for path in files)
    assert torch.equal(once, twice)
    logits = []
    for path in files:
        # The weight cache frees each weight once it is packed; the table must outlive that.
        task = Task(prompt=tuple(tokens[0].tolist()), logits=tmp_path / "logits", packed_cache=tmp_path / path.stem)
        for _ in range(2):
            launch(runner, path, task)
            logits.append((tmp_path / "logits").read_bytes())
    assert len(set(logits)) == 1


def test_a_program_without_tied_weights_is_written_as_executorch_writes_it(tmp_path: Path) -> None:
    decoder = build_decoder(tiny_model(num_hidden_layers=1), LowerSettings(max_length=32, attention="portable"))
    quantize(decoder, QuantizeSettings(group_size=32, lm_head=4, recovery=4))
    program = assemble(lower_segments(decoder)[0], LENGTH)
    write_pte_file(program, tmp_path / "model.pte")
    assert (tmp_path / "model.pte").read_bytes() == program.buffer
