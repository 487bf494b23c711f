"""Finding and reading recipes: what the command's MODEL argument means, with the settings that override it."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sharp_mobile.errors import SharpError, joined
from sharp_mobile.files.packaged import PACKAGED_MODELS
from sharp_mobile.files.yaml_file import read_yaml
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import SHARP_JSON, SharpDescription
from sharp_mobile.recipe.source import HUB_ID, RANDOM, checkpoint_name
from sharp_mobile.shipped import shipped

# The section of every setting; the names are different in all sections, so an option of the command needs no section.
_SECTIONS = {
    setting: section
    for section, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    for setting in field.annotation.model_fields
}


def load_recipe(argument: str, **overrides: Any) -> Recipe:
    """The recipe that the command's MODEL argument means.

    Args:
        argument: a recipe's name (`smollm2-135m`, looked for in ./export and among those of sharp-mobile), a .yaml
            file, or a model (packaged name, directory, .gguf file, hub id), which gets the default settings; nothing
            is shared then, unless the model is a SHARP checkpoint.
        overrides: settings by their own names, without the section (`rank=32`, `max_length=512`; the bits of recovery
            parameters are `recovery`); None leaves the recipe's.

    Raises:
        SharpError: the argument is nothing of these, the file is no YAML, or a field does not exist or has a wrong
            value.
        TypeError: an override is no setting.
    """
    path = recipe_file(argument)
    if path is not None:
        return _validated(_read_yaml(path), overrides, str(path))
    if not _looks_like_model(argument):
        raise SharpError(
            f"{argument}: no recipe, file or directory of that name; recipes are {', '.join(recipe_files())}; or give "
            "a .yaml file, a Hugging Face directory, a .gguf file or a hub id (org/name)"
        )
    return _validated({"model": argument, **_settings_of(_expanded(argument))}, overrides, argument)


def _settings_of(path: Path) -> dict[str, Any]:
    """Plan, recovery and rounding of a model without a recipe: a SHARP checkpoint's own; else nothing is shared.

    What was recovered for weights that are rounded to the nearest must not meet others.
    """
    if not (path / SHARP_JSON).is_file():
        return {"plan": "none", "quantize": {"rounding": "auto"}}
    description = SharpDescription.read(path / SHARP_JSON)
    recovered_in_float = description.produced_by.get("quantization_aware") is False
    return {
        "plan": description.plan,
        "recovery": {"layers": description.recovery},
        "quantize": {"rounding": "auto" if recovered_in_float else "nearest"},
    }


def recipe_name(argument: str) -> str:
    """A short name for what `load_recipe` takes: the recipe's, or the last part of a path or hub id."""
    return re.sub(r"\.ya?ml$", "", checkpoint_name(argument))


def recipe_files() -> dict[str, Path]:
    """The recipes by name: those of ./export before those of sharp-mobile."""
    directories = [shipped("export"), Path("export")]  # the later one wins
    found = {file.stem: file for directory in directories for file in sorted(directory.glob("*.yaml"))}
    return dict(sorted(found.items()))


def recipe_file(argument: str) -> Path | None:
    """The file of the recipe that the command's MODEL argument names; None if it names a model."""
    if Path(argument).suffix in (".yaml", ".yml"):
        return _expanded(argument)
    return recipe_files().get(argument)


def _expanded(argument: str) -> Path:
    try:
        return Path(argument).expanduser()
    except RuntimeError:  # ~ of a user who does not exist
        return Path(argument)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _looks_like_model(argument: str) -> bool:
    return (
        argument in PACKAGED_MODELS
        or argument.startswith(RANDOM)
        or _exists(_expanded(argument))
        or HUB_ID.fullmatch(argument) is not None
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold fields such as `model: smollm2-135m-instruct`; see {_example()}")
    return content


def _example() -> str:
    return str(recipe_files().get("smollm2-135m", "the README"))


def _validated(content: dict[str, Any], overrides: dict[str, Any], source: str) -> Recipe:
    for name, value in overrides.items():
        if name in _SECTIONS:
            section = content.setdefault(_SECTIONS[name], {}) if value is not None else {}
            if isinstance(section, dict):  # else its own validation speaks
                section[name] = value
        elif name not in ("model", "plan"):
            raise TypeError(f"{name} is no setting of a recipe; choose from {', '.join(_SECTIONS)}")
        elif value is not None:
            content[name] = value
    try:
        return Recipe(**content)
    except (ValidationError, TypeError) as error:
        raise SharpError(f"{source}: {_explain(error)}") from error


def _explain(error: ValidationError | TypeError) -> str:
    """The first of pydantic's complaints as `field: what is wrong; the way out`."""
    if isinstance(error, TypeError):  # a field's name that is no text
        return f"{error}; field names are words"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    if first["type"] == "extra_forbidden":
        return joined(f"{where}: no such field; {_fields_beside(first['loc'])}")
    if first["type"] == "missing":
        return joined(f"{where}: is missing; add it")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_type":
        message += " (put it in quotes: YAML takes 3:4 for a time of day)"
    given = "" if first["type"] == "value_error" else f", not {first['input']!r:.100}"
    return joined(f"{where}: {message}{given}" if where else message)


def _fields_beside(location: tuple[int | str, ...]) -> str:
    model = Recipe if len(location) == 1 else Recipe.model_fields[str(location[0])].annotation
    return f"choose from {', '.join(model.model_fields)}" if isinstance(model, type) else ""
