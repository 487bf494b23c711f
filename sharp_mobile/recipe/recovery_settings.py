"""`recovery` and `auto`: a target's own parameters, and the choices of a plan that is `auto`."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sharp_mobile.errors import SharpError
from sharp_mobile.recipe.plan import SharePlan, parse_layers
from sharp_mobile.recipe.recovery import (
    ATTENTION_MATRICES,
    MLP_MATRICES,
    AttentionKind,
    AttentionRecovery,
    Basis,
    Form,
    Four,
    Recovery,
    Seven,
    recoveries,
)
from sharp_mobile.recipe.section import Flag, Float, Section, whole_number


def _ranks(names: tuple[str, ...]) -> BeforeValidator:
    """A rank, or one for each of these projections as a list or as text "32/32/96"."""

    def read(value: object) -> object:
        several = value.split("/") if isinstance(value, str) and "/" in value else value
        ranks = [whole_number(rank) for rank in (several if isinstance(several, list | tuple) else [several])]
        if len(ranks) not in (1, len(names)) or not all(type(rank) is int and rank >= 0 for rank in ranks):
            count = {3: "three", 4: "four"}[len(names)]
            projections = f"{', '.join(names[:-1])} and {names[-1]}"
            raise ValueError(f"a rank is a whole number ≥ 0, or {count} of them for {projections}, not {value!r}")
        return ranks[0] if len(ranks) == 1 else tuple(ranks)

    return BeforeValidator(read)


Ranks = Annotated[int | tuple[int, int, int], _ranks(MLP_MATRICES)]
AttentionRanks = Annotated[int | Four, _ranks(ATTENTION_MATRICES)]


class LayerAttention(Section):
    """The attention of one layer, written out; see `recipe.recovery`. `reference` is a layer, 1-based."""

    kind: AttentionKind = "weights"
    reference: int | None = Field(default=None, ge=1)
    form: Form = "lora"
    rank: AttentionRanks = 0
    bypass: int = Field(default=0, ge=0)

    def settings(self) -> AttentionRecovery:
        """As the rest of the code has it, 0-based."""
        reference = None if self.reference is None else self.reference - 1
        return AttentionRecovery(self.kind, reference, self.form, self.rank, self.bypass)


class LayerBasis(Section):
    """The bases of one layer, written out; see `recipe.recovery`. `first` is a layer, 1-based."""

    first: int = Field(ge=1)
    ranks: Annotated[Seven, BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]

    def settings(self) -> Basis:
        """As the rest of the code has it, 0-based."""
        return Basis(self.first - 1, self.ranks)


class LayerRecovery(Section):
    """What one layer has; see `share.Recovery`. Where rank is not given it is the section's, or 0 without reference."""

    form: Form | None = None
    rank: Ranks | None = None
    neurons: int | None = Field(default=None, ge=0)
    bypass: int | None = Field(default=None, ge=0)
    reference: Flag | None = None
    attention: LayerAttention | None = None
    basis: LayerBasis | None = None


class RecoverySettings(Section):
    """Every target's own parameters: the transformation g0 to g3 (lora, right, left, hadamard) with its rank r, or
    ranks [gate, up, down]; own `neurons` and a linear `bypass` next to the shared MLP, or in its place with
    `reference: false`. Rank 0 without these is the direct share.

    `layers` says otherwise for some layers ("14-16, 20", 1-based); `adapters` is the rank of LoRA on the MLPs of all
    layers that are no targets (Full-LoRA). `quantization_aware` fits and tunes all of it against the model as it will
    be exported (see `quantize.fake_quantize`), not against the float one.

    `attention_form` and `attention_rank`, or ranks [q, k, v, o], are the same for attention, 32 if not given; of a kv
    target, of q and o alone, and 0 if not given. `attention_bypass` is the rank of a linear map instead of
    an attention that is left out. `kept` is the part of a target's neurons that `share: prune` keeps, and of the
    parameters that `share: basis` keeps; the ranks of bases are chosen by an equal `ratio` of every matrix, or so that
    what truncation loses is least in total (`loss`).
    """

    form: Form = "lora"
    rank: Ranks = 64
    neurons: int = Field(default=0, ge=0)
    bypass: int = Field(default=0, ge=0)
    reference: Flag = True
    adapters: int = Field(default=0, ge=0)
    attention_form: Form = "lora"
    attention_rank: AttentionRanks | None = None
    attention_bypass: int = Field(default=0, ge=0)
    kept: Float = Field(default=0.8, gt=0, le=1)
    basis_ranks: Literal["ratio", "loss"] = "ratio"
    quantization_aware: Flag = False
    layers: dict[str, LayerRecovery] = Field(default={})

    @property
    def usual(self) -> Recovery:
        """What a target has instead of its MLP where `layers` does not say otherwise.

        Raises:
            SharpError: settings that make no `Recovery`, or leave no MLP.
        """
        usual = self.of(LayerRecovery())
        if usual.dropped:
            raise SharpError(
                "recovery without the reference, neurons and bypass leaves no MLP; give it one of them, or say "
                "share: drop-mlp"
            )
        return usual

    def attention_rank_of(self, kind: AttentionKind) -> int | Four:
        """The rank of a target's attention; of a kv target, o is fitted anew, so that LoRA is for who asks for it."""
        if self.attention_rank is None:
            return 0 if kind == "kv" else 32
        return self.attention_rank

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
            None if own.attention is None else own.attention.settings(),
            None if own.basis is None else own.basis.settings(),
        )

    def recoveries(self, plan: SharePlan) -> dict[int, Recovery]:
        """The recovery parameters of each layer whose MLP has any, 0-based; what `layers` writes out comes last.

        Raises:
            SharpError: layers that do not exist, or settings that make no `Recovery`.
        """
        return recoveries(plan, self.written_out(plan.layers, self.of_mlps(plan)))

    def of_mlps(self, plan: SharePlan) -> dict[int, Recovery]:
        """What stands in for the MLPs of a plan's targets, and the adapters of other layers."""
        adapter = Recovery("lora", self.adapters)
        chosen = {} if plan.direct or self.adapters == 0 else dict.fromkeys(range(plan.layers), adapter)
        return chosen | dict.fromkeys(plan.targets, Recovery() if plan.direct else self.usual)

    def written_out(self, layers: int, usual: dict[int, Recovery]) -> dict[int, Recovery]:
        """`usual`, but for the layers of which `layers` says otherwise; what it leaves open there stays."""
        chosen = dict(usual)
        for names, own in self.layers.items():
            said = self.of(own)
            for layer in parse_layers(names, layers):
                other = chosen.get(layer, said)
                chosen[layer] = replace(
                    said, attention=said.attention or other.attention, basis=said.basis or other.basis
                )
        return chosen

    def all_ranks(self) -> set[int]:
        """Every width that a recovery parameter can have, as far as it is known without a plan."""
        mine = [self.usual, *(self.of(own) for own in self.layers.values())]
        widths = {width for own in mine for width in (*own.ranks, own.neurons, own.bypass)}
        rank = self.attention_rank_of("weights")
        widths |= {self.adapters, self.attention_bypass, *(rank if isinstance(rank, tuple) else (rank,))}
        return widths | {
            width for own in mine if own.attention for width in (*own.attention.ranks, own.attention.bypass)
        }


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
