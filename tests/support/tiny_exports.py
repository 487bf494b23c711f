"""Directories that look like exports to whoever only reads them, and results of them; no model is made."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage import BUDGETS, damaged_json

from sharp_mobile.bench.arm64.profiles import read_profile
from sharp_mobile.bench.exports import identity
from sharp_mobile.bench.results import (
    Counts,
    Device,
    ExportIdentity,
    InstructionCount,
    Load,
    Memory,
    Results,
    Samples,
    Settings,
    Sweep,
    SweepCurve,
    SweepPoint,
    TokenSamples,
    write_results,
)
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.pte.package import executorch_package
from sharp_mobile.verify.manifest import (
    MANIFEST_JSON,
    MODEL_PTE,
    Expected,
    Manifest,
    MeasuredPerplexity,
    PackedWeights,
    Sizes,
    read_manifest,
)

HOST = Device(kind="host", model="a machine", os="Linux 6", cpu="a CPU", cores=2, memory_bytes=8_000_000_000)
EMULATED = Device(kind="arm64", model="cortex-a76", os="Linux", cpu="cortex-a76", cores=1)


def write_export(
    directory: Path,
    *,
    file_bytes: int = 1000,
    shared: int = 200,
    plan: str = "2:3",
    content: bytes | None = None,
    tokens: tuple[int, ...] = (),
    versions: dict[str, str] | None = None,
) -> Manifest:
    """Write a directory with a `.pte` of so many bytes, or this content, and its manifest; named as the directory."""
    directory.mkdir(parents=True)
    content = content or f"{directory.name} {plan} ".encode().ljust(file_bytes, b"x")
    file_bytes = len(content)
    (directory / MODEL_PTE).write_bytes(content)
    manifest = Manifest(
        name=directory.name,
        sha256=hashlib.sha256(content).hexdigest(),
        recipe={},
        source="nowhere",
        fingerprint="0",
        plan=plan,
        layers=4,
        stored_ratio=0.75,
        compression_ratio=0.8,
        sizes=Sizes(file=file_bytes, tensors=file_bytes - 10, shared=shared, recovery=50 if shared else 0),
        metadata={"get_max_context_len": 64},
        delegates=5,
        operators={},
        divergence=0.01,
        expected=Expected(prompt="", prompt_tokens=(), tokens=tokens, text=""),
        tensors=(),
        names={},
        stages=(),
        versions=versions or {},
    )
    (directory / MANIFEST_JSON).write_text(manifest.model_dump_json())
    return manifest


def count(instructions: int) -> InstructionCount:
    """A count with a fixed mixture of instructions."""
    return InstructionCount(
        instructions=instructions, loads=instructions // 4, stores=instructions // 10, dot=instructions // 5, matmul=0
    )


def results(export: ExportIdentity, device: Device = HOST, *, speed: float = 1.0, **changes: Any) -> Results:
    """Results of an export: seconds on a host, `speed` times faster than usual; instructions where emulated."""
    settings = Settings(runtime="executorch 1.5.1", threads=1, weight_cache=True, packed_cache=True)
    common = {"created": "2026-01-02T03:04:05Z", "device": device, "export": export, "settings": settings}
    if device.kind == "arm64":
        counts = Counts(load_first=count(9_000_000), forward=count(round(1_000_000 / speed)))
        return Results(**{**common, "counts": counts, **changes})

    def runs(*seconds: float) -> tuple[float, ...]:
        return tuple(value / speed for value in seconds)

    measured = {
        "load": Load(first=Samples(seconds=runs(1.5, 1.6, 1.4)), later=Samples(seconds=runs(0.07, 0.08, 0.075))),
        "forward": Samples(seconds=runs(0.012, 0.0121, 0.0119, 0.0125, 0.0118)),
        "decode": TokenSamples(seconds=runs(0.8, 0.82), tokens=64),
        "memory": Memory(anonymous=20_000_000, file=round(100_000_000 / speed), peak=130_000_000),
    }
    return Results(**{**common, **measured, **changes})


class Place:
    """A directory with an export, everything that may lie in it, and files around it that nobody may change.

    Args:
        whole: an export that can run, to copy; without it, one whose `.pte` is only a few bytes.
    """

    def __init__(self, root: Path, whole: Path | None = None) -> None:
        self.root, self.export, self.out = root, root / "exports" / "tiny", root / "out"
        self.out.mkdir(parents=True)
        (root / "Makefile").write_text("all:\n")
        if whole is None:
            manifest = write_export(self.export, content=b"tiny 2:3 ".ljust(1000, b"x"), tokens=(1, 2))
        else:
            shutil.copytree(whole, self.export)
            manifest = read_manifest(self.export).model_copy(update={"name": "tiny"})
        (self.export / "packed").mkdir()
        cache = self.export / "packed" / "pixel-6.cache"
        cache.write_bytes(b"packed")
        packed = PackedWeights(
            file="packed/pixel-6.cache",
            profile="pixel-6",
            cpu_class=read_profile("pixel-6").cpu_class,
            runtime=executorch_package()[1],
            pte_sha256=manifest.sha256,
            sha256=sha256_of(cache),
            bytes=6,
        )
        versions = {"executorch": executorch_package()[1]}
        manifest = manifest.model_copy(update={"packed": (packed,), "versions": versions})
        self.write("manifest.json", manifest.model_dump_json())
        tokens = manifest.expected.tokens
        found = results(identity(manifest), tokens=tokens, likeliest=((1, 2.5), (4, 1.0)), warnings=("slow",))
        write_results(self.export / "results-host.json", found)
        write_results(self.export / "results-arm64.json", results(identity(manifest), EMULATED))
        kept = MeasuredPerplexity(sha256=manifest.sha256, perplexity=24, text="a", windows=2, window=8, tokens=14)
        self.write("perplexity.json", kept.model_dump_json())
        points = tuple(SweepPoint(memory_limit=limit, forward=Samples(seconds=(0.1,))) for limit in (10**8, 2 * 10**8))
        curve = SweepCurve(export=identity(manifest), points=points)
        sweep = Sweep(device=HOST, settings=found.settings, curves=(curve,))
        self.write("../../sweep.json", sweep.model_dump_json())
        self.write("../../budgets.toml", BUDGETS)

    def write(self, name: str, content: str | bytes) -> None:
        path = self.export / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def damage(self, draw: Callable, name: str) -> None:
        """Damage a JSON file of the export."""
        self.write(name, draw(damaged_json(json.loads((self.export / name).read_text()))))
