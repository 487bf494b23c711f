"""The manifest of an export: what is in it, what made it, and what a harness should see when it runs it.

Read without PyTorch and ExecuTorch: comparing exports and results needs neither.
"""

import os
import reprlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.files.fields import LARGEST, Count, Number, PlainName, Positive, Text, checked
from sharp_mobile.files.json_file import read_json
from sharp_mobile.system.timing import Stage

MANIFEST_JSON, MODEL_PTE, PERPLEXITY_JSON = "manifest.json", "model.pte", "perplexity.json"
PACKED = "packed"  # the directory of packed weights
FORMAT_VERSION = 1
_LENGTH = "get_max_context_len"  # as ExecuTorch's LLM runner calls it


def _in_packed(name: str) -> str:
    if not name.startswith(f"{PACKED}/") or len(name.split("/")) != 2:
        raise ValueError(f"must be a file in {PACKED}/, is {name!r}")
    return name


PackedName = Annotated[PlainName, AfterValidator(_in_packed)]


class StoredTensor(BaseModel):
    """A blob of the file: the SHA-256 of its bytes, its size, what it holds, and who uses it."""

    key: str
    bytes: Count
    kind: str
    users: tuple[str, ...]


class Sizes(BaseModel):
    """Bytes of an export.

    file: of the `.pte`. tensors: of its distinct tensors. shared: what the weights that layers share or lack would take
    in addition. recovery: of the recovery parameters that stand in for them.
    """

    model_config = ConfigDict(frozen=True)

    file: Positive
    tensors: Count
    shared: Count
    recovery: Count

    @model_validator(mode="after")
    def _add_up(self) -> "Sizes":
        if not 0 < self.unshared <= LARGEST:
            raise ValueError(f"file + shared - recovery is {self.unshared:,} bytes, which no file has")
        return self

    @property
    def unshared(self) -> int:
        """What the same model would take with the same settings and nothing shared.

        A target's MLP counts as its reference's is stored, or where more than MLPs is shared, at the bits of
        `quantize.linear`; `quantize.eight_bit_budget` would be spent again, on more linears.
        """
        return self.file + self.shared - self.recovery


class Expected(BaseModel):
    """What greedy decoding of `prompt` gives: the token ids that the export's own `.pte` generated here."""

    prompt: str
    prompt_tokens: tuple[Count, ...]
    tokens: tuple[Count, ...]
    text: str


class PackedWeights(BaseModel):
    """Weights that lie in the export as XNNPACK packs them, and what they are good for.

    file: where they are, from the export's directory. profile: the phone that they were packed on. cpu_class: what a
    processor must have in common with that one. runtime: the version of ExecuTorch that reads them. pte_sha256: of the
    `.pte` that they belong to. sha256, bytes: of the file itself; it is not to be believed without.
    """

    model_config = ConfigDict(frozen=True)

    file: PackedName
    profile: Text
    cpu_class: Text
    runtime: Text
    pte_sha256: Text
    sha256: Text
    bytes: Positive


class MeasuredPerplexity(BaseModel):
    """`perplexity.json`, which `sharp-mobile evaluate` leaves in an export: exp of the mean loss a token.

    sha256: of the `.pte` that was measured. text, windows, window: on what; `tokens` of them were scored.
    """

    model_config = ConfigDict(frozen=True)

    sha256: Text
    perplexity: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    text: Text
    windows: Positive
    window: Positive
    tokens: Positive


def _length(metadata: dict[str, object]) -> int:
    """Positions in the KV cache; ValueError if the metadata gives no number of them."""
    length = metadata.get(_LENGTH)
    if type(length) is not int or not 0 < length <= LARGEST:
        raise ValueError(f"{_LENGTH} must be a number of positions, is {reprlib.repr(length)}")
    return length


class Manifest(BaseModel):
    """`manifest.json`.

    tokenizer: the file that ExecuTorch's runner takes as the model's tokenizer; None if there is none.
    """

    format_version: int = FORMAT_VERSION
    name: Text
    sha256: Text
    recipe: dict[str, object]
    source: Text
    fingerprint: Text
    plan: Text
    layers: Positive
    stored_ratio: Number
    compression_ratio: Number
    sizes: Sizes
    metadata: dict[str, object]
    delegates: Count
    operators: dict[str, Count]
    divergence: Number
    expected: Expected
    tensors: tuple[StoredTensor, ...]
    names: dict[str, str]
    stages: tuple[Stage, ...]
    versions: dict[str, Text] = {}
    warnings: tuple[Text, ...] = ()
    tokenizer: PlainName | None = None
    packed: tuple[PackedWeights, ...] = ()

    @field_validator("metadata")
    @classmethod
    def _has_a_length(cls, metadata: dict[str, object]) -> dict[str, object]:
        _length(metadata)
        return metadata

    @field_validator("packed")
    @classmethod
    def _named_once(cls, packed: tuple[PackedWeights, ...]) -> tuple[PackedWeights, ...]:
        for file, count in Counter(weights.file for weights in packed).items():
            if count > 1:
                raise ValueError(f"names {file} {count} times")
        return packed

    @model_validator(mode="after")
    def _expected_fits(self) -> "Manifest":
        positions = len(self.expected.prompt_tokens) + len(self.expected.tokens)
        if positions > self.length:
            raise ValueError(f"expected has {positions} tokens, more than the {self.length} positions of {_LENGTH}")
        return self

    @property
    def length(self) -> int:
        """Positions in the KV cache."""
        return _length(self.metadata)


def read_manifest(directory: str | Path) -> Manifest:
    """The manifest of an export's directory.

    Raises:
        SharpError: there is none, or it is not one that this sharp-mobile reads.
    """
    path = Path(directory, MANIFEST_JSON)
    if not os.path.lexists(path):
        raise SharpError(f"{directory}: is not an export's directory: it has no {MANIFEST_JSON}")
    remedy = "export the model again"
    manifest = checked(read_json(path, remedy=remedy, unique=True), Manifest, path, remedy)
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
    if not os.path.lexists(path):
        return None
    remedy = f"run sharp-mobile evaluate {directory} again"
    found = checked(read_json(path, remedy=remedy, unique=True), MeasuredPerplexity, path, remedy)
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
            f"{pte}: does not match its manifest: its SHA-256 is {found[:16]}…, not {expected[:16]}…; "
            "export the model again"
        )


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a `.pte` holds."""
    packages = ("torch", "executorch", "torchao", "transformers")
    return {"sharp_mobile": __version__} | {package: version(package) for package in packages}


def measure(file_bytes: int, tensors: tuple[StoredTensor, ...], dropped: int = 0, missing: int | None = None) -> Sizes:
    """Sizes from the stored tensors and the names of their users.

    Args:
        dropped: how many targets call no reference.
        missing: bytes of the weights that sharing saves; None where these are MLPs alone, which the tensors tell.
    """
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
    saved = shared if missing is None else missing
    return Sizes(file=file_bytes, tensors=sum(t.bytes for t in tensors), shared=saved, recovery=recovery)


def _is_mlp_weight(user: str) -> bool:
    parts = user.split(".")
    return len(parts) == 5 and parts[2] == "mlp" and parts[3] in ("gate", "up", "down")


def _is_recovery(user: str) -> bool:
    return ".recovery." in user or user.endswith("alpha")
