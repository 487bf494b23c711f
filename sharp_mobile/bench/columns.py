"""What is compared: an export, or an export as it was measured in one place.

    build/exports/original      ─► its manifest ─┬─► a column for each results*.json in it
                                                 └─► or one with sizes alone
    results of any device.json  ─► a column

Figures of two exports are held against each other where both were measured on the same device, and nowhere else.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sharp_mobile.bench.exports import identity, open_export
from sharp_mobile.bench.results import Device, ExportIdentity, Results, read_results
from sharp_mobile.errors import SharpError


@dataclass(frozen=True)
class Column:
    """An export with what was measured of it in one place, if anything; `name` tells it from the others."""

    name: str
    export: ExportIdentity
    results: Results | None = None

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
    columns = [column for argument in arguments for column in _columns_of(argument)]
    met: Counter[str] = Counter()
    for index, column in enumerate(columns):
        met[column.name] += 1
        if met[column.name] > 1:
            columns[index] = replace(column, name=f"{column.name} ({met[column.name]})")
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


def _columns_of(argument: Path) -> list[Column]:
    if not argument.is_dir():
        results = read_results(argument)
        return [Column(f"{results.export.name}, {place(results.device)}", results.export, results)]
    export = identity(open_export(argument))
    name = argument.resolve().name
    measured = results_of(argument, export)
    return [Column(f"{name}, {place(r.device)}", export, r) for r in measured] or [Column(name, export)]


def _hardware(device: Device) -> tuple[str, str, str, int]:
    """What makes two devices one; its system may have been updated, its battery is never the same."""
    return device.kind, device.model, device.cpu, device.cores
