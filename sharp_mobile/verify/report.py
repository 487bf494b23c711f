"""A manifest for people: `report.md` with a picture of the bytes."""

import re
from collections import Counter
from pathlib import Path

import matplotlib

from sharp_mobile.files.printable import markdown, printable
from sharp_mobile.verify.manifest import MODEL_PTE, Manifest, Sizes

REPORT_MD, REPORT_PNG = "report.md", "sizes.png"


def write_report(directory: Path, manifest: Manifest) -> None:
    """Write `report.md` and its picture next to a manifest."""
    _draw(directory / REPORT_PNG, manifest.sizes)
    sizes, expected = manifest.sizes, manifest.expected
    kinds: Counter[str] = Counter()
    for tensor in manifest.tensors:
        kinds[tensor.kind] += tensor.bytes
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", expected.prompt)), default=0))  # longer than any in it
    lines = [
        f"# {markdown(manifest.name)}",
        "",
        f"![bytes of this export and of the unshared model]({REPORT_PNG})",
        "",
        f"- plan: `{manifest.plan}` (1-based; reference:targets); of the MLPs τ = {manifest.stored_ratio:.2f}, "
        f"s = {manifest.compression_ratio:.3f}",
        f"- `{MODEL_PTE}`: {sizes.file:,} bytes; the unshared model with the same settings: {sizes.unshared:,} bytes "
        f"({sizes.file / sizes.unshared - 1:+.1%})",
        f"- sharing saved {sizes.shared:,} bytes; recovery parameters took {sizes.recovery:,}",
        f"- {manifest.delegates} XNNPACK delegates; predictions {manifest.divergence:.2g} nats a token from eager",
        f"- SHA-256 `{manifest.sha256}`",
        "",
        "| what | bytes |",
        "|---|---:|",
        *(f"| {kind} | {count:,} |" for kind, count in kinds.most_common()),
        "",
        "Greedy decoding of",
        "",
        fence,
        printable(expected.prompt.rstrip(), lines=True),
        fence,
        "",
        f"gives: {markdown(repr(expected.text))}",
        "",
        *(f"> {markdown(warning)}" for warning in manifest.warnings),
    ]
    (directory / REPORT_MD).write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _draw(path: Path, sizes: Sizes) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kept = sizes.file - sizes.recovery
    figure, axes = pyplot.subplots(figsize=(7, 2.2), layout="constrained")
    mega = 1e6
    axes.barh(["unshared", "this export"], [kept / mega, kept / mega], color="#4878a8", label="stored by both")
    axes.barh(["unshared"], [sizes.shared / mega], left=kept / mega, color="#d1605e", label="what sharing saves")
    axes.barh(["this export"], [sizes.recovery / mega], left=kept / mega, color="#e7ba52", label="recovery parameters")
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
