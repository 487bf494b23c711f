"""`recovery` and `auto`: a target's own parameters, and the choices of a plan that is `auto`."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from sharp_mobile.recipe.plan import SharePlan, parse_layers
from sharp_mobile.recipe.recovery import Form, Recovery, recoveries
from sharp_mobile.recipe.section import Flag, Section, whole_number


def _ranks(value: object) -> object:
    """A rank, or three for gate, up and down as a list or as text "32/32/96"."""
    several = value.split("/") if isinstance(value, str) and "/" in value else value
    ranks = [whole_number(rank) for rank in (several if isinstance(several, list | tuple) else [several])]
    if len(ranks) not in (1, 3) or not all(type(rank) is int and rank >= 0 for rank in ranks):
        raise ValueError(f"a rank is a whole number ≥ 0, or three of them for gate, up and down, not {value!r}")
    return tuple(ranks) if len(ranks) == 3 else ranks[0]


Ranks = Annotated[int | tuple[int, int, int], BeforeValidator(_ranks)]


class LayerRecovery(Section):
    """What one layer has; see `share.Recovery`. Where rank is not given it is the section's, or 0 without reference."""

    form: Form | None = None
    rank: Ranks | None = None
    neurons: int | None = Field(default=None, ge=0)
    bypass: int | None = Field(default=None, ge=0)
    reference: Flag | None = None


class RecoverySettings(Section):
    """Every target's own parameters: the transformation g0 to g3 (lora, right, left, hadamard) with its rank r, or
    ranks [gate, up, down]; own `neurons` and a linear `bypass` next to the shared MLP, or in its place with
    `reference: false`. Rank 0 without these is the direct share.

    `layers` says otherwise for some layers ("14-16, 20", 1-based); `adapters` is the rank of LoRA on the MLPs of all
    layers that are no targets (Full-LoRA). `quantization_aware` fits and tunes all of it against the model as it will
    be exported (see `quantize.fake_quantize`), not against the float one.
    """

    form: Form = "lora"
    rank: Ranks = 64
    neurons: int = Field(default=0, ge=0)
    bypass: int = Field(default=0, ge=0)
    reference: Flag = True
    adapters: int = Field(default=0, ge=0)
    quantization_aware: Flag = False
    layers: dict[str, LayerRecovery] = Field(default={})

    @property
    def usual(self) -> Recovery:
        """What a target has where `layers` does not say otherwise."""
        return self.of(LayerRecovery())

    def of(self, own: LayerRecovery) -> Recovery:
        """What a layer has whose own settings come before the section's.

        Raises:
            SharpError: settings that make no `Recovery`.
        """
        reference = self.reference if own.reference is None else own.reference
        usual = self.rank if reference else 0
        return Recovery(
            own.form or self.form,
            usual if own.rank is None else own.rank,
            self.neurons if own.neurons is None else own.neurons,
            self.bypass if own.bypass is None else own.bypass,
            reference,
        )

    def recoveries(self, plan: SharePlan) -> dict[int, Recovery]:
        """The recovery parameters of each layer that has any, 0-based.

        Raises:
            SharpError: layers that do not exist, or settings that make no `Recovery`.
        """
        if plan.direct or self.adapters == 0:
            chosen = dict.fromkeys(plan.targets, self.usual)
        else:
            adapter = Recovery("lora", self.adapters)
            chosen = dict.fromkeys(range(plan.layers), adapter)
            chosen |= dict.fromkeys(plan.targets, self.usual)
        for names, own in self.layers.items():
            chosen |= dict.fromkeys(parse_layers(names, plan.layers), self.of(own))
        return recoveries(plan, chosen)

    def all_ranks(self) -> set[int]:
        """Every width that a recovery parameter can have, as far as it is known without a plan."""
        mine = [self.usual, *(self.of(own) for own in self.layers.values())]
        return {width for own in mine for width in (*own.ranks, own.neurons, own.bypass)} | {self.adapters}


class AutoSettings(Section):
    """What a plan that is `auto` is chosen by (see `recovery.plan_search.choose`).

    `auto_windows` of the warm-up's text are read; a reference may be `reach` layers back; every target has the
    `choices`, the usual ones if none are given.
    """

    auto_windows: int = Field(default=16, ge=4)
    reach: int = Field(default=2, ge=1, le=8)
    choices: list[LayerRecovery] = Field(default=[])

    def recoveries(self) -> tuple[Recovery, ...]:
        """The choices written out.

        Raises:
            SharpError: settings that make no `Recovery`.
        """
        none = RecoverySettings(rank=0)
        return tuple(none.of(choice) for choice in self.choices)
