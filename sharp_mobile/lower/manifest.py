"""The manifest of an export: what is in it, what made it, and what a harness should see when it runs it."""

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
from pydantic import BaseModel, ConfigDict

from sharp_mobile import __version__
from sharp_mobile.lower.inspect import MODEL_PTE, StoredTensor
from sharp_mobile.lower.packed_weights import PackedWeights

FORMAT_VERSION = 1
FIRST_LAYER = "1"
REPORT_MD, REPORT_PNG = "report.md", "sizes.png"


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
        """What the same model would take with the same settings and nothing shared."""
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


class Manifest(BaseModel):
    """`manifest.json`."""

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
    packed: tuple[PackedWeights, ...] = ()


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a `.pte` holds."""
    packages = ("torch", "executorch", "torchao", "transformers")
    return {"sharp_mobile": __version__} | {package: version(package) for package in packages}


def measure(file_bytes: int, tensors: tuple[StoredTensor, ...], dropped: int = 0) -> Sizes:
    """Sizes from the stored tensors and the names of their users; `dropped` targets call no reference."""
    shared = recovery = 0
    for tensor in tensors:
        layers = {user.split(".")[1] for user in tensor.users if _is_mlp_weight(user)}
        if layers:
            shared += (len(layers) - 1) * tensor.bytes
        if FIRST_LAYER in layers:  # always an MLP of its own, as wide as all others
            shared += dropped * tensor.bytes
        if any(_is_recovery(user) for user in tensor.users):
            recovery += tensor.bytes
    return Sizes(file=file_bytes, tensors=sum(t.bytes for t in tensors), shared=shared, recovery=recovery)


def _is_mlp_weight(user: str) -> bool:
    parts = user.split(".")
    return len(parts) == 5 and parts[2] == "mlp" and parts[3] in ("gate", "up", "down")


def _is_recovery(user: str) -> bool:
    return ".mlp.recovery." in user or user.endswith("_alpha")


def write_report(directory: Path, manifest: Manifest) -> None:
    """Write `report.md` and its picture beside a manifest."""
    _draw(directory / REPORT_PNG, manifest.sizes)
    sizes, expected = manifest.sizes, manifest.expected
    kinds: Counter[str] = Counter()
    for tensor in manifest.tensors:
        kinds[tensor.kind] += tensor.bytes
    lines = [
        f"# {manifest.name}",
        "",
        f"![bytes of this export and of the unshared model]({REPORT_PNG})",
        "",
        f"- plan: `{manifest.plan}` (1-based; reference:targets), τ = {manifest.stored_ratio:.2f}, "
        f"s = {manifest.compression_ratio:.3f}",
        f"- `{MODEL_PTE}`: {sizes.file:,} bytes; the unshared model with the same settings: {sizes.unshared:,} bytes "
        f"({sizes.file / sizes.unshared - 1:+.1%})",
        f"- shared MLP weights saved {sizes.shared:,} bytes; recovery parameters took {sizes.recovery:,}",
        f"- {manifest.delegates} XNNPACK delegates; predictions {manifest.divergence:.2g} nats a token from eager",
        f"- SHA-256 `{manifest.sha256}`",
        "",
        "| what | bytes |",
        "|---|---:|",
        *(f"| {kind} | {count:,} |" for kind, count in kinds.most_common()),
        "",
        "Greedy decoding of",
        "",
        "```",
        expected.prompt.rstrip(),
        "```",
        "",
        f"gives: {expected.text!r}",
        "",
        *(f"> {warning}" for warning in manifest.warnings),
    ]
    (directory / REPORT_MD).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _draw(path: Path, sizes: Sizes) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kept = sizes.file - sizes.recovery
    figure, axes = pyplot.subplots(figsize=(7, 2.2), layout="constrained")
    mega = 1e6
    axes.barh(["unshared", "this export"], [kept / mega, kept / mega], color="#4878a8", label="stored by both")
    axes.barh(["unshared"], [sizes.shared / mega], left=kept / mega, color="#d1605e", label="targets' own MLPs")
    axes.barh(["this export"], [sizes.recovery / mega], left=kept / mega, color="#e7ba52", label="recovery parameters")
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
