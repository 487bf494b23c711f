"""Hold an export and its results against the budgets of its recipe.

    ok   file_bytes               97,863,296  at most 97,863,296 + 0.2%
    RED  shared_bytes                      0  at least 11,943,936
    –    host resident_bytes               –  at most 131,000,000 + 5%

A place that no results are of has dashes, and does not fail; one whose results lack what a budget limits does.
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

# Where the budgets of a place find their values in its results.
_PATHS = {
    "resident_bytes": "memory.resident",
    "peak_bytes": "memory.peak",
    "load_first_instructions": "counts.load_first.instructions",
    "load_later_instructions": "counts.load_later.instructions",
    "forward_instructions": "counts.forward.instructions",
    "prefill_instructions": "counts.prefill.instructions",
}


@dataclass(frozen=True)
class Found:
    """What budgets limit, of one export: its values, and the places that there are results of.

    problem: why the `.pte` is not the manifest's, if it is not.
    """

    name: str
    values: dict[Key, int]
    places: frozenset[str]
    problem: str | None


@dataclass(frozen=True)
class Verdict:
    """A budget and the value that it is held against, None where nobody measured it."""

    key: Key
    value: int | None
    budget: Budget
    red: bool

    def told(self) -> str:
        """What a broken budget asks for and what there is, in one clause."""
        value = "was not measured" if self.value is None else f"is {self.value:,}"
        return f"{' '.join(self.key)} {value}, the budget is {self.budget}"

    def __str__(self) -> str:
        state = "RED" if self.red else "–" if self.value is None else "ok"
        value = "–" if self.value is None else f"{self.value:,}"
        return f"{state:<4} {' '.join(self.key):<38} {value:>15}  {self.budget}"


def find(directory: Path, results: Sequence[Path]) -> Found:
    """What an export holds and its results say, those in its directory and those given.

    Raises:
        SharpError: it is no export, or results are of another one.
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
        ("file_bytes",): pte.stat().st_size if pte.is_file() else 0,  # as it lies there, whatever the manifest says
        ("shared_bytes",): manifest.sizes.shared,
    }
    for one in measured:
        for key, value in _values(one):
            values[key] = max(value, values.get(key, 0))
    return Found(manifest.name, values, frozenset(place(one.device) for one in measured), problem)


def check(found: Found, budgets: ExportBudgets) -> list[Verdict]:
    """A verdict for each budget."""
    verdicts = []
    for key, budget in budgets.by_key().items():
        value = found.values.get(key)
        red = not budget.holds(value) if value is not None else key[0] in found.places
        verdicts.append(Verdict(key, value, budget, red))
    return verdicts


def _values(results: Results) -> Iterator[tuple[Key, int]]:
    """What the budgets of a place limit, as far as it was measured."""
    for budget, path in _PATHS.items():
        value = follow(results, path)
        if value is not None:
            yield (place(results.device), budget), int(value)


def run(directory: Path, results: Sequence[Path], path: Path | None, *, update: bool) -> Iterator[str]:
    """The verb `check`: lines to be printed; with `update`, the budgets become what is found.

    Args:
        path: the budgets' file; by default what `budgets_file` finds, and `update` writes ./export/budgets.toml.

    Raises:
        SharpError: a budget is broken, the `.pte` is not the manifest's, or the input is wrong.
    """
    found = find(directory, results)
    if update:
        if found.problem:
            raise SharpError(found.problem)
        update_budgets(path or BUDGETS_TOML, found.name, found.values)
    verdicts = check(found, read_budgets(path or budgets_file(found.name), found.name))
    yield from map(str, verdicts)
    broken = [verdict.told() for verdict in verdicts if verdict.red]
    if found.problem:
        raise SharpError("; ".join([found.problem, *broken]))
    if broken:
        raise SharpError(f"{directory}: {'; '.join(broken)}; if that is meant: sharp-mobile check {directory} --update")
