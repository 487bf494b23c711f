"""What an export stores, from its architecture, plan and settings alone: every tensor, how many bits it has, and how
often the program calls it.

It lists what `decoder.build_decoder`, `decoder.fuse` and `quantize.nearest` make of a model, without making it; tests
compare the two tensor by tensor.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from sharp_mobile.decoder.role import LinearRole
from sharp_mobile.errors import SharpError
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.quantize.groups import eight_bit_bytes, four_bit_bytes, recovery_group
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recoveries, Recovery, recoveries
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
    """All tensors of an export, each once. norms: how many RMS norms the program has."""

    table: StoredTable
    linears: list[StoredLinear]
    vectors: list[StoredVector]
    norms: int

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
        SharpError: more own neurons than an MLP has, or recovery parameters whose widths 4-bit groups do not divide.
    """
    recovery = recoveries(plan, recovery)
    _check_neurons(model, plan, recovery)
    group, tied = quantize.group_size, model.tied and model.embedding_scale is None
    table = StoredTable((model.vocabulary, model.hidden), quantize.embedding_bits(tied), group)
    in_table = tied and table.bits == quantize.lm_head and table.bits != 4  # 4 bits are laid out differently
    lm_head = StoredLinear("lm_head", "lm_head", table.shape, quantize.lm_head, group, in_table=in_table)
    norms = list(_norms(model))
    linears = [*_attention(model, quantize), *_mlps(model, plan, recovery, quantize), lm_head]
    linears += _recovery_matrices(model, recovery, quantize)
    vectors = [*(StoredVector("rest", width) for width in norms), *_rest(model, norms), *_mlp_vectors(model, recovery)]
    return StoredTensors(table, linears, vectors, len(norms))


def rounded_shapes(tensors: StoredTensors) -> list[tuple[int, int]]:
    """[out, in] of the linears whose bits text decides over (see `bit_allocation`), each once."""
    return [linear.shape for linear in tensors.linears if linear.role in ("attention", "mlp")]


def _check_neurons(model: Architecture, plan: SharePlan, recovery: Recoveries) -> None:
    for layer, own in recovery.items():
        try:
            own.check_fits(model.inner)
        except SharpError as error:
            reference = plan.reference_of.get(layer, layer)
            raise SharpError(f"share plan: layer {layer + 1} cannot share layer {reference + 1}: {error}") from error


def _norms(model: Architecture) -> Iterator[int]:
    """The width of every RMS norm."""
    family = model.family
    around = (family.pre_attention_norm, family.post_attention_norm, family.pre_mlp_norm, family.post_mlp_norm)
    widths = [model.hidden] * sum(norm is not None for norm in around)
    widths += {
        None: [],
        "head": [model.head_width, model.head_width],
        "width": [model.query_width, model.key_width],
    }[family.qk_norm]
    yield from widths * model.layers
    yield model.hidden


def _rest(model: Architecture, norms: list[int]) -> Iterator[StoredVector]:
    """What norms of a width have in common, RoPE's tables and the cap of logits."""
    for width in set(norms):
        yield StoredVector("rest", width)  # the row that takes the mean
    yield StoredVector("rest", 1)  # ε
    for _ in model.tables:  # frequencies, factors of cos and of sin
        yield StoredVector("rest", 3 * model.head_width)
    if model.logit_cap is not None:
        yield StoredVector("rest", 1)


def _attention(model: Architecture, quantize: QuantizeSettings) -> Iterator[StoredLinear]:
    queries, keys = (model.query_width, model.hidden), (model.key_width, model.hidden)
    for layer in range(model.layers):
        for name, shape in (("q", queries), ("k", keys), ("v", keys), ("o", queries[::-1])):
            bias = model.o_bias if name == "o" else model.qkv_bias
            where = f"layers.{layer + 1}.attention.{name}"
            yield StoredLinear(where, "attention", shape, quantize.linear, quantize.group_size, bias)


def _mlps(
    model: Architecture, plan: SharePlan, recovery: Recoveries, quantize: QuantizeSettings
) -> Iterator[StoredLinear]:
    """The MLPs of all layers but the targets, called by their targets too."""
    wide = (model.inner, model.hidden)
    for layer in range(model.layers):
        if layer in plan.reference_of:
            continue
        targets = [target for target, reference in plan.reference_of.items() if reference == layer]
        uses = 1 + sum(recovery[target].reference for target in targets)
        for name, shape in (("gate", wide), ("up", wide), ("down", wide[::-1])):
            where = f"layers.{layer + 1}.mlp.{name}"
            yield StoredLinear(where, "mlp", shape, quantize.linear, quantize.group_size, uses=uses)


def _recovery_matrices(model: Architecture, recovery: Recoveries, quantize: QuantizeSettings) -> Iterator[StoredLinear]:
    for layer, own in recovery.items():
        for name, shape in fused_shapes(own, model.hidden, model.inner).items():
            where, group = f"layers.{layer + 1}.mlp.recovery.{name}", 0
            if quantize.recovery == 4:
                try:
                    group = recovery_group(shape[1])
                except SharpError as error:
                    raise SharpError(f"{where}: {error}") from error
            yield StoredLinear(where, "recovery", shape, quantize.recovery, group)


def fused_shapes(own: Recovery, hidden: int, inner: int) -> dict[str, tuple[int, int]]:
    """[out, in] of the private matrices of a layer, as `decoder.fuse` names and stacks them."""
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


def _mlp_vectors(model: Architecture, recovery: Recoveries) -> Iterator[StoredVector]:
    """Biases of MLPs, which are never shared, and the α that fusing leaves (those of gate and down)."""
    for layer in range(model.layers):
        own = recovery.get(layer, Recovery())
        if model.mlp_bias:
            yield StoredVector("mlp", (2 * model.inner if own.reference else 0) + model.hidden)
            yield StoredVector("recovery", 2 * own.neurons)
        if own.reference and not own.direct and own.form == "lora":
            yield StoredVector("recovery", 2)
