"""Budgets: limits of an export, by recipe, in export/budgets.toml.

    [smollm2-135m]                                                      the recipe
    file_bytes = { at_most = 97_863_296, tolerance = 0.002 }            its .pte
    shared_bytes = { at_least = 11_943_936, tolerance = 0.0 }           the targets' MLPs, which sharing must save

    [smollm2-135m.cortex-a76]                                           the place: host, a phone profile, a phone
    forward_instructions = { at_most = 250_000_000, tolerance = 0.01 }  one token

A budget holds while value ≤ at_most · (1 + tolerance), or value ≥ at_least · (1 − tolerance).
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Annotated

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, ValidationError
from tomlkit.exceptions import TOMLKitError

from sharp_mobile.errors import SharpError, first_problem
from sharp_mobile.files.fields import LARGEST
from sharp_mobile.files.json_file import read_text
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.shipped import shipped

BUDGETS_TOML = Path("export/budgets.toml")

Limit = Annotated[int, Field(ge=0, le=LARGEST)]
Tolerance = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AtMost(_Data):
    """An upper limit, and the fraction by which a value may exceed it."""

    at_most: Limit
    tolerance: Tolerance

    def holds(self, value: int) -> bool:
        """Whether a value is within the budget."""
        return value <= self.at_most * (1 + self.tolerance)

    def __str__(self) -> str:
        return f"at most {self.at_most:,}" + (f" + {100 * self.tolerance:.3g}%" if self.tolerance else "")


class AtLeast(_Data):
    """A lower limit, and the fraction by which a value may fall below it."""

    at_least: Limit
    tolerance: Tolerance

    def holds(self, value: int) -> bool:
        """Whether a value is within the budget."""
        return value >= self.at_least * (1 - self.tolerance)

    def __str__(self) -> str:
        return f"at least {self.at_least:,}" + (f" - {100 * self.tolerance:.3g}%" if self.tolerance else "")


Budget = AtMost | AtLeast

# A budget's name, after its place if it has one: ("file_bytes",), ("cortex-a76", "forward_instructions").
Key = tuple[str, ...]


class PlaceBudgets(_Data):
    """The budgets of one place: resident bytes after load and a forward pass, peak bytes, emulated instructions."""

    resident_bytes: AtMost | None = None
    peak_bytes: AtMost | None = None
    load_first_instructions: AtMost | None = None
    load_later_instructions: AtMost | None = None
    forward_instructions: AtMost | None = None
    prefill_instructions: AtMost | None = None


class ExportBudgets(BaseModel):
    """The budgets of one recipe: the file, the bytes that sharing saves, and the budgets of each place."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, PlaceBudgets]

    file_bytes: AtMost | None = None
    shared_bytes: AtLeast | None = None

    def by_key(self) -> dict[Key, Budget]:
        """All budgets by key."""
        own = {(name,): getattr(self, name) for name in type(self).model_fields}
        of_places = {
            (place, name): getattr(budgets, name)
            for place, budgets in self.__pydantic_extra__.items()
            for name in PlaceBudgets.model_fields
        }
        return {key: budget for key, budget in (own | of_places).items() if budget is not None}


class _BudgetsFile(RootModel[dict[str, ExportBudgets]]):
    pass


# The tolerance of a new budget. The last digits of a fit differ between machines, but change neither sizes nor sharing.
# Memory depends a little on the system, and the emulated libraries depend on its compiler.
_TOLERANCES = {"file_bytes": 0.002, "shared_bytes": 0.0, "resident_bytes": 0.05, "peak_bytes": 0.05}
_INSTRUCTIONS = 0.01


def budgets_file(name: str) -> Path:
    """The file with the budgets of a recipe: ./export/budgets.toml, unless only the shipped file has them.

    Raises:
        SharpError: ./export/budgets.toml cannot be read.
    """
    own = shipped("export") / BUDGETS_TOML.name
    if not os.path.lexists(BUDGETS_TOML):
        return own
    return own if name not in _parse(BUDGETS_TOML) and name in _parse(own) else BUDGETS_TOML


def read_budgets(path: Path, name: str) -> ExportBudgets:
    """The budgets of an export's recipe.

    Raises:
        SharpError: the file is missing or wrong, or has no budgets for that name.
    """
    content = _parse(path).unwrap()
    try:
        budgets = _BudgetsFile.model_validate(content).root
    except ValidationError as error:
        raise SharpError(f"{path}: {first_problem(error)}; {_way_out(error.errors()[0]['type'])}") from error
    if name not in budgets:
        raise SharpError(f"{path}: has no budgets for {name}, only for {', '.join(budgets)}; write them with --update")
    return budgets[name]


def update_budgets(path: Path, name: str, values: Mapping[Key, int]) -> None:
    """Write measured values as budgets; comments, tolerances and all other budgets stay.

    Args:
        path: the file; it is created if missing.
        name: the export's recipe.
        values: the new budgets.

    Raises:
        SharpError: the file is not TOML, or cannot be written.
    """
    document = _parse(path) if os.path.lexists(path) else tomlkit.document()
    for (*place, budget), value in values.items():
        table: MutableMapping[str, object] = document
        for part in (name, *place):
            inner = table.setdefault(part, tomlkit.table())
            if not isinstance(inner, MutableMapping):
                raise SharpError(f"{path}: {part} must be a table of budgets; correct it")
            table = inner
        if value == 0:  # a budget of 0 shared bytes would check nothing
            table.pop(budget, None)
            continue
        if not _is_budget(table.get(budget)):
            table[budget] = tomlkit.inline_table()
        entry = table[budget]
        assert isinstance(entry, MutableMapping)  # every budget is one
        limit = "at_least" if budget == "shared_bytes" else "at_most"
        entry[limit] = tomlkit.value(f"{value:_}")
        entry.setdefault("tolerance", _TOLERANCES.get(budget, _INSTRUCTIONS))
    replace_text(path, tomlkit.dumps(document))


def _parse(path: Path) -> tomlkit.TOMLDocument:
    if not os.path.lexists(path):
        raise SharpError(f"{path}: there is no such file; write budgets with --update")
    text = read_text(path)
    try:
        document = tomlkit.parse(text)
        document.unwrap()  # raises on duplicate keys
    except RecursionError as error:
        raise SharpError(f"{path}: is nested too deeply; correct it") from error
    except (TOMLKitError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        # tomlkit raises other errors than its own for some mistakes: numbers of 4,300 digits, keys under a number.
        raise SharpError(f"{path}: is not TOML: {error}; correct it") from error
    return document


def _is_budget(entry: object) -> bool:
    """Whether an entry is a valid budget, so that its tolerance stays."""
    try:
        TypeAdapter(Budget).validate_python(entry)
    except ValidationError:
        return False
    return True


def _way_out(kind: str) -> str:
    if kind == "extra_forbidden":
        known = [*ExportBudgets.model_fields, *PlaceBudgets.model_fields]
        return f"budgets are {', '.join(known)}, each with at_most (shared_bytes: at_least) and tolerance"
    return "correct it, or write it again with --update"
