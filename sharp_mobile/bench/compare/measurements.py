"""The columns of a comparison: an export, with its measurements in one place if there are any.

    build/exports/original      ─► its manifest ─┬─► a column for each results*.json in it
                                                 └─► or one with sizes only
    results of any device.json  ─► a column

Measurements of two exports are compared only if both are from the same device.
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
    """An export with its measurements in one place, if there are any.

    Attributes:
        name: a unique name of the column.
        label: a unique name of the export.
        perplexity: measured through the `.pte`; None if not measured.
    """

    name: str
    label: str
    export: ExportIdentity
    results: Results | None = None
    perplexity: float | None = None

    def on_same_device(self, other: "Column") -> bool:
        """Whether both have measurements from the same device."""
        return (
            self.results is not None
            and other.results is not None
            and _hardware(self.results.device) == _hardware(other.results.device)
        )


def place(device: Device) -> str:
    """The place of a measurement: `host`, the phone profile of an emulation, or the phone's model."""
    return "host" if device.kind == "host" else device.model


def read_columns(arguments: Sequence[Path]) -> list[Column]:
    """The columns of exports' directories and results files, in order.

    Raises:
        SharpError: an argument is neither, or is incomplete; a results file in an export belongs to another `.pte`.
    """
    labels: dict[str, str] = {}
    columns: list[Column] = []
    for argument in arguments:
        proposed, export, measured, perplexity = _read(argument)
        if export.sha256 not in labels:
            labels[export.sha256] = _unique(proposed, labels.values())
        label = labels[export.sha256]
        for results in measured:
            name, others = label, [column.name for column in columns]
            if results is not None:
                name = f"{label}, {place(results.device)}"
                if name in others:
                    name = f"{name}, {results.settings.harness}"
            columns.append(Column(_unique(name, others), label, export, results, perplexity))
    return columns


def results_of(directory: Path, export: ExportIdentity) -> list[Results]:
    """The results in an export's directory.

    Raises:
        SharpError: a file is incomplete, or belongs to another `.pte`.
    """
    return [read_results_of(path, export) for path in sorted(directory.glob("results*.json"))]


def read_results_of(path: Path, export: ExportIdentity) -> Results:
    """Read a results file of this export.

    Raises:
        SharpError: it is incomplete, or belongs to another `.pte`.
    """
    results = read_results(path)
    if results.export.sha256 != export.sha256:
        raise SharpError(
            f"{path}: was measured with another .pte than {export.name}'s: SHA-256 {results.export.sha256[:16]}…, not "
            f"{export.sha256[:16]}…; run the benchmark again, or delete the file"
        )
    return results


def _read(argument: Path) -> tuple[str, ExportIdentity, Sequence[Results | None], float | None]:
    """The label, the export, its results (a None if there are none) and the perplexity of an argument."""
    if not os.path.isdir(argument):  # unlike Path.is_dir, it raises neither without permission nor on a wrong name
        results = read_results(argument)
        return results.export.name, results.export, [results], None
    export = read_export(argument).identity
    measured = read_perplexity(argument, export.sha256)
    return (
        printable(argument.resolve().name),
        export,
        results_of(argument, export) or [None],
        measured.perplexity if measured else None,
    )


def _unique(name: str, others: Collection[str]) -> str:
    """The name, with a number if another one is equal."""
    numbered = (name if number == 1 else f"{name} ({number})" for number in count(1))
    return next(candidate for candidate in numbered if candidate not in others)


def _hardware(device: Device) -> tuple[str, str, str, int]:
    """The fields that identify a device; its system may be updated, and its battery changes."""
    return device.kind, device.model, device.cpu, device.cores
