"""Count the instructions of an export on an emulated ARM64 phone.

    load_first   load and init without packed weights, or with those in the export
    load_later   load and init with the packed weights of the first launch
    forward      one token at the position after the prompt
    prefill      a passage in one step

The counts are of one thread, and are equal in every run and on every machine. They do not include clocks, caches,
memory or other threads, so they are not times. They compare exports, kernels and versions.
"""

import shutil
from dataclasses import replace

from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.arm64.phone import Phone, emulated_phone
from sharp_mobile.bench.arm64.prepack import packed_for
from sharp_mobile.bench.arm64.profiles import Profile
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import Counts, Device, InstructionCount, Results, Settings, now
from sharp_mobile.bench.runner import Task
from sharp_mobile.bench.verdict import warnings_of
from sharp_mobile.errors import SharpError

_DEFAULT_PREFILL = 32
# The number of greedy tokens to compare with the manifest; each costs as much as the counted forward.
_CHECKED_TOKENS = 8


def measure(export: Export, profile: Profile, emulator: Emulator, prefill: int | None = None) -> Results:
    """Count an export's instructions on a phone.

    Args:
        prefill: tokens of the passage; by default 32, or fewer if the export's cache is shorter.

    Raises:
        SharpError: the export does not run there, or the passage is too long for it.
    """
    most = export.length - 1
    prefill = prefill or min(_DEFAULT_PREFILL, most)
    if prefill > most:
        raise SharpError(f"--prefill {prefill}: {export.directory} takes {most} tokens at a time; use fewer")
    shortened = replace(export, tokens=export.tokens[:_CHECKED_TOKENS])
    with emulated_phone(emulator, profile, export.pte) as phone:
        first, later, repacked = count_loads(phone, export)
        task = Task(prompt=export.prompt, forwards=1, tokens=len(shortened.tokens), markers="forward")
        launched, forward = phone.count(task)
        task = Task(prompt=export.prompt, warmups=0, forwards=0, prefill=prefill, prefill_runs=1, markers="prefill")
        _, passage = phone.count(task)
    major, minor = emulator.qemu_version
    return Results(
        created=now(),
        device=Device(
            kind="arm64",
            model=profile.name,
            os=f"Linux, emulated by QEMU {major}.{minor}",
            cpu=profile.cpu,
            cores=profile.cores,
        ),
        export=export.identity,
        settings=Settings(runtime=launched.runtime, threads=1, weight_cache=True, packed_cache=True),
        counts=Counts(load_first=first, load_later=later, forward=forward, prefill=passage, prefill_tokens=prefill),
        likeliest=launched.likeliest,
        tokens=launched.tokens,
        expected_tokens=shortened.tokens,
        warnings=tuple(repacked),
    )


def count_loads(phone: Phone, export: Export) -> tuple[InstructionCount, InstructionCount, list[str]]:
    """Count the first load and a later one; the texts are warnings about the packed weights.

    Raises:
        SharpError: the export does not run there.
    """
    first, refused = _first_load(phone, export)
    later, appended = _load(phone, export)
    return first, later, [*refused, *appended]


def _first_load(phone: Phone, export: Export) -> tuple[InstructionCount, list[str]]:
    """The first load, with the export's packed weights for this CPU class if they are valid."""
    packed, warnings = None, []
    try:
        packed = packed_for(export, phone.profile)
    except SharpError as error:
        warnings = [str(error)]
    if packed is not None:
        shutil.copyfile(packed, phone.packed)
        count, appended = _load(phone, export)
        if not appended:
            return count, []
        phone.packed.unlink()
        warnings = [f"{packed}: was not used: {appended[0]}"]
    return phone.count(_load_task(export))[1], warnings


def _load(phone: Phone, export: Export) -> tuple[InstructionCount, list[str]]:
    """A load, and a warning if XNNPACK refused the existing packed weights and appended its own."""
    size = phone.packed_bytes
    _, count = phone.count(_load_task(export))
    if phone.packed_bytes == size:
        return count, []
    return count, [f"XNNPACK packed the weights again: {size:,} bytes became {phone.packed_bytes:,}"]


def _load_task(export: Export) -> Task:
    return Task(prompt=export.prompt, warmups=0, forwards=0, markers="load")


def summary(results: Results) -> list[str]:
    """The counts of one export, as lines for the user."""
    lines = [f"{results.export.name} on {results.device.model} (instructions of one thread, not a time):"]
    lines.append(f"  {'':<16} {'all':>15} {'loads':>13} {'stores':>13} {'dot':>13} {'matmul':>13}")
    counts = results.counts or Counts()
    rows = {
        "load, first": counts.load_first,
        "load, later": counts.load_later,
        "forward": counts.forward,
        f"prefill of {counts.prefill_tokens}": counts.prefill,
    }
    for name, count in rows.items():
        if count is not None:
            columns = f"{count.loads:>13,} {count.stores:>13,} {count.dot:>13,} {count.matmul:>13,}"
            lines.append(f"  {name:<16} {count.instructions:>15,} {columns}")
    return lines + [f"  warning: {warning}" for warning in warnings_of(results)]
