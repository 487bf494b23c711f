"""Attention that is shared: a target calls the reference's weights, or reads its keys and values, or has none.

    weights   q, k, v, o = the reference's weight, recovered (forms g0 to g2, see `share`); norms and biases are own
    kv        k, v       = what the reference computed in this forward; q and o are own, plus LoRA if they have a rank
    none      attention(x) = 0, or B A x with a bypass

The Hugging Face module stays what it is, and only its projections are replaced, so that it works in every family. A kv
target takes the reference's keys before their norm and RoPE, and does both itself with the reference's norm: positions
are the same, so the keys are.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import DecoderLayer, SelfAttention
from sharp_mobile.model.recovered import Bypass, RecoveredProjection
from sharp_mobile.recipe.recovery import AttentionRecovery

ModuleT = TypeVar("ModuleT")
RECOVERY_MARK = "sharp_recovery"  # the attribute of a `self_attn` that shares


class SharedLinear(nn.Module):
    """A projection of attention on the weight of a reference, with recovery parameters.

    Phi-3's fused qkv_proj has a part for each of q, k and v; all others have one part.

    Args:
        own: the target's own linear; gives shapes and the bias, which it keeps.
        reference: whose weight is called; `own` itself for LoRA on it.
        recovery: form, and whether there are parameters at all.
        ranks: of each part.
        sizes: outputs of each part.

    Raises:
        SharpError: the two differ in shape.
    """

    def __init__(
        self,
        own: nn.Linear,
        reference: nn.Linear,
        recovery: AttentionRecovery,
        ranks: Sequence[int],
        sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if own.weight.shape != reference.weight.shape:
            raise SharpError(
                f"its projection is {_shape(own.weight)}, its reference's is {_shape(reference.weight)}; they differ "
                "in heads or widths"
            )
        self.sizes = list(sizes or [len(own.weight)])
        self._reference = (reference,)  # a tuple hides it from PyTorch, see `share.SharedMLP`
        self.base = reference if reference is own else None
        biases = [None] * len(self.sizes) if own.bias is None else own.bias.split(self.sizes)
        weights = own.weight.split(self.sizes)
        self.parts = nn.ModuleList(
            RecoveredProjection(recovery.form, rank, weight, bias, direct=recovery.direct)
            for rank, weight, bias in zip(ranks, weights, biases, strict=True)
        )

    @property
    def reference(self) -> nn.Linear:
        """The linear whose weight is called."""
        return self._reference[0]

    @property
    def out_features(self) -> int:
        """Of all parts together."""
        return sum(self.sizes)

    def projections(self) -> list[tuple[RecoveredProjection, torch.Tensor]]:
        """Each part's recovery parameters, and the weight [out, in] that they stand around."""
        weights = self.reference.weight.split(self.sizes)
        return [(cast(RecoveredProjection, part), weight) for part, weight in zip(self.parts, weights, strict=True)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out]."""
        parts = [part(x, weight) for part, weight in self.projections()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Kept:
    """A forward hook that keeps the latest output of a module.

    Where layers are called one by one for many windows, `key` says whose output is kept, and read: set it before each
    call. Outputs under other keys stay until `forget`.
    """

    def __init__(self) -> None:
        self.key: object = None
        self.outputs: dict[object, torch.Tensor] = {}

    def __call__(self, module: nn.Module, args: object, output: torch.Tensor) -> None:
        self.outputs[self.key] = output

    def forget(self) -> None:
        """Drop what was kept."""
        self.outputs.clear()

    def output(self) -> torch.Tensor:
        """The latest output under the present key."""
        return self.outputs[self.key]


class KeptProjection(nn.Module):
    """k_proj or v_proj of a kv target: what the reference computed in this forward."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self.kept = kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [batch, T, in] is not read -> [batch, T, keys]."""
        return self.kept.output()


class ReferenceNorm(nn.Module):
    """The k_norm of a kv target: its reference's."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self._reference = (reference,)  # a tuple hides it from PyTorch, see `share.SharedMLP`

    @property
    def reference(self) -> nn.Module:
        """The reference's norm."""
        return self._reference[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        normed: torch.Tensor = self.reference(x)
        return normed


class OwnQuery(nn.Module):
    """Phi-3's qkv_proj of a kv target: its own q, [q, hidden] of the fused weight, and the reference's k and v."""

    def __init__(self, fused: nn.Linear, queries: int, kept: Kept) -> None:
        super().__init__()
        self.q = nn.Linear(fused.in_features, queries, bias=False, device="meta")
        self.q.weight = nn.Parameter(fused.weight.detach()[:queries].clone(), requires_grad=False)
        self.kept = kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [batch, T, hidden] -> [batch, T, q + k + v]."""
        q: torch.Tensor = self.q(x)
        return torch.cat([q, self.kept.output()[..., q.shape[-1] :]], dim=-1)


class NoAttention(nn.Module):
    """Attention that is left out; it answers as the Hugging Face modules do, with a pair."""

    def __init__(self, recovery: AttentionRecovery, hidden: int, like: torch.Tensor) -> None:
        super().__init__()
        self.bypass = Bypass(recovery.bypass, hidden, like) if recovery.bypass else None

    def forward(self, hidden_states: torch.Tensor, *args: object, **others: object) -> tuple[torch.Tensor, None]:
        """hidden_states [batch, T, hidden] -> the same shape, and no attention weights."""
        return (torch.zeros_like(hidden_states) if self.bypass is None else self.bypass(hidden_states)), None


def attention_recovery(attention: object) -> AttentionRecovery | None:
    """What a layer's `self_attn` has instead of its own attention; None for its own."""
    found: AttentionRecovery | None = getattr(attention, RECOVERY_MARK, None)
    return found


def o_input(attention: SelfAttention) -> int:
    """The width of what a layer's o projection reads."""
    o = attention.o_proj
    return o.reference.in_features if isinstance(o, SharedLinear) else o.in_features


def refitted_linears(attention: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Name and linear of what a `self_attn` has fitted anew of its own: o of a kv target."""
    own = attention_recovery(attention)
    if own is not None and own.kind == "kv":
        o = cast(SelfAttention, attention).o_proj
        yield ("o_proj.base", o.reference) if isinstance(o, SharedLinear) else ("o_proj", o)


def share_attention(layers: Sequence[DecoderLayer], recovery: Mapping[int, AttentionRecovery]) -> None:
    """Let the attention of layers call another layer's, in place; layers are 0-based, references come first.

    Raises:
        SharpError: a layer is shared already, or differs in shape from its reference. Layers are left as they were.
    """
    replaced = {}
    for layer, own in sorted(recovery.items()):
        attention = layers[layer].self_attn
        if attention_recovery(attention) is not None:
            raise SharpError(f"share plan: layer {layer + 1} is a target already; start from the original model")
        reference = None if own.reference is None else layers[own.reference].self_attn
        try:
            replaced[layer] = _replaced(attention, reference, own)
        except SharpError as error:
            named = "" if own.reference is None else f" share layer {own.reference + 1}"
            raise SharpError(f"share plan: layer {layer + 1} cannot{named}: {error}") from error
    for layer, new in replaced.items():
        layers[layer].self_attn = new
    for layer, own in sorted(recovery.items()):
        if own.kind == "kv" and own.reference is not None:
            _read_keys(layers[layer].self_attn, layers[own.reference].self_attn)


def _replaced(attention: SelfAttention, reference: SelfAttention | None, own: AttentionRecovery) -> SelfAttention:
    """A `self_attn` with other projections, or without; the old one is not changed."""
    o = attention.o_proj
    if reference is None:
        left_out = NoAttention(own, o.out_features, o.weight)
        setattr(left_out, RECOVERY_MARK, own)
        return cast(SelfAttention, left_out)
    for norm in ("q_norm", "k_norm"):
        if hasattr(attention, norm) != hasattr(reference, norm):
            raise SharpError(f"one of the two has a {norm} and the other has none; choose another reference")
    new = around_same(attention)
    setattr(new, RECOVERY_MARK, own)
    q_rank, k_rank, v_rank, o_rank = own.ranks
    kv = own.kind == "kv"
    if kv:
        o = new.o_proj = copy.deepcopy(o)  # it is fitted anew
    if kv and _key_width(attention) != _key_width(reference):
        raise SharpError("their key heads differ; choose another reference")
    if kv and own.direct:
        return new
    if hasattr(attention, "qkv_proj"):
        if not kv:
            fused = attention.qkv_proj
            ranks = (q_rank, k_rank, v_rank)
            new.qkv_proj = cast(nn.Linear, SharedLinear(fused, reference.qkv_proj, own, ranks, fused_sizes(attention)))
    else:
        for name, rank in (("q_proj", q_rank), ("k_proj", k_rank), ("v_proj", v_rank)):
            linear: nn.Linear = getattr(attention, name)
            if not kv:
                setattr(new, name, SharedLinear(linear, getattr(reference, name), own, (rank,)))
            elif name == "q_proj" and rank:
                new.q_proj = cast(nn.Linear, SharedLinear(linear, linear, own, (rank,)))
    if not kv or o_rank:
        new.o_proj = cast(nn.Linear, SharedLinear(o, o if kv else reference.o_proj, own, (o_rank,)))
    return new


def around_same(module: ModuleT) -> ModuleT:
    """A module of its own around the same submodules and parameters, which can then be replaced."""
    new = copy.copy(module)
    attributes = cast(nn.Module, new).__dict__
    for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
        attributes[name] = attributes[name].copy()
    return new


def fused_sizes(attention: SelfAttention) -> list[int]:
    """Outputs of q, k and v in Phi-3's fused qkv_proj."""
    queries = o_input(attention)
    keys = (attention.qkv_proj.out_features - queries) // 2
    return [queries, keys, keys]


def _key_width(attention: SelfAttention) -> int:
    if hasattr(attention, "qkv_proj"):
        return attention.qkv_proj.out_features
    k = attention.k_proj
    return k.reference.out_features if isinstance(k, SharedLinear) else k.out_features


def _read_keys(target: SelfAttention, reference: SelfAttention) -> None:
    """Let a target take keys and values from what its reference computes."""
    if hasattr(reference, "qkv_proj"):
        queries = o_input(target)
        q = OwnQuery(target.qkv_proj, queries, _kept_by(reference.qkv_proj))
        target.qkv_proj = cast(nn.Linear, q)
        rank = attention_recovery(target)
        if rank is not None and rank.ranks[0]:
            q.q = cast(nn.Linear, SharedLinear(q.q, q.q, rank, (rank.ranks[0],)))
        return
    target.k_proj = cast(nn.Linear, KeptProjection(_kept_by(reference.k_proj)))
    target.v_proj = cast(nn.Linear, KeptProjection(_kept_by(reference.v_proj)))
    if hasattr(target, "k_norm"):
        target.k_norm = ReferenceNorm(reference.k_norm)


def _kept_by(module: nn.Module) -> Kept:
    """The hook that keeps a module's output; several targets have one."""
    for hook in module._forward_hooks.values():
        if isinstance(hook, Kept):
            return hook
    kept = Kept()
    module.register_forward_hook(kept)
    return kept


def kept_outputs(model: nn.Module) -> list[Kept]:
    """What the references of kv targets keep of a forward."""
    return [hook for module in model.modules() for hook in module._forward_hooks.values() if isinstance(hook, Kept)]


def remove_kept(model: nn.Module) -> None:
    """Let no module keep its output any more, once no target reads it."""
    for module in model.modules():
        for number, hook in list(module._forward_hooks.items()):
            if isinstance(hook, Kept):
                del module._forward_hooks[number]


def _shape(weight: torch.Tensor) -> str:
    return f"{weight.shape[0]} by {weight.shape[1]}"
