"""The command `study`: run a layer study of a model and draw it."""

from pathlib import Path

import torch

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.step import ModelStep
from sharp_mobile.evaluate.tasks import load_tasks
from sharp_mobile.evaluate.tasks import score as score_tasks
from sharp_mobile.paper.studies import (
    DistanceStudy,
    Pairs,
    ReplacementStudy,
    Score,
    Setting,
    Study,
    TextSetting,
    ZeroingStudy,
    distance_study,
    replacement_study,
    zeroing_study,
)
from sharp_mobile.paper.study_pictures import draw
from sharp_mobile.recipe.source import Source
from sharp_mobile.text.windows import read_text, token_windows


def study(
    figure: str,
    model: Source,
    out: Path,
    *,
    text: str,
    window: int,
    count: int,
    pairs: Pairs,
    task: str | None = None,
    limit: int | None = None,
) -> list[str]:
    """Run `fig2`, `fig3` or `fig4` of a model in the directory `out`; existing measurements are reused.

    Args:
        text, window, count: see `text.windows`; fig3 needs no text.
        pairs: for fig2, see `replacement_study`.
        task, limit: for fig4, a task of `evaluate.tasks` and the number of its questions.

    Returns:
        The findings in a few lines, layers 1-based.

    Raises:
        SharpError: the checkpoint or text is wrong, or `out` has files of another study.
    """
    if task is not None and figure != "fig4":
        raise SharpError(f"{figure}: has no task; use it with fig4")
    checkpoint = open_checkpoint(model)
    setting = {"model": checkpoint.name, "fingerprint": checkpoint.fingerprint}
    path, picture = out / f"{figure}.json", out / f"{figure}.png"
    if figure == "fig3":
        result: Study = distance_study(checkpoint.model, Setting(**setting), path)
    else:
        with_text = TextSetting(**setting, text=text, window=window, windows=count, task=task, limit=limit)
        windows = _windows(checkpoint, with_text)
        if figure == "fig2":
            result = replacement_study(checkpoint.model, windows, with_text, path, pairs=pairs)
        else:
            score = None if task is None else _task(checkpoint, task, limit)
            result = zeroing_study(checkpoint.model, windows, with_text, path, score=score)
    draw(result, picture)
    return [*describe(result), f"{path}, {picture}"]


def describe(study: Study) -> list[str]:
    """The findings of a study in a few lines, layers 1-based."""
    match study:
        case ReplacementStudy():
            best = sorted(study.pairs, key=lambda pair: pair.perplexity)
            values = [f"{pair.reference}:{pair.target} {pair.perplexity:.1f}" for pair in best]
            what = "one target's MLP replaced by one reference's (reference:target)"
        case ZeroingStudy():
            least = sorted(study.zeroed, key=lambda zeroed: zeroed.perplexity)
            values = [f"{zeroed.layer} {zeroed.perplexity:.1f}" for zeroed in least]
            what = "one MLP zeroed (layer)"
        case DistanceStudy():
            means = ", ".join(f"{name} {mean:.3f}" for name, mean in study.mean.items())
            return [f"mean relative distance of adjacent layers' weights: {means}"]
        case _:
            raise TypeError(f"{type(study).__name__} is not a study")
    ends = f"least harm: {', '.join(values[:5])}; most: {', '.join(values[-3:])}"
    return [f"perplexity {study.original:.2f}; with {what}: {ends}"]


def _task(checkpoint: Checkpoint, name: str, limit: int | None) -> Score:
    """A function that measures the current scores of a checkpoint's model, by metric."""
    tokenizer = checkpoint.tokenizer_for(f"task {name}")
    tasks, step = load_tasks([name]), ModelStep(checkpoint.model)

    def score() -> dict[str, float]:
        length = checkpoint.config.max_position_embeddings
        stop = checkpoint.eos_token_ids
        scores = score_tasks(tasks, step, tokenizer, max_length=length, stop=stop, limit=limit)
        return {score.metric if score.task == name else f"{score.task} {score.metric}": score.value for score in scores}

    return score


def _windows(checkpoint: Checkpoint, setting: TextSetting) -> torch.Tensor:
    tokenizer = checkpoint.tokenizer_for("a study of perplexity")
    return token_windows(tokenizer, read_text(setting.text), setting.window, setting.windows)
