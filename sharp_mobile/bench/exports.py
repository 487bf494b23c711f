"""An export as a benchmark sees it: its `.pte`, held against its manifest, and what it should say.

Only what a benchmark needs is read from the manifest, and nothing of PyTorch is loaded for it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sharp_mobile.bench.results import ExportIdentity
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.packed_weights import PackedWeights

_BLOCK = 1 << 22


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)  # what else the manifest holds is not read


class _Sizes(_Part):
    file: int
    tensors: int
    shared: int
    recovery: int


class _Expected(_Part):
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]


class _Metadata(_Part):
    get_max_context_len: int


class _Manifest(_Part):
    name: str
    plan: str
    sha256: str
    sizes: _Sizes
    divergence: float
    expected: _Expected
    metadata: _Metadata
    packed: tuple[PackedWeights, ...] = ()


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
    path, pte = directory / "manifest.json", directory / "model.pte"
    try:
        manifest = _Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SharpError(f"{directory}: is not an export's directory: it has no manifest.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SharpError(f"{path}: {where}: {first['msg']}; export the model again") from error
    if not pte.is_file():
        raise SharpError(f"{pte}: is missing; export the model again")
    found = sha256_of(pte)
    if found != manifest.sha256:
        raise SharpError(
            f"{pte}: is not the file of its manifest: its SHA-256 is {found[:16]}…, not {manifest.sha256[:16]}…; "
            "export the model again"
        )
    sizes = manifest.sizes
    identity = ExportIdentity(
        name=manifest.name,
        plan=manifest.plan,
        sha256=manifest.sha256,
        file_bytes=sizes.file,
        tensor_bytes=sizes.tensors,
        unshared_bytes=sizes.file + sizes.shared - sizes.recovery,
        divergence=manifest.divergence,
    )
    expected = manifest.expected
    length = manifest.metadata.get_max_context_len
    return Export(directory, pte, identity, length, expected.prompt_tokens, expected.tokens, manifest.packed)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; read in blocks, so that it may be larger than memory."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
