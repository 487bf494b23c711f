"""Ranks that are chosen by loss lose less than an equal ratio, at no more parameters."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokens

from sharp_mobile.checkpoint.config import architecture_of
from sharp_mobile.errors import SharpError
from sharp_mobile.model.sharing import equal_ratio_ranks, kept_parameters
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Basis, Recovery
from sharp_mobile.recipe.settings import Recipe
from sharp_mobile.recovery.plan_search.basis_ranks import Spectrum, choose_ranks, measure_spectra
from sharp_mobile.recovery.run import open_recipe
from sharp_mobile.recovery.warmup.run import warm_up

WINDOWS = tiny_tokens(32, batch=16)
NONE = SharePlan.parse("none", 6)


def equal_bases(kept: float, multiple: int = 1) -> dict[int, Basis]:
    ranks = equal_ratio_ranks(architecture_of(tiny_model().config.to_dict()), 2, kept, multiple)
    return {layer: Basis(layer // 2 * 2, ranks) for layer in range(6)}


def parameters(bases: dict[int, Basis]) -> int:
    model = architecture_of(tiny_model().config.to_dict())
    return kept_parameters(model, NONE, {layer: Recovery(basis=basis) for layer, basis in bases.items()}).planned


@pytest.mark.parametrize("kept", [0.4, 0.7, 0.9])
def test_the_loss_is_less_at_no_more_parameters(kept: float) -> None:
    model, equal = tiny_model(), equal_bases(kept)
    spectra = measure_spectra(model, equal, WINDOWS)
    chosen = choose_ranks(spectra, equal, 1)
    assert chosen != equal
    assert parameters(chosen) <= parameters(equal) < parameters(chosen) + 300
    errors = []
    for bases in (equal, chosen):
        recovery = {layer: Recovery(basis=basis) for layer, basis in bases.items()}
        report = warm_up(copy.deepcopy(model), NONE, recovery, WINDOWS)
        # The mean is over the matrices that are factored; those that stay whole lose nothing.
        errors.append(sum(fit.error_after**2 * len(bases[fit.layer].rank_of) for fit in report.targets))
    assert errors[1] < errors[0]


def test_spectra_are_those_of_the_inputs() -> None:
    spectra = measure_spectra(tiny_model(), equal_bases(0.7), WINDOWS)
    assert set(spectra) == {(first, name) for first in (0, 2, 4) for name in ("q", "k", "v", "gate", "up")} | {
        (layer, name) for layer in range(6) for name in ("o", "down")
    }
    assert spectra[0, "k"].into == 64
    assert spectra[0, "k"].outputs == 2 * 32
    for spectrum in spectra.values():
        assert sum(spectrum.values) == pytest.approx(1)
        assert list(spectrum.values) == sorted(spectrum.values, reverse=True)


def test_vectors_go_where_a_parameter_gains_most() -> None:
    steep, flat = [0.7, 0.2, 0.06, 0.04, *[0.0] * 60], [1 / 64] * 64
    spectra = {(0, name): Spectrum(64, 64, flat) for name in ("k", "v", "o", "gate", "up", "down")}
    spectra[0, "q"] = Spectrum(64, 64, steep)
    chosen = choose_ranks(spectra, {0: Basis(0, (2,) * 7)}, 1)[0].ranks
    assert chosen[0] == 4
    assert sum(chosen) == 14
    assert choose_ranks(spectra, {0: Basis(0, (1, 1, 1, 1, 1, 1, 3))}, 1)[0].ranks == (3, 1, 1, 1, 1, 1, 1)


def test_ranks_are_multiples_and_a_layer_keeps_a_basis() -> None:
    equal = equal_bases(0.9, 16)
    chosen = choose_ranks(measure_spectra(tiny_model(), equal, WINDOWS), equal, 16)
    assert all(rank % 16 == 0 for basis in chosen.values() for rank in basis.ranks)
    flat = Spectrum(8, 8, [0.125] * 8)
    every = {(0, name): flat for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert choose_ranks(every, {0: Basis(0, (1, 0, 0, 0, 0, 0, 0))}, 1)[0].rank_of  # room for all but one as it is


def recipe(checkpoint: Path, text: Path, **recovery: object) -> Recipe:
    return Recipe(
        model=str(checkpoint),
        share="basis",
        plan="blocks 2",
        recovery={"kept": 0.7, "basis_ranks": "loss", **recovery},
        warmup={"text": str(text), "window": 32, "windows": 8},
        auto={"auto_windows": 8},
        quantize={"linear": 8},
    )


def test_a_recipe_takes_what_was_chosen_before(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    asked, work = recipe(tiny_checkpoint, tiny_text), tmp_path / "work"
    opened = open_recipe(asked, work=work)
    (kept,) = work.iterdir()
    ranks = {own.basis.ranks for own in opened.recovery.values() if own.basis}
    assert len(ranks) > 1
    assert "ranks of bases in layers 1" in opened.describe()
    stamp = kept.stat().st_mtime_ns
    assert open_recipe(asked, work=work).recovery == opened.recovery
    assert kept.stat().st_mtime_ns == stamp
    equal = open_recipe(recipe(tiny_checkpoint, tiny_text, basis_ranks="ratio"), work=work)
    assert equal.recovery != opened.recovery
    assert len(list(work.iterdir())) == 1

    mine = {"basis": {"first": 1, "ranks": [9] * 7}, "rank": 0}
    written_out = open_recipe(recipe(tiny_checkpoint, tiny_text, layers={"1-2": mine}), work=work)
    assert written_out.recovery[0].basis == written_out.recovery[1].basis == Basis(0, (9,) * 7)

    kept.write_text("{}")
    with pytest.raises(SharpError, match=r"ranks-.*\.json: is for other layers; delete it to choose again"):
        open_recipe(asked, work=work)
    kept.write_text('{"0": [1, 2]}')
    with pytest.raises(SharpError, match=r"ranks-.*\.json: .*; delete it to choose again"):
        open_recipe(asked, work=work)


def test_activations_that_are_not_finite_are_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[0, 0] = float("nan")
    with pytest.raises(SharpError, match="not finite"):
        measure_spectra(model, equal_bases(0.7), WINDOWS)
