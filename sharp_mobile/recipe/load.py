"""Finding and reading recipes: what the command's MODEL argument means, with the settings that override it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel

from sharp_mobile.errors import SharpError
from sharp_mobile.files.yaml_file import read_yaml
from sharp_mobile.recipe.mistakes import RENAMED
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.sharp_json import SHARP_JSON, SharpDescription
from sharp_mobile.recipe.source import Source
from sharp_mobile.shipped import shipped

_SECTIONS = {
    section: field.annotation
    for section, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}

_RECIPE: Callable[..., Recipe] = Recipe  # of fields that nothing has checked yet: it does


def setting_sections() -> dict[str, list[str]]:
    """The sections that have a setting of each name; a name that one section alone has can be given without it."""
    found: dict[str, list[str]] = {}
    for section, model in _SECTIONS.items():
        for name in model.model_fields:
            found.setdefault(name, []).append(section)
    return found


def load_recipe(argument: str | Path, **overrides: object) -> Recipe:
    """The recipe that the command's MODEL argument means, or the `recipe` of a public function.

        >>> from sharp_mobile import load_recipe
        >>> load_recipe("smollm2-135m-t_next").plan
        't_next'
        >>> recipe = load_recipe("my-model", plan="2:3", rank=64, quantize={"recovery": 4})
        >>> recipe.recovery.rank, recipe.quantize.recovery
        (64, 4)

    Args:
        argument: a recipe's name (`smollm2-135m`, looked for in ./export and among those of sharp-mobile), a .yaml
            file, or a model (packaged name, directory, .gguf file, hub id), which gets the default settings; nothing
            is shared then, unless the model is a SHARP checkpoint.
        overrides: settings by their names where one section alone has the name (`rank=32`, `max_length=512`), several
            of a section (`quantize={"recovery": 4}`), or one by its path (`**{"quantize.recovery": 4}`); None leaves
            the recipe's.

    Raises:
        SharpError: the argument is nothing of these, the file is no YAML, or a field or an override does not exist or
            has a wrong value.
    """
    argument = str(argument)
    path = recipe_file(argument)
    if path is not None:
        return _validated(_read_yaml(path), overrides, str(path))
    if Source(argument).kind == "nothing":
        raise SharpError(
            f"{argument}: no recipe, file or directory of that name; recipes are {', '.join(recipe_files())}; or give "
            "a .yaml file, a Hugging Face directory, a .gguf file or a hub id (org/name)"
        )
    return _validated({"model": argument, **_settings_of(Source(argument).path)}, overrides, argument)


def _settings_of(path: Path) -> dict[str, object]:
    """Plan, recovery and rounding of a model without a recipe: a SHARP checkpoint's own; else the defaults."""
    if not (path / SHARP_JSON).is_file():
        return {}
    description = SharpDescription.read(path / SHARP_JSON)
    return {
        "plan": description.plan,
        "recovery": {"layers": description.recovery},
        "quantize": {} if description.recovered_in_float else {"rounding": "nearest"},
    }


def recipe_name(argument: str) -> str:
    """A short name for what `load_recipe` takes: the recipe's, or the last part of a path or hub id."""
    return re.sub(r"\.ya?ml$", "", Source(argument).name)


def recipe_files() -> dict[str, Path]:
    """The recipes by name: those of ./export before those of sharp-mobile."""
    directories = [shipped("export"), Path("export")]  # the later one wins
    found = {file.stem: file for directory in directories for file in sorted(directory.glob("*.yaml"))}
    return dict(sorted(found.items()))


def recipe_file(argument: str) -> Path | None:
    """The file of the recipe that the command's MODEL argument names; None if it names a model."""
    if Path(argument).suffix in (".yaml", ".yml"):
        return Source(argument).path
    return recipe_files().get(argument)


def _read_yaml(path: Path) -> dict[str, object]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold fields such as `model: smollm2-135m-instruct`; see {_example()}")
    return content


def _example() -> str:
    return str(recipe_files().get("smollm2-135m", "the README"))


def _validated(content: dict[str, object], overrides: dict[str, object], source: str) -> Recipe:
    for path, value in _one_by_one(overrides):
        section, name = _setting(path)
        if value is None:
            continue
        if section is None:
            content[name] = value
        elif isinstance(own := content.setdefault(section, {}), dict):  # else its own validation speaks
            own[name] = value
    try:
        return _RECIPE(**content)
    except TypeError as error:  # a field's name that is no text
        raise SharpError(f"{source}: {error}; field names are words") from error
    except SharpError as error:
        raise SharpError(f"{source}: {error}") from error


def _one_by_one(overrides: dict[str, object]) -> Iterator[tuple[str, object]]:
    """Each setting with its value; several of a section come as a dictionary."""
    for name, value in overrides.items():
        if name in _SECTIONS and isinstance(value, dict):
            yield from ((f"{name}.{setting}", own) for setting, own in value.items())
        else:
            yield name, value


def _setting(path: str) -> tuple[str | None, str]:
    """Section and name of a setting, which is given by its path or by its name alone."""
    if path in ("model", "plan", "share"):
        return None, path
    section, dot, name = path.rpartition(".")
    known = setting_sections()
    if not dot and len(known.get(name, [])) == 1:
        return known[name][0], name
    if not dot and name in known:
        raise SharpError(
            f"{name} is a setting of several sections; write {' or '.join(f'{s}.{name}' for s in known[name])}"
        )
    if name in RENAMED:
        raise SharpError(f"{path}: is called {RENAMED[name]} now; rename it")
    if section not in known.get(name, []):
        raise SharpError(f"{path} is not a setting of a recipe; choose from {', '.join(known)}")
    return section, name
