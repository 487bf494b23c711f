"""Layer studies: how much each MLP matters, and how well another one stands in for it (paper, Figures 2, 3 and 4).

    fig2    one reference's MLP in the place of one target's, nothing recovered: perplexity
    fig3    ‖Θ_{l+1} − Θ_l‖ / ‖Θ_l‖ of gate, up and down, and their means over the layers
    fig4    one MLP answers zero: perplexity, and the scores in a downstream task

Replacing the MLP of layer l changes nothing before it, so the hidden states that enter layer l are computed once and
only the layers from l on are run again:

    window ─► 1 ─► … ─► l−1 ─► [kept] ─► l with another MLP ─► … ─► N ─► perplexity

Every value is written to the study's JSON as soon as it is known; a study that was interrupted goes on from there.
Layers are 1-based in the files and pictures, as in the paper.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.console import progress_bar
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.files.json_file import parse_json, read_text
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.model.modules import MLPWeights, NoMLP, decoder_layers, mlp_weights
from sharp_mobile.model.share import shared_layers
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder

FIGURES = ("fig2", "fig3", "fig4")
Pairs = Literal["adjacent", "all"]
Score = Callable[[], dict[str, float]]


class _Data(BaseModel):
    # Perplexities can be infinite, which JSON has no number for.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Setting(_Data):
    """What a study was made of; a file goes on only with the same.

    Attributes:
        model, fingerprint: the checkpoint's name and fingerprint.
    """

    model: str
    fingerprint: str


class TextSetting(Setting):
    """The same for a study that measures perplexity.

    Attributes:
        text: source of the windows; window: tokens in one; windows: how many.
        task, limit: of fig4, a downstream task beside perplexity, and how many of its questions; None for all.
    """

    text: str
    window: int
    windows: int
    task: str | None = None
    limit: int | None = None


class Study(_Data):
    """What all studies have: the setting, the model's layers and the seconds that the values took."""

    figure: str = ""
    setting: Setting
    layers: int
    seconds: float = 0.0


class Pair(_Data):
    """Perplexity with the MLP of layer `target` replaced by that of layer `reference`."""

    reference: int
    target: int
    perplexity: float


class ReplacementStudy(Study):
    """Figure 2; `original` is the unchanged model's perplexity."""

    figure: Literal["fig2"] = "fig2"
    setting: TextSetting
    original: float | None = None
    pairs: list[Pair] = []


class Distance(_Data):
    """‖Θ_{l+1} − Θ_l‖ / ‖Θ_l‖ (Frobenius) of layer l's projections."""

    layer: int
    gate: float
    up: float
    down: float


class DistanceStudy(Study):
    """Figure 3; `mean` has the means over the layers, by projection."""

    figure: Literal["fig3"] = "fig3"
    distances: list[Distance] = []
    mean: dict[str, float] = {}


class Zeroed(_Data):
    """Perplexity, and a task's scores by metric, with the MLP of `layer` answering zero."""

    layer: int
    perplexity: float
    scores: dict[str, float] = {}


class ZeroingStudy(Study):
    """Figure 4; `original` is the unchanged model's perplexity, `original_scores` are its scores."""

    figure: Literal["fig4"] = "fig4"
    setting: TextSetting
    original: float | None = None
    original_scores: dict[str, float] = {}
    zeroed: list[Zeroed] = []


S = TypeVar("S", bound=Study)
T = TypeVar("T")


class ReplacedPerplexity:
    """Perplexity of a model on windows with one layer's MLP replaced, at the cost of the layers from there on.

    Args:
        model: a Hugging Face model in eval mode.
        windows: tokens, int64 [windows, T]; their hidden states are kept, in [windows, T, hidden].
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, windows: torch.Tensor) -> None:
        self._decoder = LayerwiseDecoder(model, windows[:1])
        self._layers: Any = decoder_layers(model)
        self._windows = windows
        self._hidden = torch.cat([self._decoder.embed(window[None]) for window in windows])
        self._layer = 0

    @torch.no_grad()
    def advance(self, layer: int) -> None:
        """Make `layer` (0-based, not before the present one) the layer whose MLP is replaced."""
        for index in range(self._layer, layer):
            for number, hidden in enumerate(self._hidden):
                self._hidden[number] = self._decoder.layer(index, hidden[None])[0]
        self._layer = layer

    def __call__(self, mlp: nn.Module | None = None) -> float:
        """Perplexity with `mlp` in the present layer; with its own if None."""
        layer = self._layers[self._layer]
        own, layer.mlp = layer.mlp, layer.mlp if mlp is None else mlp
        states = iter(self._hidden)
        try:
            return perplexity(lambda tokens: self._rest(next(states)[None]), self._windows).value
        finally:
            layer.mlp = own

    def _rest(self, hidden: torch.Tensor) -> torch.Tensor:
        for index in range(self._layer, len(self._decoder)):
            hidden = self._decoder.layer(index, hidden)
        return self._decoder.logits(hidden)


def replacement_study(
    model: PreTrainedModel, windows: torch.Tensor, setting: TextSetting, path: Path, *, pairs: Pairs = "adjacent"
) -> ReplacementStudy:
    """Figure 2: perplexity when one reference's MLP stands in for one later target's, nothing recovered.

    Args:
        windows: tokens, int64 [windows, T].
        path: the JSON; values in it are not computed again.
        pairs: each layer and the next (the paper's left panel), or all N(N−1)/2 (right panel).

    Raises:
        SharpError: the model shares already, or the file belongs to another study.
    """
    layers = _unshared(model)
    study = _read(path, ReplacementStudy, setting, len(layers))
    done = {(pair.reference, pair.target) for pair in study.pairs}
    # Target by target, because the hidden states move on with the target.
    wanted = [(r, t) for t in range(1, len(layers)) for r in (range(t) if pairs == "all" else (t - 1,))]
    todo = [(r, t) for r, t in wanted if (r + 1, t + 1) not in done]
    if not todo:
        return study
    measure = ReplacedPerplexity(model, windows)
    with _saving(study, path) as save:
        if study.original is None:
            study.original = measure()
        for reference, target in _bar(todo, "pair"):
            measure.advance(target)
            value = measure(layers[reference].mlp)
            study.pairs.append(Pair(reference=reference + 1, target=target + 1, perplexity=value))
            save()
    return study


def distance_study(model: PreTrainedModel, setting: Setting, path: Path) -> DistanceStudy:
    """Figure 3: how far apart the weights of adjacent MLPs are, relative to their norms. Reads no text.

    Raises:
        SharpError: the model shares already, the file belongs to another study, or its MLPs differ in shape.
    """
    layers = _unshared(model)
    study = _read(path, DistanceStudy, setting, len(layers))
    with _saving(study, path):
        weights = [mlp_weights(layer.mlp) for layer in layers]
        study.distances = [
            Distance(layer=number, **_relative_distances(here, there))
            for number, (here, there) in enumerate(pairwise(weights), start=1)
        ]
        study.mean = {
            name: sum(getattr(distance, name) for distance in study.distances) / len(study.distances)
            for name in ("gate", "up", "down")
        }
    return study


def zeroing_study(
    model: PreTrainedModel, windows: torch.Tensor, setting: TextSetting, path: Path, *, score: Score | None = None
) -> ZeroingStudy:
    """Figure 4: perplexity, and a task's scores, with one MLP zeroed, layer after layer.

    Args:
        windows: tokens, int64 [windows, T].
        path: the JSON; values in it are not computed again.
        score: the present model's scores in the setting's task, by metric.

    Raises:
        SharpError: the model shares already, or the file belongs to another study.
    """
    layers = _unshared(model)
    study = _read(path, ZeroingStudy, setting, len(layers))
    done = {zeroed.layer for zeroed in study.zeroed}
    todo = [layer for layer in range(len(layers)) if layer + 1 not in done]
    if not todo:
        return study
    measure = ReplacedPerplexity(model, windows)
    with _saving(study, path) as save:
        if study.original is None:
            study.original = measure()
            study.original_scores = score() if score else {}
        for layer in _bar(todo, "layer"):
            measure.advance(layer)
            scores = _with_mlp(layers[layer], NoMLP(), score) if score else {}
            study.zeroed.append(Zeroed(layer=layer + 1, perplexity=measure(NoMLP()), scores=scores))
            save()
    return study


def _with_mlp(layer: Any, mlp: nn.Module, score: Score) -> dict[str, float]:
    own, layer.mlp = layer.mlp, mlp
    try:
        return score()
    finally:
        layer.mlp = own


def _unshared(model: PreTrainedModel) -> Any:
    """The decoder layers of a model in which nothing is shared, two at least."""
    if shared_layers(model):
        raise SharpError("study: this model's layers already share; give the original model")
    layers = decoder_layers(model)
    if len(layers) < 2:
        raise SharpError("study: this model has only one layer, so there is nothing to compare; use a larger model")
    return layers


def _read(path: Path, kind: type[S], setting: Setting, layers: int) -> S:
    """The study so far, or an empty one."""
    if not os.path.lexists(path):
        return kind(setting=setting, layers=layers)
    try:
        study = kind.model_validate(parse_json(read_text(path), path))
        _check_whole(study, layers)
    except (SharpError, ValueError) as error:
        what = kind.model_fields["figure"].default
        raise SharpError(f"{path}: is not a {what} study; move it away, or name another --out") from error
    if study.setting != setting:
        names = [name for name, value in study.setting if value != getattr(setting, name)]
        raise SharpError(f"{path}: was made with another {', '.join(names)}; move it away, or name another --out")
    return study


def _check_whole(study: Study, layers: int) -> None:
    """Refuse a file whose values cannot be those of this model: of other layers, twice, or without the original's.

    Raises:
        ValueError: it is such a file.
    """
    if study.layers != layers:
        raise ValueError(f"is of {study.layers} layers")
    places: list[tuple[int, ...]] = []
    original: float | None = 1.0
    match study:
        case ReplacementStudy():
            places, original = [(pair.reference, pair.target) for pair in study.pairs], study.original
        case ZeroingStudy():
            places, original = [(zeroed.layer,) for zeroed in study.zeroed], study.original
    if len(set(places)) < len(places) or any(not 1 <= layer <= layers for place in places for layer in place):
        raise ValueError("has a layer twice, or one that is not there")
    if places and original is None:
        raise ValueError("lacks the original's perplexity")


@contextmanager
def _saving(study: Study, path: Path) -> Iterator[Callable[[], None]]:
    """Gives a function that writes the study as it is now; the seconds of earlier runs are kept."""
    before, started = study.seconds, time.monotonic()

    def save() -> None:
        study.seconds = before + time.monotonic() - started
        replace_text(path, study.model_dump_json(indent=1) + "\n")

    yield save
    save()


def _relative_distances(here: MLPWeights, there: MLPWeights) -> dict[str, float]:
    if [weight.shape for weight in here] != [weight.shape for weight in there]:
        raise SharpError("fig3: this model's MLPs differ in shape, so their weights have no distance")
    names = zip(here._fields, here, there, strict=True)
    return {name: ((after - before).norm() / before.norm()).item() for name, before, after in names}


def _bar(items: list[T], unit: str) -> Iterable[T]:
    return progress_bar(items, unit=unit)
