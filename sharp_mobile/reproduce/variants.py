"""A variant: one way to make a model smaller and to recover it, as the rows of the paper's tables name them.

    original ─► share (or drop, prune, factor) ─► warm-up (Stage 1) ─► fine-tuning (Stage 2) ─► measured model

Ranks are the paper's, for Llama-2-7B with its widths of 4096 and 11008, and are scaled to a model's widths so that the
recovery parameters are the same part of an MLP; forms other than g0 get the rank at which they have g0's number of
parameters (as in the paper's Table 5).
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
from sharp_mobile.share import Form, Recovery, share_layers

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
        warmup: how Stage 1 is done; "none" leaves the parameters at their start.
        finetune: part of the fine-tuning tokens that Stage 2 gets; 0 leaves it out.
        full_lora: adapters on every layer, not the targets alone (paper, App. D.3).
    """

    method: Method = "share"
    plan: str = "none"
    form: Form = "lora"
    rank: int = 0
    warmup: Warmup = "none"
    finetune: float = 0.0
    full_lora: bool = False

    @property
    def key(self) -> str:
        """The variant as text; equal for equal variants."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())

    def recovery(self, hidden: int, inner: int) -> Recovery:
        """The recovery parameters for a model's widths."""
        return Recovery(self.form, rank_for(self.form, scaled_rank(self.rank, hidden, inner), hidden, inner))


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


def rank_for(form: Form, g0_rank: int, hidden: int, inner: int) -> int:
    """The rank at which a form has as many parameters as g0 at `g0_rank`, to the nearest."""
    if g0_rank == 0:
        return 0
    return max(
        1, round(g0_rank * parameters_per_rank("lora", hidden, inner) / parameters_per_rank(form, hidden, inner))
    )


def parameters_per_rank(form: Form, hidden: int, inner: int) -> int:
    """Recovery parameters of one target's three projections for each unit of rank, the scalars α aside."""
    shapes = ((inner, hidden), (inner, hidden), (hidden, inner))  # (out, in) of gate, up, down
    match form:
        case "right":
            return sum(rows + 3 * columns for rows, columns in shapes)
        case "left":
            return sum(3 * rows + columns for rows, columns in shapes)
        case "hadamard":
            return sum(2 * (rows + columns) for rows, columns in shapes)
        case _:
            return sum(rows + columns for rows, columns in shapes)


def build(variant: Variant, model: PreTrainedModel, texts: Texts, *, progress: bool = True) -> Kept:
    """Make a variant of an original model, in place; returns what it keeps.

    Raises:
        SharpError: the model cannot be made so: a plan that has no target in it, a form without that warm-up, or a
            method that is not part of this version.
    """
    if variant.full_lora:
        raise SharpError("adapters on every layer (Full-LoRA) are not part of this version")
    if variant.finetune and not texts.finetune_tokens:
        raise SharpError("fine-tuning was given no tokens; use --finetune-tokens")
    if variant.finetune:
        raise SharpError("fine-tuning is not part of this version")
    plan = SharePlan.parse(variant.plan, model.config.num_hidden_layers)
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    recovery = variant.recovery(hidden, inner)
    own = len(plan.targets) * recovery.rank * parameters_per_rank(recovery.form, hidden, inner)
    s = plan.stored_ratio + own / (plan.layers * 3 * hidden * inner)  # Eq. 1, for any form
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
    variant: Variant, model: PreTrainedModel, plan: SharePlan, recovery: Recovery, texts: Texts, progress: bool
) -> Kept:
    original = count_parameters(model)
    if variant.warmup == "none":
        share_layers(model, plan, recovery)
    else:
        warm_up(model, plan, recovery, texts.calibration, progress=progress)
    return count_parameters(model).over(original)
