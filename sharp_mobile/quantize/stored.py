"""What an export stores, from its architecture, plan and settings alone: every tensor, how many bits it has, and how
often the program calls it.

It lists what `decoder.build_decoder`, `decoder.fuse`, `decoder.projections` and `quantize.nearest` make of a model,
without making it; tests compare the two tensor by tensor.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, NamedTuple

from sharp_mobile.decoder.role import LinearRole
from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.model.sharing import matrix_shapes
from sharp_mobile.quantize.groups import eight_bit_bytes, four_bit_bytes, recovery_group
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import (
    ATTENTION_MATRICES,
    MLP_MATRICES,
    WITH_SHARED_BASIS,
    AttentionRecovery,
    Basis,
    Recoveries,
    Recovery,
    recoveries,
)
from sharp_mobile.recipe.section import Bits

Role = LinearRole | Literal["embedding", "rest"]
_FLOAT = 4


class StoredTable(NamedTuple):
    """The embedding [vocabulary, hidden]: a lookup, not a product. At 4 bits its scales are float32, a group each."""

    shape: tuple[int, int]
    bits: Bits
    group: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        rows, width = self.shape
        if self.bits == "float":
            return _FLOAT * rows * width
        return (
            eight_bit_bytes(self.shape) if self.bits == 8 else rows * width // 2 + _FLOAT * rows * (width // self.group)
        )


class StoredLinear(NamedTuple):
    """The weight [out, in] of a linear, with its scales and its bias if it has one.

    uses: how many times the program calls it. in_table: its codes (or floats) are the embedding's, and stored there.
    """

    name: str
    role: LinearRole
    shape: tuple[int, int]
    bits: Bits
    group: int = 0
    bias: bool = False
    uses: int = 1
    in_table: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of codes and scales, wherever they are stored."""
        rows, width = self.shape
        if self.bits == "float":
            return _FLOAT * rows * width
        return eight_bit_bytes(self.shape) if self.bits == 8 else four_bit_bytes(self.shape, self.group)

    @property
    def nbytes(self) -> int:
        """Bytes in the file besides the embedding's."""
        rows, width = self.shape
        shared = 0 if not self.in_table else _FLOAT * rows * width if self.bits == "float" else rows * width
        return self.weight_bytes - shared + _FLOAT * rows * self.bias


class StoredVector(NamedTuple):
    """A float32 vector: a norm's gain, a bias that is added, an α, a RoPE table."""

    role: Role
    length: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return _FLOAT * self.length


class StoredTensors(NamedTuple):
    """All tensors of an export, each once.

    norms: how many RMS norms the program has. attentions: how many layers attend. caches: how many of them have keys
    and values of their own.
    """

    table: StoredTable
    linears: list[StoredLinear]
    vectors: list[StoredVector]
    norms: int
    attentions: int
    caches: int

    def nbytes(self, role: Role) -> int:
        """Bytes in the file of the tensors of a role."""
        linears = sum(linear.nbytes for linear in self.linears if linear.role == role)
        vectors = sum(vector.nbytes for vector in self.vectors if vector.role == role)
        return linears + vectors + (self.table.nbytes if role == "embedding" else 0)


def stored_tensors(
    model: Architecture, plan: SharePlan, recovery: Recoveries, quantize: QuantizeSettings
) -> StoredTensors:
    """The tensors that an export of a model stores.

    Raises:
        SharpError: more own neurons than an MLP has, or factors whose widths 4-bit groups do not divide.
    """
    recovery = recoveries(plan, recovery)
    _check_neurons(model, plan, recovery)
    group, tied = quantize.group_size, model.tied and model.embedding_scale is None
    table = StoredTable((model.vocabulary, model.hidden), quantize.embedding_bits(tied), group)
    in_table = tied and table.bits == quantize.lm_head and table.bits != 4  # 4 bits are laid out differently
    lm_head = StoredLinear("lm_head", "lm_head", table.shape, quantize.lm_head, group, in_table=in_table)
    layers = [_Layer(model, plan, recovery, quantize, index) for index in range(model.layers)]
    norms = [width for layer in layers for width in layer.norms()] + [model.hidden]
    linears = [linear for layer in layers for linear in layer.linears()] + [lm_head]
    vectors = [StoredVector("rest", width) for width in norms]
    vectors += _rest(model, norms, {model.table_of[layer.index] for layer in layers if layer.attends})
    vectors += [vector for layer in layers for vector in layer.vectors()]
    attentions, caches = (
        sum(holds) for holds in ([layer.attends for layer in layers], [layer.holds_keys for layer in layers])
    )
    return StoredTensors(table, linears, vectors, len(norms), attentions, caches)


def rounded_shapes(tensors: StoredTensors) -> list[tuple[int, int]]:
    """[out, in] of the linears whose bits text decides over (see `bit_allocation`), each once."""
    return [linear.shape for linear in tensors.linears if linear.role in ("attention", "mlp")]


def missing_bytes(model: Architecture, plan: SharePlan, recovery: Recoveries, quantize: QuantizeSettings) -> int:
    """What the weights of attention and MLPs that an export shares, factors or leaves out would take in addition."""
    whole = stored_tensors(model, SharePlan(model.layers, ()), {}, quantize)
    shared = stored_tensors(model, plan, recovery, quantize)
    return max(0, sum(whole.nbytes(role) - shared.nbytes(role) for role in ("attention", "mlp")))


def _check_neurons(model: Architecture, plan: SharePlan, recovery: Recoveries) -> None:
    for layer, own in recovery.items():
        try:
            own.check_fits(model.inner)
        except SharpError as error:
            reference = plan.reference_of.get(layer, layer)
            raise SharpError(f"share plan: layer {layer + 1} cannot share layer {reference + 1}: {error}") from error


def _rest(model: Architecture, norms: list[int], tables: set[int | None]) -> Iterator[StoredVector]:
    """What norms of a width have in common, the RoPE tables that are used, and the cap of logits."""
    for width in set(norms):
        yield StoredVector("rest", width)  # the row that takes the mean
    yield StoredVector("rest", 1)  # ε
    for _ in tables - {None}:  # frequencies, factors of cos and of sin
        yield StoredVector("rest", 3 * model.head_width)
    if model.logit_cap is not None:
        yield StoredVector("rest", 1)


class _Layer:
    """What one layer (0-based) stores: its own weights, called by other layers too, and what it has in their place."""

    def __init__(
        self, model: Architecture, plan: SharePlan, recovery: Recoveries, quantize: QuantizeSettings, index: int
    ) -> None:
        self.model, self.plan, self.recovery, self.quantize, self.index = model, plan, recovery, quantize, index
        self.own = recovery.get(index, Recovery())
        self.shapes = matrix_shapes(model)

    @property
    def attention(self) -> AttentionRecovery:
        """What stands in for its attention; a direct share of its own for nothing."""
        return self.own.attention or AttentionRecovery("weights", self.index)

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        return self.attention.kind != "none"

    @property
    def holds_keys(self) -> bool:
        """Whether it has a KV cache."""
        return self.attention.kind == "weights"

    @cached_property
    def attention_calls(self) -> int:
        """How many layers call the attention's weights, itself included; 0 if it has none."""
        if self.attention.kind != "weights" or self.attention.reference != self.index:
            return int(self.attention.kind == "kv")
        others = (own.attention for own in self.recovery.values())
        return 1 + sum(one is not None and one.kind == "weights" and one.reference == self.index for one in others)

    def norms(self) -> Iterator[int]:
        """The width of every RMS norm."""
        model, family, own = self.model, self.model.family, self.own
        if self.attends or self.attention.bypass:
            yield from _each(model.hidden, family.pre_attention_norm, family.post_attention_norm)
        if not own.dropped:
            yield from _each(model.hidden, family.pre_mlp_norm, family.post_mlp_norm)
        if self.attends and family.qk_norm is not None:
            queries, keys = (
                (model.head_width, model.head_width)
                if family.qk_norm == "head"
                else (model.query_width, model.key_width)
            )
            yield queries
            if self.holds_keys:
                yield keys

    def linears(self) -> Iterator[StoredLinear]:
        """Its linears, those that other layers call included, and those that it calls of others not."""
        yield from self._attention()
        yield from self._mlp()
        for name, shape in self._recovery_matrices():
            where, group = f"layers.{self.index + 1}.{name}", 0
            if self.quantize.recovery == 4:
                try:
                    group = recovery_group(shape[1])
                except SharpError as error:
                    raise SharpError(f"{where}: {error}") from error
            yield StoredLinear(where, "recovery", shape, self.quantize.recovery, group)

    def _attention(self) -> Iterator[StoredLinear]:
        names = () if not self.attention_calls else ATTENTION_MATRICES if self.holds_keys else ("q", "o")
        for name in names:
            bias = self._has_bias(name) and not self._adds_bias(name)
            yield from self._matrix(name, "attention", bias, self.attention_calls)

    def _mlp(self) -> Iterator[StoredLinear]:
        if self.own.pruned:
            yield from self._pruned(self.own.neurons)
        if self.index in self.plan.reference_of:
            return
        targets = [target for target, reference in self.plan.reference_of.items() if reference == self.index]
        uses = 1 + sum(self.recovery[target].reference for target in targets)
        for name in MLP_MATRICES:
            yield from self._matrix(name, "mlp", False, uses)

    def _pruned(self, neurons: int) -> Iterator[StoredLinear]:
        """The MLP that pruning leaves."""
        bits, group, hidden = self.quantize.linear, self.quantize.group_size, self.model.hidden
        if bits == 4 and neurons % group:
            raise SharpError(
                f"layers.{self.index + 1}.mlp: groups of {group} 4-bit weights do not divide {neurons} neurons; keep a "
                f"multiple of {group}, or use quantize.linear: 8"
            )
        wide = (neurons, hidden)
        for name, shape in (("gate", wide), ("up", wide), ("down", wide[::-1])):
            yield StoredLinear(f"layers.{self.index + 1}.mlp.{name}", "mlp", shape, bits, group)

    def _matrix(self, name: str, role: LinearRole, bias: bool, uses: int) -> Iterator[StoredLinear]:
        """A matrix, or what it is factored into."""
        part = "attention" if role == "attention" else "mlp"
        where, basis = f"layers.{self.index + 1}.{part}.{name}", self.own.basis
        bits, group = self.quantize.linear, self.quantize.group_size
        (out, into), rank = self.shapes[name], 0 if basis is None else basis.rank_of.get(name, 0)
        if basis is None or not rank:
            yield StoredLinear(where, role, (out, into), bits, group, bias, uses)
            return
        if bits == 4 and rank % group:
            raise SharpError(
                f"{where}: groups of {group} 4-bit weights do not divide a basis of rank {rank}; use a multiple of "
                f"{group}, or quantize.linear: 8"
            )
        if sharers := self._sharers(name, basis):
            yield StoredLinear(f"{where}.basis", role, (rank, into), bits, group, uses=sharers)
        yield StoredLinear(f"{where}.coefficients", role, (out, rank), bits, group)

    def _sharers(self, name: str, basis: Basis) -> int:
        """How many layers call the basis that this layer stores for a matrix; 0 if another one stores it."""
        if name not in WITH_SHARED_BASIS:
            return 1
        if basis.first != self.index:
            return 0
        return sum(own.basis is not None and own.basis.first == self.index for own in self.recovery.values())

    def _recovery_matrices(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names and [out, in] of all private matrices."""
        for name, rank in zip(ATTENTION_MATRICES, self.attention.ranks, strict=True):
            for factor, shape in recovered_shapes(self.attention.form, rank, self.shapes[name]).items():
                yield f"attention.{name}.recovery.{factor}", shape
        if rank := self.attention.bypass:
            yield "attention.bypass.low", (rank, self.model.hidden)
            yield "attention.bypass.out", (self.model.hidden, rank)
        for factor, shape in fused_shapes(self.own, self.model.hidden, self.model.inner).items():
            yield f"mlp.recovery.{factor}", shape

    def vectors(self) -> Iterator[StoredVector]:
        """Biases that are added, since biases are never shared, and the α that remain (of MLPs those of gate and down).

        A MLP's biases are always added.
        """
        for name, (out, _) in self.shapes.items():
            if name in ATTENTION_MATRICES and self._has_bias(name) and self._adds_bias(name):
                yield StoredVector("attention", out)
        for _ in range(self._alphas()):
            yield StoredVector("recovery", 1)
        own, model = self.own, self.model
        if model.mlp_bias and not own.dropped:
            yield StoredVector("mlp", (2 * model.inner if own.reference else 0) + model.hidden)
            yield StoredVector("mlp" if own.pruned else "recovery", 2 * own.neurons)

    def _has_bias(self, name: str) -> bool:
        """Whether a projection of attention has a bias."""
        has = self.model.o_bias if name == "o" else self.model.qkv_bias
        return has and self.attends and (self.holds_keys or name in ("q", "o"))

    def _adds_bias(self, name: str) -> bool:
        """Whether that bias is an add of its own, because the linear is called by others, recovered or factored."""
        attention, basis = self.attention, self.own.basis
        recovered = attention.ranks[ATTENTION_MATRICES.index(name)] > 0
        if attention.kind == "kv":
            return recovered
        called = self.attention_calls != 1  # by others too, or another layer's
        return called or (basis is not None and name in basis.rank_of)

    def _alphas(self) -> int:
        """How many α there are: fusing leaves those of an MLP's gate and down."""
        of_mlp = 2 if self.own.reference and not self.own.direct and self.own.form == "lora" else 0
        attention = self.attention
        if attention.form != "lora" or not any(attention.ranks):
            return of_mlp
        return of_mlp + (4 if attention.kind == "weights" else sum(rank > 0 for rank in attention.ranks))


def _each(width: int, *norms: str | None) -> list[int]:
    """The width once for each norm that there is."""
    return [width for norm in norms if norm is not None]


def recovered_shapes(form: str, rank: int, shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """[out, in] of the private matrices around one projection [out, in], as `decoder.projections` names them."""
    if not rank:
        return {}
    out, into = shape
    shapes = {"low": (rank, into), "out": (out, rank)}
    if form == "right":
        shapes |= {"right_in": (rank, into), "right_out": (into, rank)}
    elif form == "left":
        shapes |= {"left_in": (rank, out), "left_out": (out, rank)}
    return shapes


def fused_shapes(own: Recovery, hidden: int, inner: int) -> dict[str, tuple[int, int]]:
    """[out, in] of the private matrices of a layer, as `decoder.fuse` names and stacks them."""
    if own.pruned:
        return {}
    low, shapes = 2 * own.neurons + own.bypass, {}
    for name, rank in zip(("gate", "up", "down"), own.ranks, strict=True):
        into, out = (inner, hidden) if name == "down" else (hidden, inner)
        if rank and name == "down":
            shapes["down_in"] = (rank, into)
        elif rank:
            low += rank
        if rank:
            shapes[f"{name}_out"] = (out, rank)
        if own.form == "left" and rank:
            shapes[f"{name}_left_in"], shapes[f"{name}_left_out"] = (rank, out), (out, rank)
        elif own.form == "right" and rank:
            if name == "down":
                shapes["down_right_in"] = (rank, into)
            else:
                low += rank
            shapes[f"{name}_right_out"] = (into, rank)
    if own.neurons:
        shapes["neurons_out"] = (hidden, own.neurons)
    if own.bypass:
        shapes["bypass_out"] = (hidden, own.bypass)
    return ({"low": (low, hidden)} if low else {}) | shapes
