"""Architectures without weights: the config.json that `random:<config.json>` or `random:llama-2-7b` names."""

from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.recipe.source import Source
from sharp_mobile.shipped import shipped


def shape_file(source: Source) -> Path:
    """The file that `random:<config.json>` names, or `random:llama-2-7b` among those of `shape_files`.

    Raises:
        SharpError: there is none, or something else in its place.
    """
    path, shapes = source.path, shape_files()
    if str(path) in shapes:
        return shapes[str(path)]
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise SharpError(f"{path}: cannot be read: {error}") from error
    if not is_regular_file(path):
        raise SharpError(f"{path}: no such file; give the config.json of a model, or one of {', '.join(shapes)}")
    return path


def shape_files() -> dict[str, Path]:
    """The configurations without weights, by name: those of ./export/shapes before the shipped ones."""
    directories = [shipped("export") / "shapes", Path("export/shapes")]  # the later one wins
    return {file.stem: file for directory in directories for file in sorted(directory.glob("*.json"))}
