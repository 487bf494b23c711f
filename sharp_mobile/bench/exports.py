"""An export for a benchmark: its `.pte`, checked against the manifest, and the tokens that it should generate."""

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

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Export:
    """An export's directory, its `.pte` and fields of its manifest.

    Attributes:
        length: positions of the KV cache.
        prompt: token ids.
        tokens: the greedy continuation of `prompt` at the time of export.
        packed: packed weights in the export.
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
        SharpError: it is not an export's directory, or its `.pte` does not match the manifest.
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


def tokenizer_files(export: Export) -> dict[str, Path]:
    """The tokenizer's files in an export by their names, for the stock runner; empty if it has none.

    Raises:
        SharpError: one of them is a link out of the export.
    """
    directory = export.directory
    return {name: inside(directory, name, directory) for name in _TOKENIZERS if (directory / name).is_file()}


def packed_files(export: Export) -> dict[str, Path]:
    """The packed weights in an export, by their names in the manifest.

    Raises:
        SharpError: one of them is missing, is not a file, or is a link out of the export.
    """
    manifest = export.directory / MANIFEST_JSON
    files = {packed.file: inside(export.directory, packed.file, manifest) for packed in export.packed}
    for file in files.values():
        if not file.is_file():
            raise SharpError(f"{file}: is missing; run sharp-mobile prepack {export.directory} again")
    return files


def identity(manifest: Manifest) -> ExportIdentity:
    """The export's entry in a results file."""
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
    """Check an export's `.pte` against the SHA-256 in its manifest.

    Raises:
        SharpError: the file is missing or another one.
    """
    check_sha256(directory / MODEL_PTE, manifest.sha256)
