"""Compare an export and its results with the budgets of its recipe.

    ok   file_bytes               97,863,296  at most 97,863,296 + 0.2%
    RED  shared_bytes                      0  at least 11,943,936
    –    host resident_bytes               –  at most 131,000,000 + 5%

A place without results shows dashes and passes. A place whose results lack a value of a budget fails.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharp_mobile.bench.budgets.file import (
    BUDGETS_TOML,
    Budget,
    ExportBudgets,
    Key,
    budgets_file,
    read_budgets,
    update_budgets,
)
from sharp_mobile.bench.compare.measurements import place, read_results_of, results_of
from sharp_mobile.bench.compare.metrics import follow
from sharp_mobile.bench.exports import check_pte, identity
from sharp_mobile.bench.results import Results
from sharp_mobile.errors import SharpError
from sharp_mobile.verify.manifest import MODEL_PTE, read_manifest

# The field of the results for each budget of a place.
_PATHS = {
    "resident_bytes": "memory.resident",
    "peak_bytes": "memory.peak",
    "load_first_instructions": "counts.load_first.instructions",
    "load_later_instructions": "counts.load_later.instructions",
    "forward_instructions": "counts.forward.instructions",
    "prefill_instructions": "counts.prefill.instructions",
}


@dataclass(frozen=True)
class BudgetValues:
    """The values of one export that budgets limit, and the places with results.

    Attributes:
        problem: why the `.pte` does not match the manifest; None if it does.
    """

    name: str
    values: dict[Key, int]
    places: frozenset[str]
    problem: str | None


@dataclass(frozen=True)
class Verdict:
    """A budget and the measured value; None if it was not measured."""

    key: Key
    value: int | None
    budget: Budget
    red: bool

    def explanation(self) -> str:
        """The value and the budget in one clause, for an error."""
        value = "was not measured" if self.value is None else f"is {self.value:,}"
        return f"{' '.join(self.key)} {value}, the budget is {self.budget}"

    def __str__(self) -> str:
        state = "RED" if self.red else "–" if self.value is None else "ok"
        value = "–" if self.value is None else f"{self.value:,}"
        return f"{state:<4} {' '.join(self.key):<38} {value:>15}  {self.budget}"


def find(directory: Path, results: Sequence[Path]) -> BudgetValues:
    """The values of an export, from its files, the results in its directory and other `results`.

    Raises:
        SharpError: it is not an export, or results belong to another one.
    """
    manifest, problem = read_manifest(directory), None
    try:
        check_pte(directory, manifest)
    except SharpError as error:
        problem = str(error)
    export = identity(manifest)
    measured = [*results_of(directory, export), *(read_results_of(path, export) for path in results)]
    pte = directory / MODEL_PTE
    values: dict[Key, int] = {
        ("file_bytes",): pte.stat().st_size if pte.is_file() else 0,  # the real size, not the manifest's
        ("shared_bytes",): manifest.sizes.shared,
    }
    for one in measured:
        for key, value in _values(one):
            values[key] = max(value, values.get(key, 0))
    return BudgetValues(manifest.name, values, frozenset(place(one.device) for one in measured), problem)


def check(measured: BudgetValues, budgets: ExportBudgets) -> list[Verdict]:
    """A verdict for each budget."""
    verdicts = []
    for key, budget in budgets.by_key().items():
        value = measured.values.get(key)
        red = not budget.holds(value) if value is not None else key[0] in measured.places
        verdicts.append(Verdict(key, value, budget, red))
    return verdicts


def _values(results: Results) -> Iterator[tuple[Key, int]]:
    """The measured values that the budgets of a place limit."""
    for budget, path in _PATHS.items():
        value = follow(results, path)
        if value is not None:
            yield (place(results.device), budget), int(value)


def run(directory: Path, results: Sequence[Path], path: Path | None, *, update: bool) -> Iterator[str]:
    """The command `check`: yields lines to print; with `update`, the budgets are set to the current values.

    Args:
        path: the budgets' file; by default that of `budgets_file`, and `update` writes ./export/budgets.toml.

    Raises:
        SharpError: a budget is exceeded, the `.pte` does not match the manifest, or the input is wrong.
    """
    measured = find(directory, results)
    if update:
        if measured.problem:
            raise SharpError(measured.problem)
        update_budgets(path or BUDGETS_TOML, measured.name, measured.values)
    verdicts = check(measured, read_budgets(path or budgets_file(measured.name), measured.name))
    yield from map(str, verdicts)
    broken = [verdict.explanation() for verdict in verdicts if verdict.red]
    if measured.problem:
        raise SharpError("; ".join([measured.problem, *broken]))
    if broken:
        raise SharpError(f"{directory}: {'; '.join(broken)}; if intended, run sharp-mobile check {directory} --update")
