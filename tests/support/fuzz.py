"""`make fuzz`: hundreds of damaged inputs through every verb that reads them, as commands of their own.

A command has to answer (exit status 0) or to refuse in one line (1). Everything else is a failure: a traceback, a
crash, a hang, too much memory, other output than text, changed or left-over files, and an answer where SHA-256 says
that the input is damaged. Inputs come from SEED and their number alone, so each can be made again:

    \b
    make fuzz SEED=3                        all of one seed, ten minutes on two idle cores
    make fuzz SEED=3 COUNT=0.1              a tenth
    make fuzz SEED=3 CASE=checkpoint-17     one; its directory and all output stay in build/fuzz
    make fuzz SEED=3 CASE=gguf              one kind: checkpoint, gguf, pte, bare-pte, results

What every command said is in build/fuzz/seed-3.log.
"""

# ruff: noqa: E402

import gc
import importlib
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

# Before PyTorch is imported: one thread, so that a fork finds no others; and no network.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import click

from sharp_mobile.system.libraries import silence_libraries

silence_libraries()  # before they are imported

import torch
from damage import drawn
from fuzz_command import ANSWERED, REFUSED, Command, Ended, run
from fuzz_inputs import KINDS, Case, Whole, export_of, lay_out, make_whole, read_whole
from hypothesis import strategies as st

# What commands import when they need it; so each of them finds it there.
_LATER = [
    *("executorch.kernels.quantized", "executorch.data.bin", "tomlkit"),
    *("transformers.models.llama.modeling_llama", "transformers.models.gemma2.modeling_gemma2"),
    *(f"sharp_mobile.bench.{module}" for module in ("arm64.prepack", "budgets.check", "bundle")),
    *(f"sharp_mobile.bench.compare.{module}" for module in ("measurements", "report", "tables")),
    *(f"sharp_mobile.{module}" for module in ("evaluate.generate", "evaluate.measure", "verify.inspect_export")),
    *("sharp_mobile.checkpoint.merge", "sharp_mobile.size_report"),
]

DIRECTORY = Path("build/fuzz").resolve()
EVERY = 12  # one of so many models that open is exported, which takes ten seconds

Result = tuple[Command, Ended]


@click.command(help=__doc__)
@click.option("--seed", default=0, show_default=True)
@click.option("--count", default=1.0, show_default=True, help="Times the usual number of cases.")
@click.option("--case", "only", default="", help="One case alone, such as gguf-3, or one kind: gguf.")
def main(seed: int, count: float, only: str) -> None:
    """Run the cases, two at once; exit with 1 if one fails."""
    for module in _LATER:
        importlib.import_module(module)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    gc.freeze()  # what forks do not collect, they do not copy
    single = bool(only) and only not in KINDS
    kinds = {only: KINDS[only]} if only in KINDS else KINDS
    numbers = {kind: range(round(cases * count)) for kind, (cases, _) in kinds.items()}
    names = [only] if single else [f"{kind}-{number}" for kind, found in numbers.items() for number in found]
    whole = _whole(again=not single)
    results: dict[str, list[Result]] = {}
    log = DIRECTORY / f"seed-{seed}.log"
    log.write_text("")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        running = {pool.submit(run_case, name, seed, whole, single): name for name in names}
        for future in as_completed(running):
            name = running[future]
            results[name] = future.result()
            with log.open("a") as opened:
                opened.writelines(
                    f"{name} {c.verb}: {e.seconds:.1f} s: {e.outcome}: {e.said}\n" for c, e in results[name]
                )
            for line in _report(name, results[name], seed, verbose=single):
                click.echo(line)
            if sys.stderr.isatty():
                click.echo(f"\r{len(results)} of {len(names)}", err=True, nl=False)
    for line in summary(results):
        click.echo(line)
    sys.exit(any(ended.failed for found in results.values() for _, ended in found))


def _whole(again: bool) -> Whole:
    """What is damaged, made in a process of its own; with `again` even if it is there."""
    directory = DIRECTORY / "whole"
    if not again and (directory / "sharp").is_dir():  # which is made last
        return read_whole(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    making = multiprocessing.get_context("fork").Process(target=make_whole, args=[directory])
    making.start()
    making.join()
    if making.exitcode:
        sys.exit("the whole inputs could not be made")
    return read_whole(directory)


def run_case(name: str, seed: int, whole: Whole, keep: bool) -> list[Result]:
    """Make a case in a directory of its own and run its commands; the directory stays if one fails."""
    kind, _, number = name.rpartition("-")
    place = DIRECTORY / f"seed-{seed}" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    results: list[Result] = []
    case = _laid_out(kind, zlib.crc32(f"{seed} {name}".encode()), whole, place)
    for command in case.commands:
        results.append((command, run(command, place)))
    opens = any(command.verb == "evaluate" and ended.outcome == ANSWERED for command, ended in results)
    if opens and case.model and (case.always or int(number) % EVERY == 0):
        command = export_of(case.model, case.attention)
        results.append((command, run(command, place)))
    if not keep and not any(ended.failed for _, ended in results):
        shutil.rmtree(place)
    return results


def _laid_out(kind: str, number: int, whole: Whole, place: Path) -> Case:
    @st.composite
    def cases(draw: st.DrawFn) -> Case:
        for path in place.iterdir():  # of an earlier draw
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return lay_out(draw, kind, whole, place)

    return drawn(cases(), number)


def _report(name: str, results: list[Result], seed: int, *, verbose: bool) -> Iterator[str]:
    for command, ended in results:
        if ended.failed or verbose:
            yield f"{name}: {ended.outcome}: {command.verb} {' '.join(command.arguments)}"
            yield from (f"    {line}" for line in ended.output.splitlines()[-30 if verbose else -6 :])
    if any(ended.failed for _, ended in results):
        yield f"    again: make fuzz SEED={seed} CASE={name}   input: {DIRECTORY}/seed-{seed}/{name}"


def summary(results: dict[str, list[Result]]) -> Iterator[str]:
    """Counts by kind and verb, the longest time, the most memory, and the processor."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, found in results.items():
        for command, ended in found:
            counts[name.rpartition("-")[0], command.verb][ended.outcome] += 1
    yield f"{'':12}{'':10}{ANSWERED:>9}{REFUSED:>9}  failed"
    for (kind, verb), count in sorted(counts.items()):
        failed = ", ".join(f"{times} {name}" for name, times in count.items() if name not in (ANSWERED, REFUSED))
        yield f"{kind:12}{verb:10}{count[ANSWERED]:9}{count[REFUSED]:9}  {failed or 0}"
    every = [(ended, f"{name} {command.verb}") for name, found in results.items() for command, ended in found]
    longest, largest = max(every, key=lambda e: e[0].seconds), max(every, key=lambda e: e[0].memory)
    yield (
        f"{len(results)} cases, {len(every)} commands; the longest took {longest[0].seconds:.1f} s ({longest[1]}), "
        f"the largest {largest[0].memory / 1e6:,.0f} MB ({largest[1]}), on {_processor()}"
    )


def _processor() -> str:
    try:
        lines = subprocess.run(["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    except OSError:
        return platform.processor() or platform.machine()
    found = [line.partition(":")[2].strip() for line in lines.splitlines() if line.startswith("Model name:")]
    return found[0] if found else platform.machine()


if __name__ == "__main__":
    main()
