"""Directories that look like exports to whoever only reads them, and results of them; no model is made."""

import hashlib
from pathlib import Path
from typing import Any

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
    TokenSamples,
)
from sharp_mobile.lower.manifest import MANIFEST_JSON, MODEL_PTE, Expected, Manifest, Sizes

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
