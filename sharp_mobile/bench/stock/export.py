"""Compare the cost of an export with ExecuTorch's own `export_llm` on the same checkpoint with the same settings.

    checkpoint ─┬─► sharp-mobile export --plan none ───────────────────────────► ours/model.pte
                └─► stock_inputs (Meta's names and layout) ─► export_llm ──────► stock/model.pte

    python -m sharp_mobile.bench.stock.export --max-length 2048
    python -m sharp_mobile.bench.stock.export --max-length 256 --attention portable --count pixel-6

Both run as child processes, in turn, on one thread: 8da4w linears with the LM head, and a 4-bit embedding, in groups of
32 with HQQ scales; KV cache, dynamic length, float32, logits of the last token, XNNPACK. With portable attention both
run in a plain C++ program, and the instructions of a token can be counted on an emulated phone.

One difference: our export also opens the user's checkpoint, reads the `.pte` back and compares its answers with the
eager model. The stock exporter does neither, and the conversion of the checkpoint for it does not count. A tokenizer is
next to each `.pte`, so that both can be run.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from sharp_mobile.errors import SharpError
from sharp_mobile.files.printable import one_printable_line

# This process loads no model and stays small, because Linux starts a child's peak memory at its parent's.

GROUP_SIZE = 32
_PTE, _TOKENIZER = "model.pte", "tokenizer.json"


@dataclass(frozen=True)
class Usage:
    """Seconds and peak memory of a child process with its own children."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of one export, and the size of its `.pte`."""

    exporter: str
    usage: Usage
    pte_bytes: int


def run_child(command: Sequence[str], log: Path, *, directory: Path | None = None) -> Usage:
    """Run a command on one thread, with its output in `log`.

    Raises:
        SharpError: the command failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise SharpError(f"{log}: a child ended with status {process.returncode}; its last line: {lines[-1]}")
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def export_ours(model: str, max_length: int, attention: str, out: Path) -> Cost:
    """Export with `sharp-mobile export`, without sharing, to out/ours.

    Raises:
        SharpError: the export failed.
    """
    settings = {
        "linear": 4,
        "lm_head": 4,
        "embedding": 4,
        "group_size": GROUP_SIZE,
        "scales": "hqq",
        "rounding": "nearest",
        "attention": attention,
        "max_length": max_length,
        "logits": "last",
    }
    command = [sys.executable, "-m", "sharp_mobile.cli", "export", model, "--plan", "none", "--quiet"]
    command += ["--out", str(out / "ours"), *(f"--set={name}={value}" for name, value in settings.items())]
    usage = run_child(command, out / "ours.log")
    return Cost("sharp-mobile", usage, (out / "ours" / _PTE).stat().st_size)


def export_stock(model: str, max_length: int, attention: str, out: Path) -> Cost:
    """Export with ExecuTorch's `export_llm` to out/stock.

    Raises:
        SharpError: the model is not a plain Llama, or the export failed.
    """
    log, target = out / "stock.log", out / "stock"
    settings = [f"--max-length={max_length}", f"--group-size={GROUP_SIZE}", f"--output={_PTE}"]
    settings.append(f"--attention={attention}")
    with tempfile.TemporaryDirectory(dir=out, prefix="stock.partial-") as name:
        work = Path(name)
        run_child([sys.executable, "-m", "sharp_mobile.bench.stock.inputs", model, str(work), *settings], log)
        command = [sys.executable, "-m", "executorch.extension.llm.export.export_llm", "--config", "config.yaml"]
        usage = run_child(command, log, directory=work)
        target.mkdir(exist_ok=True)
        for file in (_PTE, _TOKENIZER):
            if (work / file).is_file():
                (work / file).replace(target / file)
    return Cost("export_llm", usage, (target / _PTE).stat().st_size)


_EXPORTERS = {"ours": export_ours, "stock": export_stock}


def compare(
    model: str, max_length: int, attention: str, runs: int, exporters: Sequence[str], out: Path
) -> Iterator[Cost]:
    """Export a model with each exporter in turn, `runs` times; yields each cost as soon as it is measured.

    Raises:
        SharpError: as `export_ours` and `export_stock`.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for _ in range(runs):
        for exporter in exporters:
            yield _EXPORTERS[exporter](model, max_length, attention, out)


def instructions(out: Path, profile: str) -> dict[str, int]:
    """Executed instructions of a token after a prompt of eight, by exporter, on an emulated phone.

    Raises:
        SharpError: an emulation tool is missing, or a plain C++ program cannot run one of the exports.
    """
    from sharp_mobile.bench.arm64.emulation import find_emulator
    from sharp_mobile.bench.arm64.phone import emulated_phone
    from sharp_mobile.bench.arm64.profiles import read_profile
    from sharp_mobile.bench.runner import Task

    emulator, phone_profile = find_emulator(), read_profile(profile)
    counted = {}
    for exporter in _EXPORTERS:
        with emulated_phone(emulator, phone_profile, out.resolve() / exporter / _PTE) as phone:
            task = Task(prompt=tuple(range(1, 9)), forwards=1, markers="forward")
            counted[exporter] = phone.count(task)[1].instructions
    return counted


HEADER = f"{'exporter':<14} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'.pte bytes':>14}"


def row(cost: Cost) -> str:
    """A line under `HEADER`."""
    usage = cost.usage
    return (
        f"{cost.exporter:<14} {usage.wall_seconds:8.1f} {usage.cpu_seconds:8.1f} {usage.peak_bytes / 1e6:8.0f} "
        f"{cost.pte_bytes:14,}"
    )


def cpu_ratio(costs: Sequence[Cost]) -> float:
    """The median CPU seconds of the stock exporter, divided by those of ours."""
    ours, stock = (
        statistics.median(cost.usage.cpu_seconds for cost in costs if cost.exporter == exporter)
        for exporter in ("sharp-mobile", "export_llm")
    )
    return stock / ours


@click.command()
@click.argument("model", default="smollm2-135m-instruct")
@click.option("--max-length", type=click.IntRange(min=2), default=2048, show_default=True, help="KV cache length.")
@click.option("--attention", type=click.Choice(["custom_sdpa", "portable"]), default="custom_sdpa", show_default=True)
@click.option("--count", "profile", help="Count a token's instructions on this emulated phone; needs portable.")
@click.option("--runs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each exporter.")
@click.option("--only", type=click.Choice(list(_EXPORTERS)), help="Run only this exporter.")
@click.option("--out", type=Path, default=Path("build/compare-stock"), show_default=True, help="For exports and logs.")
def main(
    model: str, max_length: int, attention: str, profile: str | None, runs: int, only: str | None, out: Path
) -> None:
    """Export MODEL, a plain Llama, with sharp-mobile (unshared) and with ExecuTorch's export_llm; compare the costs."""
    costs = []
    try:
        click.echo(HEADER)
        for cost in compare(model, max_length, attention, runs, [only] if only else list(_EXPORTERS), out):
            costs.append(cost)
            click.echo(row(cost))
        if profile is not None:
            counted = instructions(out, profile)
            counts = ", ".join(f"{exporter} {count:,}" for exporter, count in counted.items())
            ratio = counted["ours"] / counted["stock"]
            click.echo(f"instructions of a token on {profile}: {counts}, ratio {ratio:.3f}")
    except SharpError as error:
        raise click.ClickException(one_printable_line(str(error))) from error
    if only is None:
        click.echo(f"export_llm takes {cpu_ratio(costs):.1f} times the CPU seconds of sharp-mobile")


if __name__ == "__main__":
    main()
