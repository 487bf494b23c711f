"""Pack an export's weights before its first launch on a phone.

    export/model.pte ──first launch on an emulated phone──► export/packed/pixel-6.cache  + its key in manifest.json
                       second launch: same size, same answers

The first launch of an export packs every weight in the order that the processor's kernels read, and writes a file for
later launches. With this file, a phone's first launch is as fast as later ones.

XNNPACK does not check the bytes of the file. On another class of processor it refuses each entry and appends its own:
the answers stay right, but the file doubles. So the file is added to the export only if a second launch does not change
its size. It is used only if its key (class, runtime, `.pte`) and its SHA-256 match the manifest.
"""

import json
import shutil
from pathlib import Path

from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.arm64.phone import Phone, emulated_phone
from sharp_mobile.bench.arm64.profiles import Profile
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.runner import Task
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.outputs import replace_file, replace_text
from sharp_mobile.files.paths import inside
from sharp_mobile.pte.package import executorch_package, same_runtime
from sharp_mobile.verify.manifest import MANIFEST_JSON, PACKED, PackedWeights


def prepack(export: Export, profile: Profile, emulator: Emulator) -> PackedWeights:
    """Pack the weights of an export for a phone's class of processor, and add them to the export.

    An interrupted run leaves the export unchanged. Earlier packed weights for the same phone are replaced.

    Raises:
        SharpError: the export cannot be run or written, or XNNPACK does not accept its own file.
    """
    with emulated_phone(emulator, profile, export.pte) as phone:
        _pack(phone, export.prompt)
        packed = PackedWeights(
            file=f"{PACKED}/{profile.name}.cache",
            profile=profile.name,
            cpu_class=profile.cpu_class,
            runtime=_runtime(),
            pte_sha256=export.identity.sha256,
            sha256=sha256_of(phone.packed),
            bytes=phone.packed_bytes,
        )
        target = inside(export.directory, packed.file, export.directory / MANIFEST_JSON)
        _copy(phone.packed, target)
    _add_to_manifest(export.directory / MANIFEST_JSON, packed)
    return packed


def _pack(phone: Phone, prompt: tuple[int, ...]) -> None:
    """Launch twice: to pack, and to check that the packed weights are accepted and give the same logits.

    Raises:
        SharpError: the second launch packs again, or gives other logits.
    """
    task = Task(prompt=prompt, warmups=0, forwards=0)
    phone.launch(task)
    size, logits = phone.packed_bytes, phone.logits
    phone.launch(task)
    if phone.packed_bytes != size:
        raise SharpError(
            f"{phone.profile.name}: XNNPACK does not accept its own packed weights: {size:,} bytes became "
            f"{phone.packed_bytes:,} in the next launch; nothing was written"
        )
    if phone.logits != logits:
        raise SharpError(f"{phone.profile.name}: the packed weights change the model's answers; nothing was written")


def packed_for(export: Export, profile: Profile) -> Path | None:
    """The packed weights in an export for a phone; None if it has none for the phone's class.

    Raises:
        SharpError: they are damaged or missing.
    """
    key = (profile.cpu_class, export.identity.sha256)
    for packed in export.packed:
        if (packed.cpu_class, packed.pte_sha256) == key and same_runtime(packed.runtime, _runtime()):
            path = inside(export.directory, packed.file, export.directory / MANIFEST_JSON)
            if path.is_file() and path.stat().st_size == packed.bytes and sha256_of(path) == packed.sha256:
                return path
            raise SharpError(
                f"{path}: is damaged or missing, and was not used; run sharp-mobile prepack {export.directory} "
                f"--profile {packed.profile}"
            )
    return None


def _runtime() -> str:
    return executorch_package()[1]


def _copy(source: Path, target: Path) -> None:
    try:
        with replace_file(target) as partial:
            shutil.copyfile(source, partial)
    except OSError as error:
        raise SharpError(f"{target}: cannot be written: {error.strerror}; make room for it") from error


def _add_to_manifest(manifest: Path, packed: PackedWeights) -> None:
    """Add packed weights to a manifest, and remove older ones of the same phone."""
    # Edit the JSON itself, to preserve fields of other versions that `Manifest` does not have.
    content = read_json(manifest)
    listed = content.get("packed")
    others = [other for other in listed if other["file"] != packed.file] if isinstance(listed, list) else []
    content["packed"] = [*others, packed.model_dump()]
    try:
        text = json.dumps(content, indent=1)
    except RecursionError as error:
        raise SharpError(f"{manifest}: is nested too deeply; export the model again") from error
    replace_text(manifest, text + "\n")
