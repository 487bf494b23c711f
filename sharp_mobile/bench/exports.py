"""An export as benchmarks see it: its identity, and that its `.pte` is the one that its manifest tells of."""

import hashlib
import mmap
from pathlib import Path

from sharp_mobile.bench.results import ExportIdentity
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.manifest import MODEL_PTE, Manifest, read_manifest


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


def open_export(directory: str | Path) -> Manifest:
    """The manifest of an export whose `.pte` has the bytes that the manifest names.

    Raises:
        SharpError: there is no export, or its `.pte` is another one.
    """
    manifest = read_manifest(directory)
    check_pte(Path(directory), manifest)
    return manifest


def check_pte(directory: Path, manifest: Manifest) -> None:
    """Hold an export's `.pte` against the SHA-256 in its manifest.

    Raises:
        SharpError: it is missing, or another file.
    """
    pte = directory / MODEL_PTE
    found = pte_sha256(pte)
    if found != manifest.sha256:
        raise SharpError(
            f"{pte}: is not the file that its manifest tells of: SHA-256 {found[:16]}…, there {manifest.sha256[:16]}…; "
            "export it again"
        )


def pte_sha256(path: Path) -> str:
    """SHA-256 of a file, read in place.

    Raises:
        SharpError: it cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return hashlib.sha256(data).hexdigest()
    except (OSError, ValueError) as error:  # ValueError: nothing in it, so nothing to map
        raise SharpError(f"{path}: cannot be read: {error}; export it again") from error
