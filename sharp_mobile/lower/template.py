"""Lower one segment of a kind; make every further one of that kind from it.

Tracing a segment and running XNNPACK's passes over its graph takes seconds; turning the resulting graph and a set of
tensors into a delegate takes milliseconds. Segments of one kind differ in their tensors alone, so the first of a kind
is traced as a **template**, and every segment, the first included, is an instance: the template's graph with the
segment's own tensors.

A segment goes to XNNPACK whole, so there is nothing to partition: an operator that XNNPACK does not know is an error.
This also lets slices of dynamic length in, which ExecuTorch 1.5.1's partitioner leaves outside although its runtime
takes them: a slice size of 0 means "to the end of the dimension".
"""

from dataclasses import dataclass
from typing import Any

import torch
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.backends.xnnpack.operators.node_visitor import get_node_visitors
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset, XNNGraph
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
from executorch.backends.xnnpack.utils.configs import get_xnnpack_edge_compile_config
from executorch.backends.xnnpack.xnnpack_preprocess import (
    DEFAULT_DEBUG_HANDLE,
    XnnpackBackend,
    generate_node_to_external_map,
)
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.verification.verifier import EXIREdgeDialectVerifier
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from sharp_mobile.errors import SharpError

_STATE_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True)
class Template:
    """A lowered segment without its tensors.

    edge_program: the segment's graph, through which the outer model propagates shapes.
    xnnpack_program: the same after XNNPACK's passes, ready to be serialized.
    """

    edge_program: ExportedProgram
    xnnpack_program: ExportedProgram

    def instance(self, segment: nn.Module) -> LoweredBackendModule:
        """The delegate that computes `segment`, a module of this template's kind.

        Raises:
            SharpError: XNNPACK does not know an operator of the segment.
        """
        graph, tensors = serialize(_with_state(self.xnnpack_program, segment))
        lowered = LoweredBackendModule(
            self.edge_program, XnnpackBackend.__name__, graph, [], tensors.get_named_data_store_output()
        )
        lowered.meta = {"debug_handle_map": {}}
        return lowered


def kind_of(segment: nn.Module) -> str:
    """What two segments have in common if they are instances of one template: structure, settings, shapes."""
    return f"{segment} {[(name, tuple(tensor.shape), tensor.dtype) for name, tensor in _state(segment).items()]}"


def trace_template(segment: nn.Module, example: tuple[torch.Tensor, ...], dynamic_shapes: Any) -> Template:
    """Trace a segment and run XNNPACK's passes on it.

    Args:
        segment: a module whose whole forward XNNPACK can take.
        example: inputs of the right shapes; values do not matter.
        dynamic_shapes: as `torch.export.export` takes them.
    """
    exported = torch.export.export(segment, example, dynamic_shapes=dynamic_shapes, strict=False)
    config = EdgeCompileConfig(
        _check_ir_validity=False, _skip_dim_order=True, preserve_ops=[torch.ops.aten.linear.default]
    )
    edge_program = to_edge(exported, compile_config=config).exported_program()
    xnnpack_program = XNNPACKPassManager(_unverified(edge_program)).transform()
    computed = {spec.target for spec in _state_specs(xnnpack_program)} - _state(segment).keys()
    if computed:
        # Such a constant would be the first segment's in every instance.
        raise AssertionError(f"XNNPACK's passes made constants of their own: {sorted(map(str, computed))}")
    return Template(edge_program, xnnpack_program)


def _state(segment: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(segment.named_parameters()), **dict(segment.named_buffers())}


def _state_specs(program: ExportedProgram) -> list[Any]:
    return [spec for spec in program.graph_signature.input_specs if spec.kind in _STATE_KINDS]


def _with_state(program: ExportedProgram, segment: nn.Module) -> ExportedProgram:
    state = _state(segment)
    return _unverified(program, {spec.target: state[spec.target] for spec in _state_specs(program)})


def _unverified(program: ExportedProgram, state: dict[str, Any] | None = None) -> ExportedProgram:
    """The program again, with other tensors if given, and free of checks that XNNPACK's own passes would fail."""
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict if state is None else state,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants if state is None else state,
        verifiers=[EXIREdgeDialectVerifier(edge_compile_config=get_xnnpack_edge_compile_config(), class_only=True)],
    )


def serialize(program: ExportedProgram) -> tuple[bytes, NamedDataStore]:
    """XNNPACK's flatbuffer of a graph that its passes are done with, and the tensors it names by their SHA-256.

    This is the last part of `XnnpackBackend.preprocess` (a test holds that both give the same bytes), with slices of
    dynamic length added.

    Raises:
        SharpError: XNNPACK does not know an operator.
    """
    tensors = NamedDataStore()
    externals = generate_node_to_external_map(program, program.graph_module)
    visitors = get_node_visitors(program, externals, tensors)
    graph = XNNGraph(
        version="0",
        xnodes=[],
        xvalues=[],
        num_externs=len(externals),
        input_ids=[],
        output_ids=[],
        constant_data=[ConstantDataOffset(0, 0)],
    )
    ids: dict[torch.fx.Node, int] = {}
    for node in program.graph_module.graph.nodes:
        if node.op != "call_function":
            continue
        operator = node.target.__name__
        if operator not in visitors:
            raise SharpError(f"operator {operator} cannot be lowered to XNNPACK, and nothing heavy may be left outside")
        visitors[operator].define_node(node, graph, ids, node.meta.get("debug_handle", DEFAULT_DEBUG_HANDLE))
        if operator == "aten.slice_copy.Tensor":
            sizes = node.meta["val"].shape
            graph.xnodes[-1].xnode_union.sizes = [size if isinstance(size, int) else 0 for size in sizes]
    return serialize_xnnpack_binary(graph, bytearray()), tensors
