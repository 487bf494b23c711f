"""SHARP on phones: share adjacent layers' MLP weights, recover the loss, export to ExecuTorch, measure.

    >>> from sharp_mobile import load_recipe, open_export, predict_size
    >>> recipe = load_recipe("my-model", plan="2:3", rank=32)
    >>> size, phone = predict_size(recipe), open_export("build/exports/mine")
    >>> abs(phone.manifest.sizes.file - size.file.total) < 0.01 * size.file.total
    True

The names are imported when they are first used, so that `import sharp_mobile` loads neither PyTorch nor pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "Export",
    "Recipe",
    "SharePlan",
    "SharpError",
    "Size",
    "export",
    "load_recipe",
    "open_export",
    "predict_size",
    "recover",
]

if TYPE_CHECKING:
    from sharp_mobile.api import Export, export, open_export, predict_size, recover
    from sharp_mobile.errors import SharpError
    from sharp_mobile.recipe.load import load_recipe
    from sharp_mobile.recipe.plan import SharePlan
    from sharp_mobile.recipe.settings import Recipe
    from sharp_mobile.size_report import Size
else:  # hidden from type checkers, which would take any name for one of the package
    _ELSEWHERE = {
        "Recipe": "recipe.settings",
        "SharePlan": "recipe.plan",
        "SharpError": "errors",
        "Size": "size_report",
        "load_recipe": "recipe.load",
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
