"""An export as a benchmark sees it: its `.pte`, held against its manifest, and what it should say."""

from dataclasses import dataclass
from pathlib import Path

from sharp_mobile.bench.results import ExportIdentity
from sharp_mobile.errors import SharpError
from sharp_mobile.files.paths import inside
from sharp_mobile.verify.manifest import (
    MANIFEST_JSON,
    MODEL_PTE,
    Manifest,
    PackedWeights,
    check_sha256,
    read_manifest,
)


@dataclass(frozen=True)
class Export:
    """An export's directory, its `.pte` and what the manifest says of it.

    length: positions in its KV cache. prompt: token ids, and `tokens` what greedy decoding gave after them when it was
    exported. packed: weights that it brings packed already.
    """

    directory: Path
    pte: Path
    identity: ExportIdentity
    length: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    packed: tuple[PackedWeights, ...] = ()


def read_export(directory: str | Path) -> Export:
    """Open an export.

    Raises:
        SharpError: it is not an export's directory, or its `.pte` is not the one that the manifest describes.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    check_pte(directory, manifest)
    return Export(
        directory=directory,
        pte=directory / MODEL_PTE,
        identity=identity(manifest),
        length=manifest.length,
        prompt=manifest.expected.prompt_tokens,
        tokens=manifest.expected.tokens,
        packed=manifest.packed,
    )


def packed_files(export: Export) -> dict[str, Path]:
    """The packed weights that an export brings, by the names that they have in it.

    Raises:
        SharpError: one of them is not there, is not a file, or is a link that leads out of the export.
    """
    manifest = export.directory / MANIFEST_JSON
    files = {packed.file: inside(export.directory, packed.file, manifest) for packed in export.packed}
    for file in files.values():
        if not file.is_file():
            raise SharpError(f"{file}: is missing; run sharp-mobile prepack {export.directory} again")
    return files


def identity(manifest: Manifest) -> ExportIdentity:
    """What a results file says of the export that ran."""
    sizes = manifest.sizes
    return ExportIdentity(
        name=manifest.name,
        plan=manifest.plan,
        sha256=manifest.sha256,
        file_bytes=sizes.file,
        tensor_bytes=sizes.tensors,
        unshared_bytes=sizes.unshared,
        divergence=manifest.divergence,
    )


def check_pte(directory: Path, manifest: Manifest) -> None:
    """Hold an export's `.pte` against the SHA-256 in its manifest.

    Raises:
        SharpError: it is missing, or another file.
    """
    check_sha256(directory / MODEL_PTE, manifest.sha256)
