"""The manifest of an export: what is in it, what made it, and what a harness should see when it runs it.

Read without PyTorch and ExecuTorch: comparing exports and results needs neither.
"""

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sharp_mobile import __version__
from sharp_mobile.digests import sha256_of
from sharp_mobile.errors import SharpError, first_problem

MANIFEST_JSON, MODEL_PTE, PERPLEXITY_JSON = "manifest.json", "model.pte", "perplexity.json"
PACKED = "packed"  # the directory of packed weights
FORMAT_VERSION = 1


class StoredTensor(BaseModel):
    """A blob of the file: the SHA-256 of its bytes, its size, what it holds, and who uses it."""

    key: str
    bytes: int
    kind: str
    users: tuple[str, ...]


class Sizes(BaseModel):
    """Bytes of an export.

    file: of the `.pte`. tensors: of its distinct tensors. shared: what the targets' own MLP weights would take, were
    they not shared. recovery: of the recovery parameters that stand in for them.
    """

    model_config = ConfigDict(frozen=True)

    file: int
    tensors: int
    shared: int
    recovery: int

    @property
    def unshared(self) -> int:
        """What the same model would take with the same settings and nothing shared.

        A target's MLP counts as its reference's is stored; `quantize.fragile` would choose anew among more linears.
        """
        return self.file + self.shared - self.recovery


class Expected(BaseModel):
    """What greedy decoding of `prompt` gives: the token ids that the export's own `.pte` generated here."""

    prompt: str
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str


class Stage(BaseModel):
    """One step of an export: wall and CPU seconds, and the process's peak resident bytes when it ended."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class PackedWeights(BaseModel):
    """Weights that lie in the export as XNNPACK packs them, and what they are good for.

    file: where they are, from the export's directory. profile: the phone that they were packed on. cpu_class: what a
    processor must have in common with that one. runtime: the version of ExecuTorch that reads them. pte_sha256: of the
    `.pte` that they belong to. sha256, bytes: of the file itself; it is not to be believed without.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    profile: str
    cpu_class: str
    runtime: str
    pte_sha256: str
    sha256: str
    bytes: int


class MeasuredPerplexity(BaseModel):
    """`perplexity.json`, which `sharp-mobile evaluate` leaves in an export: exp of the mean loss a token.

    sha256: of the `.pte` that was measured. text, windows, window: on what; `tokens` of them were scored.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    perplexity: float
    text: str
    windows: int
    window: int
    tokens: int


class Manifest(BaseModel):
    """`manifest.json`.

    tokenizer: the file that ExecuTorch's runner takes as the model's tokenizer; None if there is none.
    """

    format_version: int = FORMAT_VERSION
    name: str
    sha256: str
    recipe: dict[str, Any]
    source: str
    fingerprint: str
    plan: str
    layers: int
    stored_ratio: float
    compression_ratio: float
    sizes: Sizes
    metadata: dict[str, Any]
    delegates: int
    operators: dict[str, int]
    divergence: float
    expected: Expected
    tensors: tuple[StoredTensor, ...]
    names: dict[str, str]
    stages: tuple[Stage, ...]
    versions: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    tokenizer: str | None = None
    packed: tuple[PackedWeights, ...] = ()


def read_manifest(directory: str | Path) -> Manifest:
    """The manifest of an export's directory.

    Raises:
        SharpError: there is none, or it is not one that this sharp-mobile reads.
    """
    path = Path(directory, MANIFEST_JSON)
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SharpError(f"{directory}: is not an export's directory: it has no {MANIFEST_JSON}") from error
    except ValidationError as error:
        raise SharpError(f"{path}: {first_problem(error)}; export the model again") from error
    if manifest.format_version != FORMAT_VERSION:
        raise SharpError(
            f"{path}: is of format {manifest.format_version}, this sharp-mobile reads {FORMAT_VERSION}; "
            "export the model again"
        )
    return manifest


def read_perplexity(directory: str | Path, sha256: str) -> MeasuredPerplexity | None:
    """The perplexity of an export's `.pte` with that hash, if it was measured.

    Raises:
        SharpError: what lies there is not whole.
    """
    path = Path(directory, PERPLEXITY_JSON)
    if not path.is_file():
        return None
    try:
        found = MeasuredPerplexity.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SharpError(f"{path}: {first_problem(error)}; run sharp-mobile evaluate {directory} again") from error
    return found if found.sha256 == sha256 else None


def check_sha256(pte: Path, expected: str) -> None:
    """Compare a `.pte` with the SHA-256 that its manifest names.

    Raises:
        SharpError: it is missing, cannot be read, or is another file.
    """
    if not pte.is_file():
        raise SharpError(f"{pte}: is missing; export the model again")
    try:
        found = sha256_of(pte)
    except OSError as error:
        raise SharpError(f"{pte}: cannot be read: {error.strerror}") from error
    if found != expected:
        raise SharpError(
            f"{pte}: is not the file of its manifest: its SHA-256 is {found[:16]}…, not {expected[:16]}…; "
            "export the model again"
        )


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a `.pte` holds."""
    packages = ("torch", "executorch", "torchao", "transformers")
    return {"sharp_mobile": __version__} | {package: version(package) for package in packages}


def measure(file_bytes: int, tensors: tuple[StoredTensor, ...], dropped: int = 0) -> Sizes:
    """Sizes from the stored tensors and the names of their users; `dropped` targets call no reference."""
    shared = recovery = 0
    mlps: Counter[str] = Counter()
    for tensor in tensors:
        layers = {user.split(".")[1] for user in tensor.users if _is_mlp_weight(user)}
        if layers:
            shared += (len(layers) - 1) * tensor.bytes
        mlps.update(dict.fromkeys(layers, tensor.bytes))
        if any(_is_recovery(user) for user in tensor.users):
            recovery += tensor.bytes
    shared += dropped * min(mlps.values(), default=0)  # all are as wide; some may have 8 bits
    return Sizes(file=file_bytes, tensors=sum(t.bytes for t in tensors), shared=shared, recovery=recovery)


def _is_mlp_weight(user: str) -> bool:
    parts = user.split(".")
    return len(parts) == 5 and parts[2] == "mlp" and parts[3] in ("gate", "up", "down")


def _is_recovery(user: str) -> bool:
    return ".mlp.recovery." in user or user.endswith("_alpha")
