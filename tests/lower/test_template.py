"""An instance of a template is what XNNPACK's own lowering of the same segment would have been."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.extension.pybindings import portable_lib
from tiny_models import tiny_model
from torch import nn
from transformers.activations import ACT2FN

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.segments import lowerable
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.template import Template, kind_of, trace_template
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.pte.runtime import quiet_native
from sharp_mobile.quantize.nearest import quantize, quantize_linear, quantize_modules
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery

LONGEST = 15
LENGTH = torch.export.Dim("tokens", min=1, max=LONGEST)


def inputs(tokens: int) -> tuple[torch.Tensor, ...]:
    """What follows a layer's attention: the residual stream, the attended values, and RoPE's two tables."""
    angles = torch.rand(1, tokens, 1, 16)
    return torch.randn(1, tokens, 64), torch.randn(1, tokens, 64), angles.cos(), angles.sin()


def make_decoder(quantized: bool) -> Decoder:
    """Four layers, the third calling the second's MLP."""
    model = tiny_model(num_hidden_layers=4)
    share_layers(model, SharePlan.parse("2:3", 4), Recovery("lora", 32))
    for _, parameter in recovery_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    decoder = build_decoder(model.requires_grad_(False), LowerSettings(max_length=LONGEST + 1))
    if quantized:
        quantize(decoder, QuantizeSettings())
    return decoder


@pytest.fixture(scope="module")
def quantized_decoder() -> Decoder:
    torch.manual_seed(0)
    return make_decoder(quantized=True)


@pytest.fixture(scope="module")
def template(quantized_decoder: Decoder) -> Template:
    """Of a middle segment, traced on the first one."""
    return trace_template(quantized_decoder.middles[0], inputs(8), LENGTH)


def graph_of(lowered: bytes, directory: Path) -> dict[str, Any]:
    """The flatbuffer of a delegate as JSON."""
    header = XNNHeader.from_bytes(lowered[: XNNHeader.EXPECTED_LENGTH])
    flatbuffer = lowered[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    (directory / "schema.fbs").write_bytes(_get_schema_bytes())
    (directory / "graph.bin").write_bytes(flatbuffer)
    _flatc_decompile(str(directory), str(directory / "schema.fbs"), str(directory / "graph.bin"), ["--raw-binary"])
    return json.loads((directory / "graph.json").read_text())


def stored(output: Any) -> dict[str, bytes]:
    """Named tensors of a delegate: key → bytes."""
    return {key: bytes(output.buffers[entry.buffer_index]) for key, entry in output.pte_data.items()}


@pytest.mark.slow
def test_an_instance_without_slices_is_xnnpacks_own(quantized_decoder: Decoder) -> None:
    exit_ = quantized_decoder.exit
    template = trace_template(exit_, inputs(8)[:2], LENGTH)
    expected = XnnpackBackend.preprocess(copy.deepcopy(template.program), [])
    lowered = template.instance(exit_)[0].lowered
    assert lowered.processed_bytes == expected.processed_bytes
    assert stored(lowered.named_data_store_output) == stored(expected.data_store_output)


@pytest.mark.slow
def test_another_segments_instance_is_xnnpacks_own_but_for_dynamic_slices(
    quantized_decoder: Decoder, template: Template, tmp_path: Path
) -> None:
    """The second layer's segment, from the template of the first's, against its own lowering from the start.

    XNNPACK's own gives slices the longest length; an instance's say 0, "to the end".
    """
    segment = quantized_decoder.middles[1]
    expected = XnnpackBackend.preprocess(trace_template(segment, inputs(8), LENGTH).program, [])
    lowered = template.instance(segment)[0].lowered
    assert stored(lowered.named_data_store_output) == stored(expected.data_store_output)
    ours, theirs = (graph_of(b, tmp_path) for b in (lowered.processed_bytes, expected.processed_bytes))
    slices = [node["xnode_union"] for node in ours["xnodes"] if node["xnode_union_type"] == "XNNStaticSlice"]
    assert slices
    for node in slices:
        assert node["sizes"][1] == 0
        node["sizes"][1] = LONGEST
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, 96], ids=["8 bits", "4 bits in other groups"])
def test_an_instance_has_its_own_bits_and_groups(group: int | None, template: Template) -> None:
    """A segment with one linear unlike those of the template's, against what its own template gives; and back."""
    segment = make_decoder(quantized=False).middles[0]
    down = quantize_linear(segment.end.mlp.down, 4 if group else 8, group or 0)
    quantize_modules(segment, QuantizeSettings(lm_head=4), 4)
    plain = template.instance(segment)[0].lowered.processed_bytes
    segment.end.mlp.down = down
    own = trace_template(segment, inputs(8), LENGTH).instance(segment)[0].lowered
    lowered = template.instance(segment)[0].lowered
    assert lowered.processed_bytes == own.processed_bytes != plain
    assert stored(lowered.named_data_store_output) == stored(own.named_data_store_output)
    quantized = make_decoder(quantized=True).middles[0]
    assert template.instance(quantized)[0].lowered.processed_bytes == plain


@pytest.mark.slow
def test_two_instances_store_what_is_their_own_apart(quantized_decoder: Decoder, template: Template) -> None:
    (first, first_keys), (second, second_keys) = (template.instance(m) for m in quantized_decoder.middles[:2])
    assert first_keys.keys() == second_keys.keys()
    same = {name for name in first_keys if first_keys[name] == second_keys[name]}
    assert {name.rpartition(".")[2] for name in same} == {"mean"}  # of the RMS norms
    for delegate, keys in ((first, first_keys), (second, second_keys)):
        # The scales have no placeholder.
        assert set(keys.values()) < stored(delegate.lowered.named_data_store_output).keys()


@pytest.mark.slow
def test_keys_name_the_bytes_of_the_tensors(quantized_decoder: Decoder, template: Template) -> None:
    segment = quantized_decoder.middles[1]
    delegate, keys = template.instance(segment)
    blobs = stored(delegate.lowered.named_data_store_output)
    mean = segment.end.pre_mlp_norm.mean
    assert blobs[keys["end.pre_mlp_norm.mean"]] == mean.numpy().tobytes()
    assert blobs[keys["end.mlp.gate.codes"]] == segment.end.mlp.gate.codes.numpy().tobytes()


def test_kinds_tell_structures_apart_and_neither_tensors_nor_bits() -> None:
    decoder = make_decoder(quantized=False)
    plain, reference, target = decoder.middles
    assert kind_of(plain) == kind_of(reference) != kind_of(target)
    other = build_decoder(tiny_model(num_hidden_layers=4, seed=1), LowerSettings(max_length=LONGEST + 1))
    assert kind_of(other.middles[0]) == kind_of(plain)
    before = kind_of(plain)
    plain.end.mlp.down = quantize_linear(plain.end.mlp.down, 8, 0)
    quantize(decoder, QuantizeSettings(lm_head=4))
    assert before != kind_of(plain) == kind_of(reference)


def test_kinds_tell_apart_which_of_their_modules_are_one() -> None:
    """Layers without attention follow one another in a segment, where one may call the MLP of any before it."""

    def chain(*places: int) -> nn.Module:
        linears = [nn.Linear(4, 4) for _ in range(3)]
        return nn.Sequential(*(linears[place] for place in places))

    assert kind_of(chain(0, 1, 2)) == kind_of(chain(2, 1, 0))
    assert len({kind_of(chain(*places)) for places in ((0, 1, 2), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 0, 0))}) == 5


class Pointwise(nn.Module):
    """A segment of one operator, with a number of its own in the code."""

    def __init__(self, operator: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.operator(x * 2.5),)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (lambda x: torch.cumsum(x, dim=-1), "cumsum"),
        (torch.erf, "erf"),
        # XNNPACK's serializer takes these for the exact GELU and for the square.
        (lambda x: F.gelu(x, approximate="tanh"), "gelu"),
        (lambda x: x**3, "pow"),
    ],
    ids=["cumsum", "erf", "gelu-tanh", "cube"],
)
def test_an_operator_that_xnnpack_does_not_know_is_an_error(operator: Any, name: str) -> None:
    segment = Pointwise(operator)
    template = trace_template(segment, (torch.randn(1, 8, 4),), LENGTH)
    with pytest.raises(SharpError, match=rf"operator aten\.{name}\S* cannot be lowered to XNNPACK"):
        template.instance(segment)


@pytest.mark.slow
def test_what_xnnpack_does_not_pack_is_given_to_the_delegate(
    quantized_decoder: Decoder, template: Template, tmp_path: Path
) -> None:
    """The weight cache of ExecuTorch 1.5.1 frees all constants of a delegate, so none may be read after packing."""
    names = {"end.pre_mlp_norm.gain", "end.pre_mlp_norm.epsilon", "start.norm.gain", "start.norm.epsilon"}
    assert set(template.given) == names
    segment = quantized_decoder.middles[1]
    delegate, keys = template.instance(segment)
    assert names.isdisjoint(keys)
    for name, tensor in zip(template.given, delegate.buffers(), strict=True):
        assert torch.equal(tensor, segment.get_buffer(name))
    graph = graph_of(delegate.lowered.processed_bytes, tmp_path)
    linears = [node["xnode_union"] for node in graph["xnodes"] if node["xnode_union_type"] == "XNNFullyConnected"]
    packed = {linear["filter_id"] for linear in linears} | {linear["bias_id"] for linear in linears}
    values = [value["xvalue_union"] for value in graph["xvalues"]]
    tensors = [value.get("tensor_value", value) for value in values]
    assert {tensor["id_out"] for tensor in tensors if tensor["constant_buffer_idx"]} <= packed


def run(segment: nn.Module, example: tuple[torch.Tensor, ...], directory: Path) -> Any:
    """The segment as a program of one delegate."""
    delegate, _ = trace_template(segment, example, LENGTH).instance(segment)
    dynamic = (tuple({1: LENGTH} for _ in example),)
    exported = torch.export.export(delegate, example, dynamic_shapes=dynamic, strict=False)
    edge = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True))
    (directory / "segment.pte").write_bytes(edge.to_executorch().buffer)
    with quiet_native():
        return portable_lib._load_for_executorch(str(directory / "segment.pte"))


@pytest.mark.slow
def test_a_delegate_computes_what_its_segment_computes_at_every_length(tmp_path: Path) -> None:
    """The segment after a target's attention: fused MLP, the next layer's q, k, v, slices and all."""
    segment = make_decoder(quantized=False).middles[2]
    program = run(segment, inputs(8), tmp_path)
    for tokens in (1, 5, LONGEST, 2):
        values = inputs(tokens)
        with quiet_native():
            computed = program.forward(values)
        for ours, expected in zip(computed, segment(*values), strict=True):
            assert ours.shape == expected.shape
            assert (ours - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "quick_gelu", "relu"])
def test_activations_are_pytorchs(name: str, tmp_path: Path) -> None:
    x = torch.linspace(-6, 6, 60).view(1, 15, 4)
    program = run(Pointwise(lowerable(ACT2FN[name])), (torch.randn(1, 8, 4),), tmp_path)
    with quiet_native():
        (computed,) = program.forward((x,))
    torch.testing.assert_close(computed, ACT2FN[name](x * 2.5), rtol=1e-5, atol=1e-5)
