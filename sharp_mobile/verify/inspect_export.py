"""Inspect an export: a `.pte` with the names and the SHA-256 of the manifest next to it."""

from pathlib import Path
from typing import NamedTuple

from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.files.json_file import read_json
from sharp_mobile.pte.read import check_file
from sharp_mobile.verify.inspect import Inspection, inspect_pte
from sharp_mobile.verify.isolated import inspect_isolated
from sharp_mobile.verify.manifest import MANIFEST_JSON, MODEL_PTE


class DescribedPte(NamedTuple):
    """What a manifest says of its `.pte`: its SHA-256, and the keys of its weights by their names."""

    sha256: str
    names: dict[str, str]


def described_by_manifest(pte: Path) -> DescribedPte | None:
    """What the manifest.json next to a `.pte` says of it; None if there is none.

    Raises:
        SharpError: the manifest cannot be read, or is not one.
    """
    path = pte.with_name(MANIFEST_JSON)
    if not path.exists():
        return None
    content = read_json(path, remedy="export the model again")
    names, sha256 = content.get("names"), content.get("sha256")
    if not isinstance(sha256, str) or not isinstance(names, dict):
        raise SharpError(f"{path}: is not a manifest of an export: it has no names or no sha256; export it again")
    if not all(isinstance(key, str) for key in names.values()):
        raise SharpError(f"{path}: is not a manifest of an export: names must give keys; export it again")
    return DescribedPte(sha256, names)


def inspect_export(path: str | Path) -> Inspection:
    """Inspect a `.pte`, or an export's directory; with the names of its manifest, and compared with its hash.

    A file that is not the one of a manifest is read in a child process: its offsets may lead anywhere.

    Raises:
        SharpError: as `inspect_pte`; the manifest is not one; or reading the file crashes or exceeds its limits.
    """
    path = Path(path)
    pte = path / MODEL_PTE if path.is_dir() else path
    check_file(pte)
    described = described_by_manifest(pte)
    if described is not None and _sha256(pte) == described.sha256:
        return inspect_pte(pte, described.names)
    inspection = inspect_isolated(pte, described.names if described else {})
    if described is None:
        warning = f"no {MANIFEST_JSON} next to it: not all damage can be detected"
        return inspection.model_copy(update={"warnings": (warning,)})
    problem = (
        f"the manifest describes another file, with SHA-256 {described.sha256[:16]}…, this file's is "
        f"{inspection.sha256[:16]}…"
    )
    return inspection.model_copy(update={"problems": (*inspection.problems, problem)})


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
