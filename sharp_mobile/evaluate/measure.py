"""The command `evaluate`: the same measurements of a model before and after quantization and lowering.

    float, eager ─► quantized, eager (the cost of quantization) ─► quantized, .pte (the cost of lowering: none)

Each form is a step function. Perplexity uses the same windows for every form, and tasks the same questions. Every form
but the original itself is also compared with it token by token (see `evaluate.divergence`).
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sharp_mobile.console import warn
from sharp_mobile.decoder.eager import eager_step
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.divergence import Divergence, OriginalLogits, diverging
from sharp_mobile.evaluate.perplexity import Perplexity, perplexity
from sharp_mobile.evaluate.step import ModelStep
from sharp_mobile.evaluate.tasks import describe, load_tasks, score
from sharp_mobile.evaluate.tokenizer import read_tokenizer, stop_tokens
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.lower.run import write_pte
from sharp_mobile.pte.runtime import Step, load_pte, whole_window
from sharp_mobile.quantize.run import check_lowerable, make_decoder
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.run import RECOVERED, OpenedModel, open_recipe, share
from sharp_mobile.system.timing import Stages
from sharp_mobile.text.windows import check_length, source_windows
from sharp_mobile.verify.manifest import MODEL_PTE, PERPLEXITY_JSON, MeasuredPerplexity
from sharp_mobile.verify.opened import open_program

_WINDOW = 512  # the default number of tokens


@dataclass(frozen=True)
class EvaluationOptions:
    """The forms of a recipe's model to measure in addition to the float one.

    Args:
        quantized: also measure the quantized model in eager mode.
        pte: also measure the quantized model through a temporary `.pte`.
        work: the directory that stores recovered models.
    """

    quantized: bool = False
    pte: bool = False
    work: Path = RECOVERED


@dataclass(frozen=True)
class Form:
    """One form of a model: a step function that gives the logits of all its tokens."""

    name: str
    step: Step


def evaluate(recipe: Recipe, text: str, window: int | None, count: int, wanted: EvaluationOptions) -> Iterator[str]:
    """Perplexity of a recipe's model and its divergence from the original: a line per form, as soon as it is measured.

    The original is the float model before layers are shared; of a SHARP checkpoint, which no longer has it, the float
    form.

    Args:
        text, window, count: see `text.windows.source_windows`; the default window is 512 tokens, or the model's limit.

    Raises:
        SharpError: as for an export; the model has no tokenizer.
    """
    _check_windows(window, count)
    recipe, opened = _open(recipe, wanted, max_length=(window or _WINDOW) + 1, shorten=window is None)
    window = window or recipe.lower.max_length - 1
    check_length(window, opened.checkpoint.config)
    tokenizer = opened.checkpoint.tokenizer_for("evaluate")
    windows = source_windows(tokenizer, text, window, count)
    model, shares = opened.checkpoint.model, bool(opened.recovery) and opened.checkpoint.plan is None
    if not (shares or wanted.quantized or wanted.pte):  # only the original itself
        for form in _forms(recipe, opened, wanted):
            yield str(Measured(form.name, perplexity(whole_window(form.step), windows), text, *windows.shape))
        return
    with tempfile.TemporaryDirectory(prefix="sharp-mobile-") as directory:
        original = OriginalLogits(Path(directory, "original"), windows, opened.checkpoint.config.vocab_size)
        if shares:
            original.measure(whole_window(ModelStep(model.float())), windows)
        for number, form in enumerate(_forms(recipe, opened, wanted)):
            step, divergence = whole_window(form.step), None
            if number == 0 and not shares:
                scored = original.measure(step, windows)
            else:
                scored, divergence = diverging(step, windows, original)
            yield str(Measured(form.name, scored, text, len(windows), window, divergence))


def evaluate_tasks(
    recipe: Recipe, names: Sequence[str], limit: int | None, include_path: Sequence[Path], wanted: EvaluationOptions
) -> Iterator[str]:
    """Task scores of a recipe's model: a line per form and task.

    Args:
        names, include_path: see `tasks.load_tasks`.
        limit: use only this many first questions of each task.

    Raises:
        SharpError: as for an export and as `tasks.load_tasks`; the model has no tokenizer.
    """
    tasks = load_tasks(names, include_path)
    recipe, opened = _open(
        recipe, wanted, recipe.lower.max_length, shorten="max_length" not in recipe.lower.model_fields_set
    )
    longest = min(recipe.lower.max_length - 1, opened.checkpoint.config.max_position_embeddings)
    tokenizer, stop = opened.checkpoint.tokenizer_for("evaluate"), opened.checkpoint.eos_token_ids
    for form in _forms(recipe, opened, wanted):
        scores = score(tasks, form.step, tokenizer, max_length=longest, stop=stop, limit=limit)
        yield from (f"{form.name}: {line}" for line in describe(scores))


@dataclass(frozen=True)
class Measured:
    """The perplexity of one form of a model (`name`), measured on windows of `window` tokens of a text.

    divergence: from the float original, where it was there to compare with.
    """

    name: str
    perplexity: Perplexity
    text: str
    windows: int
    window: int
    divergence: Divergence | None = None

    def __str__(self) -> str:
        on = f"{self.text}, {self.windows} windows of {self.window}, {self.perplexity.tokens} tokens scored"
        apart = "" if self.divergence is None else f"; from the float original: {self.divergence}"
        return f"{self.name}: perplexity {self.perplexity.value:.3f} ({on}){apart}"


def evaluate_pte(path: Path, text: str, window: int | None, count: int) -> Measured:
    """Perplexity of a `.pte` or an export, with the tokenizer next to it.

    An export's perplexity is also written to its perplexity.json, which `compare` reads.

    Args:
        text, count: see `text.windows.source_windows`.
        window: tokens; by default 512, or the cache's length if that is less.

    Raises:
        SharpError: as `open_program`; there is no `.pte` or tokenizer, or the window exceeds the cache.
    """
    _check_windows(window, count)
    tokenizer = read_tokenizer(path)
    with open_program(path) as program:
        for warning in program.warnings:
            warn(warning)
        window = window or min(_WINDOW, program.limits.length)
        if window > program.limits.length:
            raise SharpError(
                f"window {window}: {program.pte} has a cache of {program.limits.length} tokens; "
                f"use a window of {program.limits.length} or less"
            )
        windows = source_windows(tokenizer, text, window, count)
        scored = perplexity(whole_window(program.step), windows)
    measured = Measured(str(program.pte), scored, text, *windows.shape)
    if program.sha256 is not None and math.isfinite(scored.value):
        record = MeasuredPerplexity(
            sha256=program.sha256,
            perplexity=scored.value,
            text=text,
            windows=measured.windows,
            window=measured.window,
            tokens=scored.tokens,
        )
        replace_text(program.pte.with_name(PERPLEXITY_JSON), record.model_dump_json(indent=1) + "\n")
    return measured


def evaluate_pte_tasks(path: Path, names: Sequence[str], limit: int | None, include_path: Sequence[Path]) -> list[str]:
    """Task scores of a `.pte` or an export: a line per task.

    Args:
        names, include_path: see `tasks.load_tasks`.
        limit: use only this many first questions of each task.

    Raises:
        SharpError: as `open_program` and `tasks.load_tasks`; there is no `.pte` or tokenizer.
    """
    tokenizer = read_tokenizer(path)
    tasks = load_tasks(names, include_path)
    with open_program(path) as program:
        for warning in program.warnings:
            warn(warning)
        scores = score(
            tasks,
            program.step,
            tokenizer,
            max_length=program.limits.length - 1,
            stop=stop_tokens(program, tokenizer),
            limit=limit,
        )
    return [f"{program.pte}: {line}" for line in describe(scores)]


def _check_windows(window: int | None, count: int) -> None:
    if window is not None and window < 2:
        raise SharpError(f"window {window}: leaves no token to predict; use 2 or more")
    if count < 1:
        raise SharpError(f"windows {count}: measure on 1 window or more")


def _open(recipe: Recipe, wanted: EvaluationOptions, max_length: int, *, shorten: bool) -> tuple[Recipe, OpenedModel]:
    """The recipe with `max_length` positions and all logits, and its checkpoint; checked before the long work.

    Args:
        shorten: limit the positions to those that the model has.
    """
    opened = open_recipe(recipe, work=wanted.work)
    longest = opened.checkpoint.config.max_position_embeddings
    length = min(longest, max_length) if shorten else max_length
    lower = opened.recipe.lower.model_copy(update={"max_length": length, "logits": "all"})
    opened = replace(opened, recipe=opened.recipe.model_copy(update={"lower": lower}))
    if wanted.quantized or wanted.pte:
        check_lowerable(opened.recipe, opened.checkpoint)
    return opened.recipe, opened


def _forms(recipe: Recipe, opened: OpenedModel, wanted: EvaluationOptions) -> Iterator[Form]:
    stages = Stages()
    shared = share(opened, work=wanted.work, stages=stages)
    yield Form("float, eager", ModelStep(shared.checkpoint.model))
    if not (wanted.quantized or wanted.pte):
        return
    decoder = make_decoder(recipe, shared.checkpoint, stages)
    if wanted.quantized:
        yield Form("quantized, eager", eager_step(decoder))
    if wanted.pte:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, MODEL_PTE)
            write_pte(decoder, shared.checkpoint, path, stages)
            yield Form("quantized, .pte", load_pte(path))
