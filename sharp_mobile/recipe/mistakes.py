"""What is wrong with a recipe, in one line."""

from pydantic import BaseModel, ValidationError

from sharp_mobile.errors import joined

RENAMED = {"fragile": "eight_bit_budget"}


def explained(error: ValidationError, recipe: type[BaseModel]) -> str:
    """The first of pydantic's complaints about a recipe as `field: what is wrong; the way out`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    if first["type"] == "extra_forbidden" and first["loc"][-1] in RENAMED:
        return joined(f"{where}: is called {RENAMED[str(first['loc'][-1])]} now; rename it")
    if first["type"] == "extra_forbidden":
        return joined(f"{where}: no such field; {_fields_beside(first['loc'], recipe)}")
    if first["type"] == "missing":
        return joined(f"{where}: is missing; add it")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_type":
        message += " (put it in quotes: YAML takes 3:4 for a time of day)"
    given = "" if first["type"] == "value_error" else f", not {first['input']!r:.100}"
    return joined(f"{where}: {message}{given}" if where else message)


def _fields_beside(location: tuple[int | str, ...], recipe: type[BaseModel]) -> str:
    model = recipe if len(location) == 1 else recipe.model_fields[str(location[0])].annotation
    return f"choose from {', '.join(model.model_fields)}" if isinstance(model, type) else ""
