"""Layer studies: the importance of each MLP, and how well another one replaces it (paper, Figures 2, 3 and 4).

    fig2    perplexity with one target's MLP replaced by one reference's, without recovery
    fig3    ‖Θ_{l+1} − Θ_l‖ / ‖Θ_l‖ of gate, up and down, and their means over the layers
    fig4    perplexity, and the scores in a downstream task, with one MLP zeroed

A new MLP in layer l leaves the layers before it unchanged, so the hidden states that enter layer l are computed once,
and only the layers from l on are run again:

    window ─► 1 ─► … ─► l−1 ─► [stored] ─► l with another MLP ─► … ─► N ─► perplexity

Every value is written to the study's JSON as soon as it is measured, and an interrupted study resumes from there.
Layers are 1-based in the files and pictures, as in the paper.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.console import progress_bar
from sharp_mobile.errors import SharpError
from sharp_mobile.evaluate.perplexity import perplexity
from sharp_mobile.files.json_file import parse_json, read_text
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.model.modules import DecoderLayer, MLPWeights, NoMLP, decoder_layers, mlp_weights
from sharp_mobile.model.share import shared_layers
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder

FIGURES = ("fig2", "fig3", "fig4")
Pairs = Literal["adjacent", "all"]
Score = Callable[[], dict[str, float]]


class _Data(BaseModel):
    # Perplexities can be infinite, and JSON has no number for infinity.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Setting(_Data):
    """The inputs of a study; a file is resumed only with the same setting.

    Attributes:
        model, fingerprint: the checkpoint's name and fingerprint.
    """

    model: str
    fingerprint: str


class TextSetting(Setting):
    """The inputs of a study that measures perplexity.

    Attributes:
        text: source of the windows; window: tokens of a window; windows: their number.
        task, limit: for fig4, a downstream task in addition to perplexity, and the number of its questions (None: all).
    """

    text: str
    window: int
    windows: int
    task: str | None = None
    limit: int | None = None


class Study(_Data):
    """The common fields of all studies: the setting, the model's layers and the seconds of the measurements."""

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
    """Figure 3; `mean` has the mean over the layers for each projection."""

    figure: Literal["fig3"] = "fig3"
    distances: list[Distance] = []
    mean: dict[str, float] = {}


class Zeroed(_Data):
    """Perplexity, and a task's scores by metric, with the MLP of `layer` zeroed."""

    layer: int
    perplexity: float
    scores: dict[str, float] = {}


class ZeroingStudy(Study):
    """Figure 4; `original` and `original_scores` are the unchanged model's perplexity and scores."""

    figure: Literal["fig4"] = "fig4"
    setting: TextSetting
    original: float | None = None
    original_scores: dict[str, float] = {}
    zeroed: list[Zeroed] = []


S = TypeVar("S", bound=Study)
T = TypeVar("T")


class ReplacedPerplexity:
    """Perplexity of a model on windows with one layer's MLP replaced; it runs only the layers from there on.

    Args:
        model: a Hugging Face model in eval mode.
        windows: tokens, int64 [windows, T]; their hidden states stay in memory, [windows, T, hidden].
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, windows: torch.Tensor) -> None:
        self._decoder = LayerwiseDecoder(model, windows[:1])
        self._layers = decoder_layers(model)
        self._windows = windows
        self._hidden = torch.cat([self._decoder.embed(window[None]) for window in windows])
        self._layer = 0

    @torch.no_grad()
    def advance(self, layer: int) -> None:
        """Set the layer whose MLP is replaced: `layer` (0-based, not before the current one)."""
        for index in range(self._layer, layer):
            for number, hidden in enumerate(self._hidden):
                self._hidden[number] = self._decoder.layer(index, hidden[None])[0]
        self._layer = layer

    def __call__(self, mlp: nn.Module | None = None) -> float:
        """Perplexity with `mlp` in the current layer; with the layer's own MLP if None."""
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
    """Figure 2: perplexity with one target's MLP replaced by an earlier reference's, without recovery.

    Args:
        windows: tokens, int64 [windows, T].
        path: the JSON; values in it are not measured again.
        pairs: each layer and the next (the paper's left panel), or all N(N−1)/2 (right panel).

    Raises:
        SharpError: the model already shares layers, or the file belongs to another study.
    """
    layers = _unshared(model)
    study = _read(path, ReplacementStudy, setting, len(layers))
    done = {(pair.reference, pair.target) for pair in study.pairs}
    # In order of targets, because the stored hidden states only advance.
    requested = [(r, t) for t in range(1, len(layers)) for r in (range(t) if pairs == "all" else (t - 1,))]
    todo = [(r, t) for r, t in requested if (r + 1, t + 1) not in done]
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
    """Figure 3: the distance between the weights of adjacent MLPs, relative to their norms. Needs no text.

    Raises:
        SharpError: the model already shares layers, the file belongs to another study, or the MLPs differ in shape.
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
    """Figure 4: perplexity, and a task's scores, with one MLP zeroed, for each layer.

    Args:
        windows: tokens, int64 [windows, T].
        path: the JSON; values in it are not measured again.
        score: measures the current model's scores in the setting's task, by metric.

    Raises:
        SharpError: the model already shares layers, or the file belongs to another study.
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


def _with_mlp(layer: DecoderLayer, mlp: nn.Module, score: Score) -> dict[str, float]:
    own, layer.mlp = layer.mlp, mlp
    try:
        return score()
    finally:
        layer.mlp = own


def _unshared(model: PreTrainedModel) -> Sequence[DecoderLayer]:
    """The decoder layers of a model that shares none and has at least two."""
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
        _check_consistent(study, layers)
    except (SharpError, ValueError) as error:
        what = kind.model_fields["figure"].default
        raise SharpError(f"{path}: is not a {what} study; move it away, or name another --out") from error
    if study.setting != setting:
        names = [name for name, value in study.setting if value != getattr(setting, name)]
        raise SharpError(f"{path}: was made with another {', '.join(names)}; move it away, or name another --out")
    return study


def _check_consistent(study: Study, layers: int) -> None:
    """Check that a file's values can belong to this model.

    Raises:
        ValueError: it has other layers, a layer twice, or no perplexity of the original.
    """
    if study.layers != layers:
        raise ValueError(f"has {study.layers} layers")
    places: list[tuple[int, ...]] = []
    original: float | None = 1.0
    match study:
        case ReplacementStudy():
            places, original = [(pair.reference, pair.target) for pair in study.pairs], study.original
        case ZeroingStudy():
            places, original = [(zeroed.layer,) for zeroed in study.zeroed], study.original
    if len(set(places)) < len(places) or any(not 1 <= layer <= layers for place in places for layer in place):
        raise ValueError("has a layer twice, or a layer that does not exist")
    if places and original is None:
        raise ValueError("lacks the original's perplexity")


@contextmanager
def _saving(study: Study, path: Path) -> Iterator[Callable[[], None]]:
    """Yields a function that writes the current study; it adds the seconds of this run to those of earlier ones."""
    before, started = study.seconds, time.monotonic()

    def save() -> None:
        study.seconds = before + time.monotonic() - started
        replace_text(path, study.model_dump_json(indent=1) + "\n")

    yield save
    save()


def _relative_distances(here: MLPWeights, there: MLPWeights) -> dict[str, float]:
    if [weight.shape for weight in here] != [weight.shape for weight in there]:
        raise SharpError("fig3: this model's MLPs differ in shape, so there is no distance between their weights")
    names = zip(here._fields, here, there, strict=True)
    return {name: ((after - before).norm() / before.norm()).item() for name, before, after in names}


def _bar(items: list[T], unit: str) -> Iterable[T]:
    return progress_bar(items, unit=unit)
