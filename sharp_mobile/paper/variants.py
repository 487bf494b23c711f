"""A variant: one way to compress and recover a model, for a row of the paper's tables.

    original ─► share (or drop, prune, factor) ─► warm-up (Stage 1) ─► fine-tuning (Stage 2) ─► measured model

Ranks are the paper's, for Llama-2-7B with widths of 4096 and 11008. They are scaled to a model's widths so that the
recovery parameters are the same share of an MLP. Other forms get g0's number of parameters, as in the paper's Table 5.
"""

import copy
import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import LayerParts, NoMLP, decoder_layers, layer_parts, mlp_weights
from sharp_mobile.model.share import share_layers
from sharp_mobile.paper.baselines.basis_sharing import share_bases
from sharp_mobile.paper.baselines.layer_pruning import drop_mlps, t_ori
from sharp_mobile.paper.baselines.llm_pruner import prune_channels
from sharp_mobile.paper.baselines.parameter_count import ParameterCount, count_parameters
from sharp_mobile.recipe.finetune_settings import FinetuneSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import MLP_MATRICES, Form, Recoveries, Recovery
from sharp_mobile.recipe.warmup_settings import WarmupSettings
from sharp_mobile.recovery.finetune.batches import rows_of_windows
from sharp_mobile.recovery.finetune.run import finetune
from sharp_mobile.recovery.warmup.run import warm_up

PAPER_HIDDEN, PAPER_INNER = 4096, 11008

Method = Literal["share", "drop", "drop_t_ori", "prune_channels", "share_bases"]


@dataclass(frozen=True)
class Variant:
    """One way to compress and recover a model.

    Attributes:
        method: share by `plan`; drop the MLPs of the plan's targets or of `t_ori`; LLM-Pruner and Basis Sharing, to
            the s of sharing by `plan` at `rank`.
        plan: see `SharePlan.parse`.
        form, rank: the form and the paper's rank of the recovery parameters. Rank 0: none.
        reference: False is a control without sharing. Separate parameters of the same number, half of them neurons,
            half a linear bypass, replace the targets' MLPs.
        warmup: whether to run Stage 1; without it the parameters stay at their initial values.
        finetune: the share of the fine-tuning tokens that Stage 2 uses; 0 skips it. Baselines are fine-tuned by LoRA
            on their remaining MLPs, with as many parameters as the recovery parameters would have.
        full_lora: adapters on every layer, not only the targets (paper, App. D.3).
    """

    method: Method = "share"
    plan: str = "none"
    form: Form = "lora"
    rank: int = 0
    reference: bool = True
    warmup: bool = False
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
class RecoverySetup:
    """The data and settings of all variants of a run.

    Attributes:
        calibration: tokens for warm-up, pruning and factoring, int64 [windows, T].
        warmup: the settings of Stage 1.
        training: tokens for fine-tuning, int64 [sequences, T]; if empty, variants with fine-tuning are left out.
        finetune: the settings of Stage 2.
        runs: the directory that stores interrupted fine-tuning runs.
    """

    calibration: torch.Tensor
    warmup: WarmupSettings
    training: torch.Tensor
    finetune: FinetuneSettings
    runs: Path


def scaled_rank(rank: int, hidden: int, inner: int) -> int:
    """The rank at which g0 is the same share of an MLP's parameters as at the paper's `rank` for Llama-2-7B."""
    if rank == 0:
        return 0
    part = rank * (PAPER_HIDDEN + PAPER_INNER) / (PAPER_HIDDEN * PAPER_INNER)
    return max(1, round(part * hidden * inner / (hidden + inner)))


def with_parameters(form: Form, count: int, hidden: int, inner: int) -> Recovery:
    """Recovery parameters of a form whose number is nearest to `count`; none for 0."""
    each = Recovery(form, 1).parameters(hidden, inner)
    return Recovery(form, max(1, round(count / each)) if count else 0)


def build(variant: Variant, model: PreTrainedModel, setup: RecoverySetup) -> ParameterCount:
    """Build a variant from an original model, in place; returns its parameter counts.

    Raises:
        SharpError: the variant cannot be built: the plan has no target in the model, there are no tokens for
            fine-tuning, or the warm-up does not support the recovery parameters.
    """
    if variant.finetune and not len(setup.training):
        raise SharpError("there are no tokens for fine-tuning; use --finetune-tokens")
    plan = SharePlan.parse(variant.plan, model.config.num_hidden_layers)
    originals = _originals(variant, model) if variant.finetune and setup.finetune.distillation else {}
    kept = _compress(variant, model, plan, setup)
    if variant.finetune:
        if variant.method != "share":
            kept = _with_adapters(variant, model, plan, kept)
        run = setup.runs / hashlib.sha256(variant.key.encode()).hexdigest()[:12]
        rows = rows_of_windows(_evenly(setup.training, variant.finetune))
        finetune(model, originals, rows, setup.finetune, run)
        shutil.rmtree(run, ignore_errors=True)
    return kept


def _originals(variant: Variant, model: PreTrainedModel) -> dict[int, LayerParts]:
    """What layers have before, for distillation; MLPs are copied if the variant changes the modules in place."""
    layers = layer_parts(model, range(len(decoder_layers(model))))
    if variant.method not in ("prune_channels", "share_bases"):
        return layers
    return {index: parts._replace(mlp=copy.deepcopy(parts.mlp)) for index, parts in layers.items()}


def _compress(variant: Variant, model: PreTrainedModel, plan: SharePlan, setup: RecoverySetup) -> ParameterCount:
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    recovery = variant.recoveries(plan, hidden, inner)
    # s includes the adapters that are added later.
    own = 0 if variant.finetune else sum(own.parameters(hidden, inner) for own in recovery.values())
    s = plan.compression_ratio(hidden, inner, own)
    match variant.method:
        case "drop":
            return drop_mlps(model, plan.targets)
        case "drop_t_ori":
            return drop_mlps(model, t_ori(plan.layers))
        case "prune_channels":
            return prune_channels(model, setup.calibration, s)
        case "share_bases":
            return share_bases(model, setup.calibration, s, matrices=MLP_MATRICES)
        case "share":
            return _share(variant, model, plan, recovery, setup)


def _share(
    variant: Variant, model: PreTrainedModel, plan: SharePlan, recovery: Recoveries, setup: RecoverySetup
) -> ParameterCount:
    original = count_parameters(model)
    torch.manual_seed(setup.finetune.seed)  # parameters without warm-up start random
    if variant.warmup:
        warm_up(model, plan, recovery, setup.calibration, settings=setup.warmup)
    else:
        share_layers(model, plan, recovery)
    return ParameterCount(count_parameters(model), original)


def _with_adapters(variant: Variant, model: PreTrainedModel, plan: SharePlan, kept: ParameterCount) -> ParameterCount:
    """Add LoRA to every remaining MLP, in total as many parameters as SHARP's recovery parameters."""
    hidden, inner = model.config.hidden_size, model.config.intermediate_size
    count = len(plan.targets) * variant.recovery(hidden, inner).parameters(hidden, inner)
    layers = decoder_layers(model)
    widths = {i: len(mlp_weights(layer.mlp).gate) for i, layer in enumerate(layers) if not isinstance(layer.mlp, NoMLP)}
    each = sum(Recovery("lora", 1).parameters(hidden, width) for width in widths.values())
    adapter = Recovery("lora", max(1, round(count / each)))
    before = count_parameters(model)
    torch.manual_seed(0)  # A starts random
    share_layers(model, SharePlan.parse("none", plan.layers), dict.fromkeys(widths, adapter))
    added = before.mlp - count_parameters(model).mlp
    return ParameterCount(kept.parameters.without(mlp=added), kept.original)


def _evenly(windows: torch.Tensor, part: float) -> torch.Tensor:
    """Evenly spaced windows, a share `part` of all, at least one."""
    count = max(1, round(part * len(windows)))
    return windows[torch.arange(count) * len(windows) // count]
