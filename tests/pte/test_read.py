"""A program is read as ExecuTorch's own Python reads it, which is not imported for it."""

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGraph
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import convert_to_flatbuffer
from executorch.exir import ExecutorchBackendConfig, to_edge, to_edge_transform_and_lower
from executorch.exir._serialize._flatbuffer_program import _flatbuffer_to_program
from torch import nn

from sharp_mobile.errors import SharpError
from sharp_mobile.pte import flatc
from sharp_mobile.pte.flatc import PROGRAM, XNNPACK_GRAPH, as_json
from sharp_mobile.pte.read import delegate_graphs, mapped, parse, places_of, program_size, segments_of


class Clamped(nn.Module):
    """A linear, a clamp without an upper limit, and a constant that no delegate takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.register_buffer("table", torch.randn(16, 8))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(nn.functional.embedding(tokens, self.table)))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "model.pte"
    exported = torch.export.export(Clamped().requires_grad_(False), (torch.tensor([1, 2, 3]),), strict=False)
    edge = to_edge_transform_and_lower(
        exported, partitioner=[XnnpackPartitioner()], constant_methods={"get_eos_ids": [2, 3]}
    )
    path.write_bytes(edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True)).buffer)
    return path


def plain(value: Any) -> Any:
    """ExecuTorch's dataclasses as JSON names them; fields that are null or vectors of bytes left out."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        for name in ("val", "instr_args"):
            if name in fields:
                fields[f"{name}_type"] = type(getattr(value, name)).__name__
        return {name: found for name, found in fields.items() if found is not None}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value.name if isinstance(value, enum.Enum) else value


def without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("dim_order", "storage", "data", "value", "layout")  # and what JSON has as a number, not a name
        return {name: without_bytes(found) for name, found in value.items() if name not in left_out and found != []}
    return [without_bytes(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_a_program_is_what_executorch_reads(program: Path) -> None:
    with mapped(program) as data:
        found, base = parse(program, data)
        size, _ = program_size(data)
        theirs = _flatbuffer_to_program(data[:size])
        segments = segments_of(program, found, base, data)
    assert without_bytes(found) == without_bytes(plain(theirs))
    assert segments == [(base + s.offset, base + s.offset + s.size) for s in theirs.segments]
    assert places_of(found, segments) == {e.key: segments[e.segment_index] for e in theirs.named_data or []}


def test_a_delegate_s_graph_has_its_nodes_and_a_clamp_without_a_limit(program: Path) -> None:
    with mapped(program) as data:
        found, base = parse(program, data)
        (graph,) = delegate_graphs(program, found, data, segments_of(program, found, base, data))
    assert [node["xnode_union_type"] for node in graph["xnodes"]] == ["XNNFullyConnected"]
    assert graph["xnodes"][0]["output_min_max"] == {"output_min": 0.0, "output_max": float("inf")}
    assert graph["input_ids"] == [0]


def test_several_buffers_are_read_at_once_and_none_is_none() -> None:
    graphs = [XNNGraph("1", [], [], count, [], [], []) for count in (3, 5)]
    found = as_json(XNNPACK_GRAPH, [convert_to_flatbuffer(graph) for graph in graphs])
    assert [graph["num_externs"] for graph in found] == [3, 5]
    assert as_json(XNNPACK_GRAPH, []) == []


def test_constants_that_are_stored_inline_do_not_become_text(tmp_path: Path) -> None:
    exported = torch.export.export(Clamped().requires_grad_(False), (torch.tensor([1, 2, 3]),), strict=False)
    config = ExecutorchBackendConfig(extract_delegate_segments=False)
    buffer = to_edge(exported).to_executorch(config).buffer
    (found,) = as_json(PROGRAM, [buffer])
    assert len(json.dumps(found)) < 20_000


def test_numbers_that_json_does_not_have() -> None:
    found = flatc._parsed('{\n "a": inf,\n "b": -inf,\n "c": [\n nan,\n -inf\n],\n "d": "x inf,\\n -nan"\n}')
    assert (found["a"], found["b"], found["c"][1]) == (float("inf"), float("-inf"), float("-inf"))
    assert found["c"][0] != found["c"][0]
    assert found["d"] == "x inf,\n -nan"


def test_an_installation_without_flatc_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatc, "executorch_package", lambda: (tmp_path, "1.5.1"))
    with pytest.raises(SharpError, match=r"data/bin/flatc: is missing; install executorch again"):
        as_json(PROGRAM, [b"x"])
