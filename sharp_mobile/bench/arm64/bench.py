"""Count the instructions of an export on an emulated ARM64 phone.

    load_first   load and init where nothing is packed yet, or with the packed weights that the export brings
    load_later   the same with what the first launch left
    forward      one token at the position after the prompt
    prefill      a passage in one step

These are counts of what one thread executes, equal in every run and on every machine. They know nothing of clocks,
caches, memory or other threads, so they are never a time; they compare exports, kernels and versions.
"""

import shutil
from dataclasses import replace

from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.arm64.phone import Phone, emulated_phone
from sharp_mobile.bench.arm64.prepack import packed_for
from sharp_mobile.bench.arm64.profiles import Profile
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.host import divergence_warnings
from sharp_mobile.bench.results import Counts, Device, InstructionCount, Results, Settings, now
from sharp_mobile.bench.runner import Task
from sharp_mobile.errors import SharpError

_DEFAULT_PREFILL = 32
# How many greedy tokens are held against the manifest's; each costs as much as the forward that is counted.
_CHECKED_TOKENS = 8


def measure(export: Export, profile: Profile, emulator: Emulator, prefill: int | None = None) -> Results:
    """Count an export's instructions on a phone.

    Args:
        prefill: tokens of the passage; by default 32, or what the export's cache has room for.

    Raises:
        SharpError: the export cannot be run there, or takes no passage of that length.
    """
    most = export.length - 1
    prefill = prefill or min(_DEFAULT_PREFILL, most)
    if prefill > most:
        raise SharpError(f"--prefill {prefill}: {export.directory} takes {most} tokens at a time; take fewer")
    wanted = replace(export, tokens=export.tokens[:_CHECKED_TOKENS])
    with emulated_phone(emulator, profile, export.pte) as phone:
        first, later, repacked = count_loads(phone, export)
        task = Task(prompt=export.prompt, forwards=1, tokens=len(wanted.tokens), markers="forward")
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
        warnings=(*repacked, *divergence_warnings(wanted, launched.tokens, launched.likeliest)),
    )


def count_loads(phone: Phone, export: Export) -> tuple[InstructionCount, InstructionCount, list[str]]:
    """Count the first load and a later one; and say what is wrong with the packed weights that they found.

    Raises:
        SharpError: the export cannot be run there.
    """
    first, refused = _first_load(phone, export)
    later, appended = _load(phone, export)
    return first, later, [*refused, *appended]


def _first_load(phone: Phone, export: Export) -> tuple[InstructionCount, list[str]]:
    """The first load, with the packed weights that the export brings for this class, if they are good."""
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
    """A load, and a warning if XNNPACK refused the packed weights that were there and appended its own."""
    size = phone.packed_bytes
    _, count = phone.count(_load_task(export))
    if phone.packed_bytes == size:
        return count, []
    return count, [f"XNNPACK packed the weights again: {size:,} bytes became {phone.packed_bytes:,}"]


def _load_task(export: Export) -> Task:
    return Task(prompt=export.prompt, warmups=0, forwards=0, markers="load")


def summary(results: Results) -> list[str]:
    """What the user is told of one export."""
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
    return lines + [f"  warning: {warning}" for warning in results.warnings]
