"""A `.pte` is compared with its manifest before it runs; without one it runs where a crash is a line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.pte.runtime import load_pte
from sharp_mobile.verify.inspect_export import inspect_export
from sharp_mobile.verify.isolated_program import IsolatedProgram
from sharp_mobile.verify.opened import open_program

pytestmark = pytest.mark.slow
TOKENS = torch.tensor([[5, 6, 7]])


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


@pytest.fixture
def copied(tiny_export: ExportResult, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_export.directory, tmp_path / "export")


@pytest.fixture
def bare(copied: Path) -> Path:
    """A .pte without a manifest."""
    (copied / "manifest.json").unlink()
    return copied / "model.pte"


@pytest.mark.parametrize("place", [40, 5000, -20])
@pytest.mark.parametrize("name", [".", "model.pte"])
def test_one_flipped_bit_is_found_by_the_manifest(copied: Path, place: int, name: str) -> None:
    pte = copied / "model.pte"
    content = pte.read_bytes()
    pte.write_bytes(flipped(content, place % len(content)))
    with pytest.raises(SharpError, match=r"model\.pte: does not match its manifest"), open_program(copied / name):
        pass


def test_a_renamed_program_is_compared_with_the_manifest_beside_it(copied: Path) -> None:
    pte = (copied / "model.pte").rename(copied / "mine.pte")
    with open_program(pte) as program:
        assert program.warnings == ()
    pte.write_bytes(flipped(pte.read_bytes(), 5000))
    with pytest.raises(SharpError, match=r"mine\.pte: does not match its manifest"), open_program(pte):
        pass


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"sha256": 4, "names": {}}', "[" * 100_000])
def test_a_damaged_manifest_vouches_for_nothing(copied: Path, content: str) -> None:
    (copied / "manifest.json").write_text(content)
    with pytest.raises(SharpError, match=r"manifest\.json: ") as error, open_program(copied):
        pass
    assert "\n" not in str(error.value)


def test_a_bare_program_computes_the_same_in_its_child(bare: Path) -> None:
    with open_program(bare) as program:
        (warning,) = program.warnings
        assert warning == f"{bare}: no manifest.json next to it: damage to its weights cannot be detected"
        assert (program.limits.length, program.limits.vocabulary, program.limits.stop) == (96, 49152, (2,))
        assert torch.equal(program.step(TOKENS, 0), load_pte(bare)(TOKENS, 0))
        with pytest.raises(SharpError, match=r"gives the token id 49152, and model\.pte has 49152 tokens"):
            program.step(torch.tensor([[49152]]), 3)
        with pytest.raises(SharpError, match="position 98 is beyond its cache of 96"):
            program.step(TOKENS, 95)
        with pytest.raises(SharpError, match="has no tokens to read"):
            program.step(TOKENS[:, :0], 3)


def test_a_bare_program_is_inspected_in_its_child(bare: Path, tiny_export: ExportResult) -> None:
    inspection = inspect_export(bare)
    assert inspection.warnings == ("no manifest.json next to it: not all damage can be detected",)
    assert inspection.problems == ()
    assert inspection.tensor_bytes == tiny_export.inspection.tensor_bytes
    bare.write_bytes(bare.read_bytes()[:5000])
    with pytest.raises(SharpError, match=r"model\.pte: is not an ExecuTorch program, or is cut short"):
        inspect_export(bare)


def test_a_damaged_bare_program_is_a_line(bare: Path) -> None:
    """Unlike a manifest, the runtime does not find the damage: it crashes, or fails somewhere."""
    content = bare.read_bytes()
    for seed in range(2):
        damaged = bytearray(content)
        places = torch.randint(64, 20_000, (40,), generator=torch.Generator().manual_seed(seed))
        for place in places.tolist():
            damaged[place] ^= 0x44
        bare.write_bytes(damaged)
        with pytest.raises(SharpError) as error, open_program(bare) as program:
            program.step(TOKENS, 0)
        assert str(error.value).startswith(str(bare))
        assert "\n" not in str(error.value)


def test_a_child_that_dies_is_told_with_its_limit(bare: Path) -> None:
    with IsolatedProgram(bare) as isolated:
        isolated.load()
        isolated._child._process.kill()
        with pytest.raises(
            SharpError, match=r"model\.pte: running it in a separate process failed: ended with SIGKILL \(its memory"
        ):
            isolated.step(TOKENS, 0)


def test_what_is_no_program_is_a_line(bare: Path) -> None:
    bare.write_bytes(b"no program")
    with pytest.raises(SharpError, match=r"model\.pte: this ExecuTorch cannot load it: ") as error, open_program(bare):
        pass
    assert "\n" not in str(error.value)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pte"):
        with pytest.raises(SharpError, match=r"\.pte: no such file"), open_program(path):
            pass
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": "0", "names": {}}))
    with pytest.raises(SharpError, match=r"model\.pte: no such file"), open_program(tmp_path):
        pass
