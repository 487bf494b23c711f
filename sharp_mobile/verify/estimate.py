"""What an export takes, predicted from the list of its tensors: no weight is read, nothing is lowered.

    file      = Σ bytes of the distinct tensors  +  program
    resident  = Σ packed bytes of the distinct linears  +  KV cache  +  activations  +  program and runtime

Which tensors there are, with how many bits, `quantize.stored` lists. Only what comes on top of them is modelled, by
constants that were measured.

Resident is what a process holds after loading a `.pte` and a forward pass of one token, with XNNPACK's weight cache on:
what is packed (its own memory in the first launch, pages of the packed file in later ones), the KV cache, the
activations that ExecuTorch plans for its longest step, constants and program, which are pages of the `.pte`, and the
runtime. `bench` measures the same.
"""

from typing import NamedTuple

from sharp_mobile.decoder.options import DecoderOptions
from sharp_mobile.model.architecture import Architecture
from sharp_mobile.quantize.stored import StoredTensors

# Bytes of a program in addition to its tensors: graphs, names and padding. Fitted to exports of SmolLM2-135M
# (344,444 unshared), of the 1 B shape and of tiny models of five families, with both kinds of attention.
_PROGRAM = 7_900
_ATTENTION = {"custom_sdpa": 2_950, "portable": 6_100}
_CACHE = {"custom_sdpa": 1_150, "portable": 2_500}  # of an attention that has keys and values of its own
_LINEAR, _NORM = 740, 930

_FLOAT = 4
# XNNPACK packs with each output of a linear the sum of its codes and a bias, and with an 8-bit one its scale.
_PACKED_ROW = 2 * _FLOAT
# Code, heap, and pages of the `.pte` that Linux maps around those that are read: 16 to 26 MB in the host's runner.
_RUNTIME = 22_000_000


class FileBytes(NamedTuple):
    """Bytes of a `.pte`, by what they are for.

    lm_head: what it adds to the embedding if they are one weight. attention, mlps: projections, their scales and
    biases; what is shared counts once. eight_bit_budget: what some of these have more,
    because text gives them 8 bits. recovery: what the targets have of their own. rest: norms, RoPE. program: graphs,
    names and padding.
    """

    embedding: int
    lm_head: int
    attention: int
    mlps: int
    eight_bit_budget: int
    recovery: int
    rest: int
    program: int

    @property
    def total(self) -> int:
        return sum(self)


class ResidentBytes(NamedTuple):
    """Resident bytes of a model in use; see the module. constants: norms, RoPE and the program."""

    packed: int
    cache: int
    activations: int
    constants: int
    runtime: int

    @property
    def total(self) -> int:
        return sum(self)


def file_bytes(tensors: StoredTensors, options: DecoderOptions, eight_bit_budget: int = 0) -> FileBytes:
    """Bytes of the `.pte` of a model whose export stores these tensors.

    Args:
        eight_bit_budget: bytes to spend on 8 bits instead of 4 (see `groups.budgeted_bytes`).
    """
    return FileBytes(
        embedding=tensors.nbytes("embedding"),
        lm_head=tensors.nbytes("lm_head"),
        attention=tensors.nbytes("attention"),
        mlps=tensors.nbytes("mlp"),
        eight_bit_budget=eight_bit_budget,
        recovery=tensors.nbytes("recovery"),
        rest=tensors.nbytes("rest"),
        program=_program_bytes(tensors, options),
    )


def resident_bytes(
    model: Architecture, tensors: StoredTensors, options: DecoderOptions, eight_bit_budget: int = 0
) -> ResidentBytes:
    """Resident bytes of that `.pte` in use; see `file_bytes`."""
    packed = sum(linear.weight_bytes + linear.shape[0] * _PACKED_ROW for linear in tensors.linears)
    return ResidentBytes(
        packed=packed + eight_bit_budget,
        cache=2 * tensors.caches * model.key_width * options.max_length * _FLOAT,
        activations=_activation_bytes(model, options),
        constants=tensors.nbytes("rest") + _program_bytes(tensors, options),
        runtime=_RUNTIME,
    )


def _program_bytes(tensors: StoredTensors, options: DecoderOptions) -> int:
    """Bytes around the tensors: what describes each attention and its cache, and each call of a linear and a norm."""
    calls = sum(linear.uses for linear in tensors.linears)
    attentions = _ATTENTION[options.attention] * tensors.attentions + _CACHE[options.attention] * tensors.caches
    return _PROGRAM + attentions + _LINEAR * calls + _NORM * tensors.norms


def _activation_bytes(model: Architecture, options: DecoderOptions) -> int:
    """What ExecuTorch plans for the longest step: around a segment, or around portable attention, which is more.

    A segment reads hidden states, attention's output and the RoPE tables, and gives hidden states, q, k and v.
    """
    tables = 2 * model.head_width * len(model.tables)
    queries, keys = model.query_width, model.key_width
    segment = options.chunk * (2 * model.hidden + 2 * queries + 2 * keys + tables)
    if options.attention == "custom_sdpa":
        return _FLOAT * segment
    scores, mask = model.heads * options.chunk * options.max_length, options.chunk * options.max_length
    caches = 2 * keys * options.max_length
    attention = 2 * scores + mask + caches + options.chunk * (model.hidden + tables)
    return _FLOAT * max(segment, attention)
