"""The manifest: what an export says of itself is read back, and nothing else is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from project import PROJECT
from tiny_exports import write_export

from sharp_mobile.errors import SharpError
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.verify.manifest import MANIFEST_JSON, Sizes, StoredTensor, measure, read_manifest


@pytest.mark.slow
def test_what_an_export_wrote_is_read(tiny_export: ExportResult, tmp_path: Path) -> None:
    assert read_manifest(tiny_export.directory) == tiny_export.manifest
    content = json.loads((tiny_export.directory / MANIFEST_JSON).read_text())
    (tmp_path / MANIFEST_JSON).write_text(json.dumps({**content, "format_version": 0}))
    with pytest.raises(SharpError, match="is of format 0, this sharp-mobile reads 1; export the model again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"name": "tiny", "sha', "is not valid JSON"),
        ("[]", "must hold a JSON object, holds a list"),
        ('{"name": "tiny"}', "sha256: Field required"),
    ],
)
def test_what_is_no_manifest_is_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_JSON).write_text(content)
    with pytest.raises(SharpError, match=f"{told}.*; export the model again"):
        read_manifest(tmp_path)


def test_a_manifest_with_settings_of_an_older_release_is_read(tmp_path: Path) -> None:
    written = write_export(tmp_path / "old").model_dump(mode="json")
    written["recipe"] = {"quantize": {"rounding": "auto", "fragile": 0.05}}
    (tmp_path / "old" / MANIFEST_JSON).write_text(json.dumps(written))
    assert read_manifest(tmp_path / "old").recipe == written["recipe"]


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"is not an export's directory: it has no manifest\.json"):
        read_manifest(tmp_path)


def test_a_manifest_is_read_without_pytorch() -> None:
    script = "import sys, sharp_mobile.verify.manifest; print(sorted({'torch', 'executorch'} & sys.modules.keys()))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT)
    assert child.stdout == "[]\n", child.stderr


def test_a_target_without_reference_saves_an_mlp_as_most_layers_have_it() -> None:
    def codes(layer: int, bits: int) -> StoredTensor:
        users = (f"layers.{layer}.mlp.down.codes",)
        return StoredTensor(key=f"key {layer}", bytes=100 * bits, kind=f"int{bits} codes", users=users)

    tensors = (codes(1, 8), codes(2, 4), codes(3, 4))  # the first was given 8 bits
    assert measure(2000, tensors, dropped=2) == Sizes(file=2000, tensors=1600, shared=800, recovery=0)
    assert measure(2000, (), dropped=2).shared == 0


def test_where_more_than_mlps_is_shared_the_missing_bytes_are_given() -> None:
    users = ("layers.2.attention.q.shared.codes", "layers.3.attention.q.shared.codes")
    factors = (
        "layers.3.attention.q.recovery.low.codes",
        "layers.3.o.recovery.out.codes",
        "layers.4.bypass.recovery.low",
    )
    tensors = [StoredTensor(key="q", bytes=100, kind="int4 codes", users=users)]
    tensors += [StoredTensor(key=user, bytes=10, kind="int8 codes", users=(user,)) for user in factors]
    assert measure(2000, tuple(tensors), missing=700) == Sizes(file=2000, tensors=130, shared=700, recovery=30)
