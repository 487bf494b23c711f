import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sharp_mobile.bench.arm64.bench import count_loads
from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.arm64.phone import Phone, emulated_phone
from sharp_mobile.bench.arm64.prepack import packed_for, prepack
from sharp_mobile.bench.arm64.profiles import Profile, read_profile
from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.runner import Launch, Task
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.verify.inspect_export import inspect_export
from sharp_mobile.verify.manifest import Manifest, PackedWeights

pytestmark = pytest.mark.slow

PIXEL, NEWER = read_profile("pixel-6"), read_profile("snapdragon-8-gen-1")


@pytest.fixture(scope="module")
def prepacked(shared: Export, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    export = tmp_path_factory.mktemp("prepacked") / "tiny"
    shutil.copytree(shared.directory, export)
    prepack(read_export(export), PIXEL, emulator)
    return export


@pytest.fixture
def copied(prepacked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepacked, tmp_path / "tiny"))


def manifest_of(export: Path) -> Manifest:
    return Manifest.model_validate_json((export / "manifest.json").read_bytes())


def loads(export: Path, profile: Profile, emulator: Emulator) -> tuple[int, int, list[str]]:
    """Instructions of the first and of a later load, and the warnings."""
    with emulated_phone(emulator, profile, export / "model.pte") as phone:
        first, later, warnings = count_loads(phone, read_export(export))
    return first.instructions, later.instructions, warnings


def test_the_first_launch_counts_like_a_later_one(prepacked: Path, shared: Export, emulator: Emulator) -> None:
    first, later, warnings = loads(prepacked, PIXEL, emulator)
    assert (first, warnings) == (later, [])
    assert later == loads(shared.directory, PIXEL, emulator)[1]


def test_the_key_is_in_the_manifest(prepacked: Path, shared: Export) -> None:
    manifest = manifest_of(prepacked)
    file = prepacked / "packed" / "pixel-6.cache"
    assert manifest.packed == (
        PackedWeights(
            file="packed/pixel-6.cache",
            profile="pixel-6",
            cpu_class="arm64 asimdhp asimddp",
            runtime="1.5.1",
            pte_sha256=sha256_of(prepacked / "model.pte"),
            sha256=sha256_of(file),
            bytes=file.stat().st_size,
        ),
    )
    assert manifest.model_copy(update={"packed": ()}) == manifest_of(shared.directory)
    assert inspect_export(prepacked).problems == ()


def test_another_phone_of_the_class_uses_it(prepacked: Path, emulator: Emulator) -> None:
    first, later, warnings = loads(prepacked, read_profile("cortex-a76"), emulator)
    assert (first, warnings) == (later, [])


def test_another_class_does_not(prepacked: Path, shared: Export, emulator: Emulator) -> None:
    assert loads(prepacked, NEWER, emulator) == loads(shared.directory, NEWER, emulator)


def test_a_key_that_lies_is_found_out(copied: Path, shared: Export, emulator: Emulator) -> None:
    lie = read_export(copied).packed[0].model_copy(update={"cpu_class": NEWER.cpu_class})
    content = {**json.loads((copied / "manifest.json").read_text()), "packed": [lie.model_dump()]}
    (copied / "manifest.json").write_text(json.dumps(content))
    before = sha256_of(copied / lie.file)
    first, later, warnings = loads(copied, NEWER, emulator)
    assert (first, later) == loads(shared.directory, NEWER, emulator)[:2]
    assert len(warnings) == 1
    assert "was not used: XNNPACK packed the weights again" in warnings[0]
    assert sha256_of(copied / lie.file) == before


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_file_is_told(damage: str, copied: Path) -> None:
    file = copied / "packed" / "pixel-6.cache"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "bit":
            file.write_bytes(content)
        case "cut":
            file.write_bytes(content[:-1])
        case "gone":
            file.unlink()
    with pytest.raises(
        SharpError, match=r"is damaged or missing, and was not used; run sharp-mobile prepack .*pixel-6"
    ):
        packed_for(read_export(copied), PIXEL)


def test_a_damaged_file_is_not_used(copied: Path, emulator: Emulator) -> None:
    (copied / "packed" / "pixel-6.cache").write_bytes(b"not packed weights")
    first, later, warnings = loads(copied, PIXEL, emulator)
    assert first > 2 * later
    assert len(warnings) == 1


def test_packed_weights_of_another_pte_or_runtime_are_not_used(copied: Path) -> None:
    export = read_export(copied)
    for change in ({"pte_sha256": "0" * 64}, {"runtime": "1.4.1"}):
        other = export.packed[0].model_copy(update=change)
        assert packed_for(dataclasses.replace(export, packed=(other,)), PIXEL) is None
    patched = export.packed[0].model_copy(update={"runtime": "1.5.99"})
    assert packed_for(dataclasses.replace(export, packed=(patched,)), PIXEL) is not None
    assert packed_for(export, PIXEL) == copied / "packed" / "pixel-6.cache"


def test_weights_that_grow_in_the_next_launch_are_not_kept(
    shared: Export, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the phone changed its processor between the launches: XNNPACK refuses its file and appends."""
    export = Path(shutil.copytree(shared.directory, tmp_path / "tiny"))
    before = (export / "manifest.json").read_bytes()
    real = Phone.launch

    def launch(phone: Phone, task: Task) -> Launch:
        return real(dataclasses.replace(phone, profile=NEWER) if phone.packed_bytes else phone, task)

    monkeypatch.setattr(Phone, "launch", launch)
    with pytest.raises(SharpError, match=r"does not accept its own packed weights: .* nothing was written"):
        prepack(read_export(export), PIXEL, emulator)
    assert not (export / "packed").exists()
    assert (export / "manifest.json").read_bytes() == before


def test_interrupted_the_export_is_as_it_was(copied: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}

    def interrupt(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepack(read_export(copied), PIXEL, emulator)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_a_second_phone_is_added_and_the_same_one_replaced(copied: Path, emulator: Emulator) -> None:
    prepack(read_export(copied), NEWER, emulator)
    prepack(read_export(copied), PIXEL, emulator)
    export = read_export(copied)
    assert [packed.profile for packed in export.packed] == ["snapdragon-8-gen-1", "pixel-6"]
    assert packed_for(export, NEWER) == copied / "packed" / "snapdragon-8-gen-1.cache"


def test_a_manifest_of_before_has_no_packed_weights(copied: Path) -> None:
    content = json.loads((copied / "manifest.json").read_text())
    del content["packed"]
    (copied / "manifest.json").write_text(json.dumps(content))
    assert (manifest_of(copied).packed, read_export(copied).packed) == ((), ())
