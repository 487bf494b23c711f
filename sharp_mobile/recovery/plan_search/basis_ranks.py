"""Ranks of bases where they matter: `recovery.basis_ranks: loss`.

Of every matrix of a group, in Basis Sharing's metric (`warmup.bases`), the eigenvalues λ tell what each basis vector is
worth: a matrix of rank k loses Σ λ over those left out, as a part of Σ λ over all. From nothing on, vectors are given
where a parameter gains most, until all bases have as many parameters as they would by an equal ratio. Since eigenvalues
descend, that is the least total loss, but for what the last step leaves over. A matrix whose factors would not be
smaller than itself stays whole.

Relative losses, because what a squared error of q or of down does to the model does not compare: on
SmolLM2-135M-Instruct (blocks 2, kept 0.8, 16,384 tokens) perplexity is 65 by them, 75 by an equal ratio, and 254 by
absolute losses.
"""

import heapq
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from pydantic import TypeAdapter
from torch import nn

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.basis import matrix_linears
from sharp_mobile.model.modules import causal_lm, decoder_layers
from sharp_mobile.model.sharing import basis_multiple, share_plan
from sharp_mobile.recipe.plan import layer_ranges
from sharp_mobile.recipe.recovery import MATRICES, WITH_SHARED_BASIS, Basis, Recovery, Seven
from sharp_mobile.recipe.recovery_settings import LayerRecovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recipe.share import parse_share
from sharp_mobile.recipe.sharp_json import describe_recoveries
from sharp_mobile.recovery.plan_search.measured_once import kept_path, measured_once
from sharp_mobile.recovery.warmup.bases import (
    collecting,
    matrix_readers,
    matrix_weights,
    truncation_losses,
)
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder, batches, hidden_file
from sharp_mobile.text.windows import check_length, source_windows

Place = tuple[int, str]  # a layer, 0-based, and a matrix; of a basis that several layers share, the group's first layer


@dataclass(frozen=True)
class Spectrum:
    """What the vectors of one basis are worth.

    Args:
        into, outputs: the widths of what is factored, all layers that share the basis together.
        values: squared singular values, descending, relative to their sum.
    """

    into: int
    outputs: int
    values: Sequence[float]

    @property
    def whole(self) -> int:
        """Parameters without factors."""
        return self.into * self.outputs

    def parameters(self, rank: int) -> int:
        """Parameters of the factors; of rank 0, the whole matrix's."""
        return rank * (self.into + self.outputs) if rank else self.whole


def chooses_ranks(recipe: Recipe) -> bool:
    """Whether a recipe's bases have ranks that are to be chosen."""
    return recipe.recovery.basis_ranks == "loss" and any(
        kind == "basis" for kind, _ in parse_share(recipe.share, recipe.plan)
    )


def resolve_ranks(recipe: Recipe, checkpoint: Checkpoint, work: Path) -> tuple[Recipe, list[str]]:
    """The recipe with the ranks of its bases written out by layer, and the explanation, a line each.

    What was chosen is kept as JSON under `work`, and taken from there the next time.

    Raises:
        SharpError: a checkpoint without a tokenizer, a text that does not suffice, or a plan that does not fit.
    """
    _, recovery = share_plan(recipe, checkpoint.architecture)
    equal = {layer: own.basis for layer, own in recovery.items() if own.basis}
    chosen = _chosen(recipe, checkpoint, equal, work)
    layers = {layer: Recovery(basis=basis) for layer, basis in chosen.items()}
    written = {name: LayerRecovery.model_validate(own) for name, own in describe_recoveries(layers).items()}
    settings = recipe.recovery.model_copy(update={"layers": {**written, **recipe.recovery.layers}})
    lines = [
        f"ranks of bases in layers {layer_ranges(tuple(its for its in chosen if chosen[its] == basis))}: "
        + ", ".join(f"{name} {rank or 'whole'}" for name, rank in zip(MATRICES, basis.ranks, strict=True))
        for basis in dict.fromkeys(chosen.values())
    ]
    return recipe.model_copy(update={"recovery": settings}), lines


_RANKS = TypeAdapter(dict[int, Seven])


def _chosen(recipe: Recipe, checkpoint: Checkpoint, equal: Mapping[int, Basis], work: Path) -> dict[int, Basis]:
    """The bases chosen now or before."""
    warmup, count = recipe.warmup, recipe.auto.auto_windows
    multiple = basis_multiple(recipe)
    ratio = [(layer, basis.first, basis.ranks) for layer, basis in sorted(equal.items())]

    def measure() -> dict[int, Seven]:
        check_length(warmup.window, checkpoint.config)
        tokenizer = checkpoint.tokenizer_for("recovery.basis_ranks: loss")
        windows = source_windows(tokenizer, warmup.text, warmup.window, count)
        ranks = choose_ranks(measure_spectra(checkpoint.model, equal, windows), equal, multiple)
        return {layer: basis.ranks for layer, basis in ranks.items()}

    settings = [checkpoint.fingerprint, ratio, multiple, warmup.text, warmup.window, count]
    kept, remedy = kept_path(work, "ranks", settings), "delete it to choose again"
    found = measured_once(kept, _RANKS, measure, remedy)
    if found.keys() != equal.keys():
        raise SharpError(f"{kept}: is for other layers; {remedy}")
    return {layer: replace(basis, ranks=found[layer]) for layer, basis in equal.items()}


def _place(layer: int, basis: Basis, name: str) -> Place:
    return (basis.first if name in WITH_SHARED_BASIS else layer, name)


@torch.no_grad()
def measure_spectra(model: nn.Module, bases: Mapping[int, Basis], windows: torch.Tensor) -> dict[Place, Spectrum]:
    """What the basis vectors of every matrix of some layers are worth, on the original model's activations.

    Args:
        windows: int64 [windows, T].

    Raises:
        SharpError: activations that are not finite or all equal.
    """
    decoder, parts, layers = LayerwiseDecoder(model, windows[:1]), batches(windows), decoder_layers(model)
    last = {place: layer for layer, basis in sorted(bases.items()) for place in _places(layer, basis)}
    weights: dict[Place, list[torch.Tensor]] = {}
    grams: dict[Place, torch.Tensor] = {}
    found: dict[Place, Spectrum] = {}
    with tempfile.TemporaryDirectory(prefix="sharp-mobile-") as directory:
        hidden = hidden_file(Path(directory) / "hidden", *windows.shape, causal_lm(model).config.hidden_size)
        for part in parts:
            hidden[part] = decoder.embed(windows[part])
        for layer in range(max(bases) + 1):
            basis = bases.get(layer)
            linears = matrix_linears(layers[layer]) if basis else []
            readers = matrix_readers(linears)
            with collecting(set(readers.values())) as read:
                for part in parts:
                    hidden[part] = decoder.layer(layer, hidden[part])
            if basis is None:
                continue
            for name, weight in matrix_weights(linears).items():
                place, gram = _place(layer, basis, name), read[readers[name]]
                weights.setdefault(place, []).append(weight)
                grams[place] = grams[place] + gram if place in grams else gram
                if last[place] == layer:
                    found[place] = _spectrum(weights.pop(place), grams.pop(place))
    return found


def _places(layer: int, basis: Basis) -> list[Place]:
    return [_place(layer, basis, name) for name in MATRICES]


def _spectrum(weights: Sequence[torch.Tensor], gram: torch.Tensor) -> Spectrum:
    outputs = sum(len(weight) for weight in weights)
    values = truncation_losses(weights, gram)[:outputs]
    return Spectrum(weights[0].shape[1], outputs, (values / values.sum()).tolist())


def choose_ranks(spectra: Mapping[Place, Spectrum], equal: Mapping[int, Basis], multiple: int) -> dict[int, Basis]:
    """The bases with the least total loss that have no more parameters than those of an equal ratio.

    Args:
        equal: the bases of an equal ratio.
        multiple: ranks are multiples of it.
    """
    allowed = sum(spectrum.parameters(equal[layer].rank_of.get(name, 0)) for (layer, name), spectrum in spectra.items())
    least = {place: spectrum.parameters(multiple) < spectrum.whole for place, spectrum in spectra.items()}
    ranks = {place: multiple if smaller else 0 for place, smaller in least.items()}
    spent = sum(spectrum.parameters(ranks[place]) for place, spectrum in spectra.items())
    steps = [_step(place, spectra[place], rank, multiple) for place, rank in ranks.items() if rank]
    heapq.heapify(steps)
    while steps:
        _, place, rank, cost = heapq.heappop(steps)
        if spent + cost > allowed or (rank == 0 and _is_last(place, ranks, equal)):
            continue
        spent += cost
        ranks[place] = rank
        if rank:
            heapq.heappush(steps, _step(place, spectra[place], rank, multiple))
    return {
        layer: replace(basis, ranks=cast(Seven, tuple(ranks[place] for place in _places(layer, basis))))
        for layer, basis in equal.items()
    }


def _is_last(place: Place, ranks: Mapping[Place, int], bases: Mapping[int, Basis]) -> bool:
    """Whether a layer has no other basis than this one."""
    of_layers = [_places(layer, basis) for layer, basis in bases.items()]
    return any(place in its and sum(ranks[each] > 0 for each in its) == 1 for its in of_layers)


def _step(place: Place, spectrum: Spectrum, rank: int, multiple: int) -> tuple[float, Place, int, int]:
    """The next vectors of a basis: what they gain a parameter, negative; the rank with them, 0 for a whole matrix; and
    the parameters that they take."""
    wider = rank + multiple
    if spectrum.parameters(wider) >= spectrum.whole or wider > spectrum.into:
        wider = 0
    gain = sum(spectrum.values[rank : wider or None])
    cost = spectrum.parameters(wider) - spectrum.parameters(rank)
    return -gain / max(cost, 1), place, wider, cost
