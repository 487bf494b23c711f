"""A variant: one way to make a model smaller and to recover it, as the rows of the paper's tables name them.

    original ─► share (or drop, prune, factor) ─► warm-up (Stage 1) ─► fine-tuning (Stage 2) ─► measured model

Ranks are the paper's, for Llama-2-7B with its widths of 4096 and 11008, and are scaled to a model's widths so that the
recovery parameters are the same part of an MLP; other forms get g0's number of parameters (as in the paper's Table 5).
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from sharp_mobile.baselines.basis_sharing import MLP, share_bases
from sharp_mobile.baselines.kept import Kept, count_parameters
from sharp_mobile.baselines.layer_pruning import drop_mlps, t_ori
from sharp_mobile.baselines.llm_pruner import prune_channels
from sharp_mobile.errors import SharpError
from sharp_mobile.plan import SharePlan
from sharp_mobile.recover.warmup import warm_up
from sharp_mobile.share import Form, Recoveries, Recovery, share_layers

PAPER_HIDDEN, PAPER_INNER = 4096, 11008

Method = Literal["share", "drop", "drop_t_ori", "prune_channels", "share_bases"]
Warmup = Literal["none", "closed_form"]


@dataclass(frozen=True)
class Variant:
    """How a model is made smaller and recovered.

    Attributes:
        method: share by `plan`; drop the MLPs of the plan's targets or those of `t_ori`; LLM-Pruner and Basis Sharing,
            to the s that sharing by `plan` at `rank` has.
        plan: see `SharePlan.parse`.
        form, rank: of the recovery parameters; the rank is the paper's. Rank 0: none.
        reference: without it nothing is shared: as many parameters of their own, half of them neurons, half a linear
            bypass, stand in the place of the targets' MLPs.
        warmup: how Stage 1 is done; "none" leaves the parameters at their start.
        finetune: part of the fine-tuning tokens that Stage 2 gets; 0 leaves it out.
        full_lora: adapters on every layer, not the targets alone (paper, App. D.3).
    """

    method: Method = "share"
    plan: str = "none"
    form: Form = "lora"
    rank: int = 0
    reference: bool = True
    warmup: Warmup = "none"
    finetune: float = 0.0
    full_lora: bool = False

    @property
    def key(self) -> str:
        """The variant as text; equal for equal variants."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    def recovery(self, hidden: int, inner: int) -> Recovery:
        """The recovery parameters of a target, for a model's widths."""
        lora = Recovery("lora", scaled_rank(self.rank, hidden, inner))
        if self.reference:
            return with_parameters(self.form, lora.parameters(hidden, inner), hidden, inner)
        half = lora.parameters(hidden, inner) / 2
        return Recovery(neurons=round(half / (3 * hidden)), bypass=round(half / (2 * hidden)), reference=False)

    def recoveries(self, plan: SharePlan, hidden: int, inner: int) -> dict[int, Recovery]:
        """The recovery parameters of each layer."""
        own = self.recovery(hidden, inner)
        return dict.fromkeys(range(plan.layers) if self.full_lora else plan.targets, own)


@dataclass(frozen=True)
class Texts:
    """Tokens for calibration, int64 [windows, T], and how many tokens fine-tuning reads."""

    calibration: torch.Tensor
    finetune_tokens: int


def scaled_rank(rank: int, hidden: int, inner: int) -> int:
    """The rank at which g0 has the same part of an MLP's parameters as the paper's `rank` has of Llama-2-7B's."""
    if rank == 0:
        return 0
    part = rank * (PAPER_HIDDEN + PAPER_INNER) / (PAPER_HIDDEN * PAPER_INNER)
    return max(1, round(part * hidden * inner / (hidden + inner)))


def with_parameters(form: Form, wanted: int, hidden: int, inner: int) -> Recovery:
    """Recovery parameters of a form whose number is nearest to `wanted`; none at all for 0."""
    each = Recovery(form, 1).parameters(hidden, inner)
    return Recovery(form, max(1, round(wanted / each)) if wanted else 0)


def build(variant: Variant, model: PreTrainedModel, texts: Texts, *, progress: bool = True) -> Kept:
    """Make a variant of an original model, in place; returns what it keeps.

    Raises:
        SharpError: the model cannot be made so: a plan that has no target in it, a form without that warm-up, or a
            method that is not part of this version.
    """
    if variant.finetune and not texts.finetune_tokens:
        raise SharpError("fine-tuning was given no tokens; use --finetune-tokens")
    if variant.finetune:
        raise SharpError("fine-tuning is not part of this version")
    plan = SharePlan.parse(variant.plan, model.config.num_hidden_layers)
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    recovery = variant.recoveries(plan, hidden, inner)
    s = plan.compression_ratio(hidden, inner, sum(own.parameters(hidden, inner) for own in recovery.values()))
    match variant.method:
        case "drop":
            return drop_mlps(model, plan.targets)
        case "drop_t_ori":
            return drop_mlps(model, t_ori(plan.layers))
        case "prune_channels":
            return prune_channels(model, texts.calibration, s)
        case "share_bases":
            return share_bases(model, texts.calibration, s, matrices=MLP, progress=progress)
        case "share":
            return _share(variant, model, plan, recovery, texts, progress)


def _share(
    variant: Variant, model: PreTrainedModel, plan: SharePlan, recovery: Recoveries, texts: Texts, progress: bool
) -> Kept:
    original = count_parameters(model)
    if variant.warmup == "none":
        share_layers(model, plan, recovery)
    else:
        warm_up(model, plan, recovery, texts.calibration, progress=progress)
    return Kept(count_parameters(model), original)
