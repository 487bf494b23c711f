"""What is compared: an export, or an export as it was measured in one place.

    build/exports/original      ─► its manifest ─┬─► a column for each results*.json in it
                                                 └─► or one with sizes alone
    results of any device.json  ─► a column

Figures of two exports are held against each other where both were measured on the same device, and nowhere else.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sharp_mobile.bench.exports import read_export
from sharp_mobile.bench.results import Device, ExportIdentity, Results, read_results
from sharp_mobile.errors import SharpError
from sharp_mobile.files.printable import printable
from sharp_mobile.verify.manifest import read_perplexity


@dataclass(frozen=True)
class Column:
    """An export with what was measured of it in one place, if anything.

    label: tells the export from the others. name: tells the column from the others. perplexity: through its `.pte`, if
    that was measured.
    """

    name: str
    label: str
    export: ExportIdentity
    results: Results | None = None
    perplexity: float | None = None

    def on_same_device(self, other: "Column") -> bool:
        """Whether both were measured, on the same device."""
        return (
            self.results is not None
            and other.results is not None
            and _hardware(self.results.device) == _hardware(other.results.device)
        )


def place(device: Device) -> str:
    """Where something ran, in a word: `host`, the phone profile of an emulation, or the phone's model."""
    return "host" if device.kind == "host" else device.model


def read_columns(arguments: Sequence[Path]) -> list[Column]:
    """The columns of exports' directories and results files, in their order.

    Raises:
        SharpError: one of them is neither, or is not whole; a results file in an export is of another `.pte`.
    """
    labels: dict[str, str] = {}
    columns: list[Column] = []
    for argument in arguments:
        wanted, export, measured, perplexity = _read(argument)
        if export.sha256 not in labels:
            labels[export.sha256] = _unlike(wanted, labels.values())
        label = labels[export.sha256]
        for results in measured:
            name = label if results is None else f"{label}, {place(results.device)}"
            columns.append(
                Column(_unlike(name, [column.name for column in columns]), label, export, results, perplexity)
            )
    return columns


def results_of(directory: Path, export: ExportIdentity) -> list[Results]:
    """The results that lie in an export's directory.

    Raises:
        SharpError: one of them is not whole, or is of another `.pte`.
    """
    return [read_results_of(path, export) for path in sorted(directory.glob("results*.json"))]


def read_results_of(path: Path, export: ExportIdentity) -> Results:
    """A results file that must be of this export.

    Raises:
        SharpError: it is not whole, or is of another `.pte`.
    """
    results = read_results(path)
    if results.export.sha256 != export.sha256:
        raise SharpError(
            f"{path}: was measured with another .pte than {export.name}'s: SHA-256 {results.export.sha256[:16]}…, not "
            f"{export.sha256[:16]}…; run the benchmark again, or delete the file"
        )
    return results


def _read(argument: Path) -> tuple[str, ExportIdentity, Sequence[Results | None], float | None]:
    """What an argument means: a label for it, the export, what was measured of it, or None, and its perplexity."""
    if not os.path.isdir(argument):  # which asks for no permission and takes any name, unlike Path.is_dir
        results = read_results(argument)
        return results.export.name, results.export, [results], None
    export = read_export(argument).identity
    found = read_perplexity(argument, export.sha256)
    return (
        printable(argument.resolve().name),
        export,
        results_of(argument, export) or [None],
        found.perplexity if found else None,
    )


def _unlike(name: str, others: Collection[str]) -> str:
    """The name, numbered if there is one like it."""
    numbered = (name if number == 1 else f"{name} ({number})" for number in count(1))
    return next(candidate for candidate in numbered if candidate not in others)


def _hardware(device: Device) -> tuple[str, str, str, int]:
    """What makes two devices one; its system may have been updated, its battery is never the same."""
    return device.kind, device.model, device.cpu, device.cores
