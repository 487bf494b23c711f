"""An instance of a template is what XNNPACK's own lowering of the same segment would have been."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, _get_schema_bytes
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.extension.pybindings import portable_lib
from tiny_models import tiny_model
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.lower.decoder import Decoder, DecoderOptions, build_decoder
from sharp_mobile.lower.quantize import QuantizeOptions, quantize
from sharp_mobile.lower.runtime import quiet_native
from sharp_mobile.lower.template import Template, kind_of, trace_template
from sharp_mobile.plan import SharePlan
from sharp_mobile.share import Recovery, recovery_parameters, share_layers

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
    decoder = build_decoder(model.requires_grad_(False), DecoderOptions(LONGEST + 1))
    if quantized:
        quantize(decoder, QuantizeOptions(lm_head=8, recovery=8))
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


def slices(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node["xnode_union"] for node in graph["xnodes"] if node["xnode_union_type"] == "XNNStaticSlice"]


def test_an_instance_without_slices_is_xnnpacks_own(quantized_decoder: Decoder) -> None:
    exit_ = quantized_decoder.exit
    template = trace_template(exit_, inputs(8)[:2], LENGTH)
    expected = XnnpackBackend.preprocess(copy.deepcopy(template.program), [])
    lowered, _ = template.instance(exit_)
    assert lowered.processed_bytes == expected.processed_bytes
    assert stored(lowered.named_data_store_output) == stored(expected.data_store_output)


def test_an_instance_of_another_segments_template_is_xnnpacks_own_but_for_slices(
    quantized_decoder: Decoder, template: Template, tmp_path: Path
) -> None:
    """The third layer's segment, from the template of the first's, against its own lowering from the start."""
    segment = quantized_decoder.middles[0] if False else other_plain_segment(quantized_decoder)
    fresh = trace_template(segment, inputs(8), None).program
    expected = XnnpackBackend.preprocess(fresh, [])
    lowered, _ = template.instance(segment)
    assert stored(lowered.named_data_store_output) == stored(expected.data_store_output)
    ours, theirs = (graph_of(b, tmp_path) for b in (lowered.processed_bytes, expected.processed_bytes))
    assert len(slices(ours)) == len(slices(theirs)) > 0
    print(slices(ours)[:2], slices(theirs)[:2], ours["xvalues"][0], theirs["xvalues"][0])


def other_plain_segment(decoder: Decoder) -> nn.Module:
    return decoder.middles[1]
