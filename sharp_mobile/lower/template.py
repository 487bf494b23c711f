"""Lower one segment of a kind; make every further one of that kind from it.

Tracing a segment takes seconds; turning the resulting graph and a set of tensors into a delegate takes milliseconds.
Segments of one kind differ in their tensors alone, and in the bits of their linears, so the first of a kind is traced
as a **template**, and every segment, the first included, is an instance: the template's graph with the segment's own
tensors and bits.

A segment goes to XNNPACK whole, so there is nothing to partition: an operator that XNNPACK does not know is an error.
This also lets slices of dynamic length in, which ExecuTorch 1.5.1's partitioner leaves outside although its runtime
takes them: a slice size of 0 means "to the end of the dimension".

A delegate holds only what XNNPACK packs: weights and biases of linears. What it reads at every step, such as a norm's
gain, is an input of the delegate and a constant of the outer model. With XNNPACK's weight cache on, as it is on phones,
ExecuTorch 1.5.1 unmaps all constants of a delegate once they are packed, whether they were packed or not
(`XNNWeightsCache::finalize_for_runtime`), and the first step would read them and die.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from executorch.backends.xnnpack.operators.node_visitor import get_node_visitors, get_tensor_value
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset, XNNGraph
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
from executorch.backends.xnnpack.utils.quant_utils import is_dynamic_qdq, tag_as_implicit_q_dq
from executorch.backends.xnnpack.xnnpack_preprocess import (
    DEFAULT_DEBUG_HANDLE,
    XnnpackBackend,
    generate_node_to_external_map,
)
from executorch.exir import EdgeCompileConfig, to_edge
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.lowered_backend_module import LoweredBackendModule
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, InputKind, InputSpec

from sharp_mobile.decoder.integer import QuantizedLinear, unpacked
from sharp_mobile.errors import SharpError

_STATE_KINDS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


@dataclass(frozen=True)
class Template:
    """A traced kind of segment, without its tensors.

    program: the segment's graph in the edge dialect, ready to be serialized.
    given: tensors that the delegate is given as its first inputs, by name; those of the segment's state are each
        instance's own.
    shapes: a program with the same inputs and outputs that computes nothing. The outer model runs a delegate's program
        many times to propagate shapes through it; with the real one that took most of an export's time.
    """

    program: ExportedProgram
    given: dict[str, torch.Tensor]
    shapes: ExportedProgram

    def instance(self, segment: nn.Module) -> tuple["Delegate", dict[str, str]]:
        """The delegate that computes `segment`, a module of this template's kind.

        Returns:
            The delegate, and the key under which each of the tensors in it is stored (the SHA-256 of its bytes).

        Raises:
            SharpError: XNNPACK does not know an operator of the segment.
        """
        with unpacked(segment):
            program = _with_state(self.program, segment)
            _set_grids(program, segment)
            graph, tensors, key_of = serialize(program)
            program.state_dict.clear()  # programs refer to themselves, so their tensors would wait for the collector
            own = _state(segment)
        lowered = LoweredBackendModule(
            self.shapes, XnnpackBackend.__name__, graph, [], tensors.get_named_data_store_output()
        )
        lowered.meta = {"debug_handle_map": {}}
        names = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target in own}
        delegate = Delegate(lowered, [_alone(own.get(name, tensor)) for name, tensor in self.given.items()])
        return delegate, {names[placeholder]: key for placeholder, key in key_of.items() if placeholder in names}


class Delegate(nn.Module):
    """A lowered segment with the tensors that it is given; returns a tuple, as the segment does."""

    def __init__(self, lowered: LoweredBackendModule, given: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.lowered, self.count = lowered, len(given)
        for index, tensor in enumerate(given):
            self.register_buffer(f"given_{index}", tensor.detach())

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = [self.get_buffer(f"given_{index}") for index in range(self.count)]
        return tuple(self.lowered(*given, *inputs))

    def hold_in(self, stored: dict[str, bytes]) -> dict[str, bytes]:
        """Take the tensors that other delegates have stored from there, by their keys, and add those that are new."""
        tensors = self.lowered.named_data_store_output
        for key, entry in tensors.pte_data.items():
            tensors.buffers[entry.buffer_index] = stored.setdefault(key, tensors.buffers[entry.buffer_index])
        return stored

    def forget(self) -> None:
        """Drop the tensors, once they are written: PyTorch's caches of shapes hold lowered modules for good."""
        self.lowered.named_data_store_output.buffers.clear()


class _Shapes(nn.Module):
    """Outputs of the segment's shapes, as long as its last input, with nothing in them."""

    def __init__(self, outputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.shapes = [output.shape[2:] for output in outputs]

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(inputs[-1].new_empty((1, inputs[-1].shape[1], *shape)) for shape in self.shapes)


def kind_of(segment: nn.Module) -> str:
    """What two segments have in common if they are instances of one template: structure, settings, shapes."""

    def settings(module: nn.Module) -> str:
        if isinstance(module, QuantizedLinear):
            return f"{module.shape} {module.bias is not None}"
        tensors = _state(module, recurse=False)
        return (
            f"{module.extra_repr()} {[(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]}"
        )

    first: dict[nn.Module, str] = {}
    described = []
    for name, module in segment.named_modules(remove_duplicate=False):
        if module in first:  # called in two places
            described.append(f"{name} is {first[module]}")
        else:
            first[module] = name
            described.append(str((name, type(module), settings(module))))
    return str(described)


def trace_template(segment: nn.Module, example: tuple[torch.Tensor, ...], length: Dim | None) -> Template:
    """Trace a segment.

    Args:
        segment: a module whose whole forward XNNPACK can take.
        example: inputs [1, S, ...] of the right shapes, no tensor twice; values do not matter.
        length: the `torch.export.Dim` of S, or None where S is fixed.
    """
    config = EdgeCompileConfig(
        _check_ir_validity=False, _skip_dim_order=True, preserve_ops=[torch.ops.aten.linear.default]
    )
    with unpacked(segment):
        program = to_edge(_export(segment, example, length), compile_config=config).exported_program()
    _tag_quantized_inputs(program)
    program, given = _with_given(program)
    outputs = [node.meta["val"] for node in program.graph.output_node().all_input_nodes]
    shapes = _export(_Shapes(outputs), (*given.values(), *example), length, dynamic=example)
    return Template(program, given, shapes)


def _export(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    length: Dim | None,
    *,
    dynamic: tuple[torch.Tensor, ...] | None = None,
) -> ExportedProgram:
    """Export with the second dimension of `dynamic`, all inputs by default, of any length."""
    shapes = torch.export.ShapesCollection()
    if length is not None:
        for tensor in inputs if dynamic is None else dynamic:
            shapes[tensor] = {1: length}
    return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]


def _tag_quantized_inputs(program: ExportedProgram) -> None:
    """Mark the inputs of linears that are quantized at run time, as XNNPACK's own passes do.

    XNNPACK's serializer refuses a linear with a bias whose input it does not take for quantized.
    """
    for node in program.graph.nodes:
        if is_dynamic_qdq(node):
            tag_as_implicit_q_dq(node)


def _packed(node: torch.fx.Node) -> bool:
    """Whether XNNPACK packs a tensor, because it is only ever a linear's weight or bias, or belongs to their codes."""
    return all(
        "dequantize_affine" in user.target.__name__  # type: ignore[union-attr]
        or (user.target.__name__ == "aten.linear.default" and user.args[0] is not node)  # type: ignore[union-attr]
        for user in node.users
    )


def _with_given(program: ExportedProgram) -> tuple[ExportedProgram, dict[str, torch.Tensor]]:
    """The program with all tensors that XNNPACK does not pack as inputs, and these in order."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    tensors = {**program.state_dict, **program.constants}
    specs, given = [], {}
    for spec in program.graph_signature.input_specs:
        if spec.kind in _STATE_KINDS and not _packed(nodes[spec.arg.name]):
            given[str(spec.target)] = tensors[str(spec.target)]
            spec = InputSpec(InputKind.USER_INPUT, spec.arg, None)
        specs.append(spec)
    signature = ExportGraphSignature(specs, program.graph_signature.output_specs)
    return _rebuilt(program, signature), given


def _state(module: nn.Module, *, recurse: bool = True) -> dict[str, torch.Tensor]:
    """By name; what is called in several places has several, and `torch.export` takes the last."""
    parameters = module.named_parameters(recurse=recurse, remove_duplicate=False)
    buffers = module.named_buffers(recurse=recurse, remove_duplicate=False)
    return {**dict(parameters), **dict(buffers)}


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in a separate storage: XNNPACK's serializer writes the whole storage of what may be a view."""
    if tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    own = tensor.detach().clone()
    return nn.Parameter(own, requires_grad=False) if isinstance(tensor, nn.Parameter) else own


def _with_state(program: ExportedProgram, segment: nn.Module) -> ExportedProgram:
    """The program with a segment's own tensors; numbers in the code are constants of the program."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind in _STATE_KINDS]
    tensors = {**program.state_dict, **program.constants, **_state(segment)}
    state: dict[str, torch.Tensor] = {spec.target: _alone(tensors[spec.target]) for spec in specs}
    return _rebuilt(program, program.graph_signature, state)


def _set_grids(program: ExportedProgram, segment: nn.Module) -> None:
    """Let the graph dequantize each weight as the segment's own linear does."""
    names = {spec.arg.name: str(spec.target) for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        if node.op == "call_function" and "dequantize_affine" in node.target.__name__ and node.args[0].name in names:
            linear = cast(QuantizedLinear, segment.get_submodule(names[node.args[0].name].rpartition(".")[0]))
            codes, _, scales, zero_points, dtype, *_ = node.args
            block, code_range = linear.grid()
            node.args = (codes, block, scales, zero_points, dtype, *code_range)
            for tensor in (scales, zero_points):
                tensor.meta["val"] = tensor.meta["val"].new_empty(linear.scales.shape)


def _rebuilt(
    program: ExportedProgram, signature: ExportGraphSignature, state: dict[str, torch.Tensor] | None = None
) -> ExportedProgram:
    """The program with another signature; given tensors replace its own."""
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=signature,
        state_dict=program.state_dict if state is None else state,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants if state is None else {**state},
        verifiers=program.verifiers,
    )


def _misread(node: torch.fx.Node) -> bool:
    """Whether XNNPACK's serializer would drop an argument of an operator: a GELU's approximation, a power not 2."""
    match node.target.__name__:  # type: ignore[union-attr]
        case "aten.gelu.default":
            return node.kwargs.get("approximate", "none") != "none"
        case "aten.pow.Tensor_Scalar":
            return bool(node.args[1] != 2)
    return False


def serialize(program: ExportedProgram) -> tuple[bytes, NamedDataStore, dict[str, str]]:
    """XNNPACK's flatbuffer of a graph, the tensors that it names by their SHA-256, and each placeholder's such name.

    This is `XnnpackBackend.preprocess` without its passes, which leave segments as they are (a test holds that both
    give the same bytes), and with slices of dynamic length.

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
        if operator not in visitors or _misread(node):
            raise SharpError(
                f"operator {operator} cannot be lowered to XNNPACK, and no matrix product may run outside it"
            )
        visitors[operator].define_node(node, graph, ids, node.meta.get("debug_handle", DEFAULT_DEBUG_HANDLE))
        if operator == "aten.slice_copy.Tensor":
            sizes = node.meta["val"].shape
            graph.xnodes[-1].xnode_union.sizes = [size if isinstance(size, int) else 0 for size in sizes]
    key_of = {}
    for node, index in ids.items():
        buffer = get_tensor_value(graph.xvalues[index]).constant_buffer_idx
        if node.op == "placeholder" and buffer:
            key_of[node.name] = graph.constant_data[buffer].named_key
    return serialize_xnnpack_binary(graph, bytearray()), tensors, key_of
