"""The outer model: lowered segments, attention between them, and the `.pte` they make."""

import warnings
from typing import cast

import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, ExecutorchProgramManager, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
from torch import nn
from torch.export import Dim, ExportGraphSignature
from torch.fx.passes.infra.pass_base import PassResult

from sharp_mobile.console import progress_bar
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedEmbedding, QuantizedLinear
from sharp_mobile.decoder.options import DecoderOptions
from sharp_mobile.lower.template import Delegate, Template, kind_of, trace_template

# Not 1, which export would take for a constant.
_EXAMPLE_TOKENS = 8


@torch.no_grad()
def lower_segments(decoder: Decoder) -> tuple[Decoder, dict[str, str]]:
    """The decoder with every segment replaced by its XNNPACK delegate.

    Each kind of segment is traced once (see `template`).

    Returns:
        The deployed decoder, and the key under which each weight is stored in its `.pte`, by a name such as
        `layers.4.mlp.gate.codes` (1-based).
    """
    templates: dict[str, Template] = {}
    stored: dict[str, bytes] = {}
    keys: dict[str, str] = {}
    options = decoder.options
    length = sequence_length(options)
    tokens = min(_EXAMPLE_TOKENS, options.chunk)
    heads = decoder.attentions[0].settings.heads
    hidden = torch.zeros(1, tokens, cast(nn.Embedding | QuantizedEmbedding, decoder.embedding).embedding_dim)
    attended = torch.zeros(1, tokens, heads.queries * heads.width)

    def rotation(number: int) -> list[torch.Tensor]:
        count = 0 if decoder.rotation_of[number] is None else 2
        return [torch.zeros(1, tokens, 1, heads.width) for _ in range(count)]

    def lower(segment: nn.Module, *example: torch.Tensor, length: Dim | None = length) -> nn.Module:
        kind = kind_of(segment)
        if kind not in templates:
            templates[kind] = trace_template(segment, example, length)
        lowered, key_of = templates[kind].instance(segment)
        _hold_once(segment, key_of, lowered.hold_in(stored))
        keys.update(weight_names(segment, key_of))
        bar.update()
        return lowered

    bar = progress_bar(total=len(decoder.attentions) + 1, desc="lower", unit="segment")
    entry = lower(decoder.entry, hidden, *rotation(0))
    middles = [
        lower(middle, hidden, attended, *rotation(number)) for number, middle in enumerate(decoder.middles, start=1)
    ]
    if options.all_logits:
        exit_ = lower(decoder.exit, hidden, attended)
    else:
        exit_ = lower(decoder.exit, hidden[:, -1:], attended[:, -1:], length=None)
    bar.close()
    return decoder.deployed(entry, middles, exit_), keys


def weight_names(segment: nn.Module, key_of: dict[str, str]) -> dict[str, str]:
    """Keys of a segment's tensors by names such as `layers.4.mlp.gate.codes`, one for each layer that calls them."""
    modules = dict(segment.named_modules(remove_duplicate=False))
    places = {name: str(module.place) for name, module in modules.items() if getattr(module, "place", "")}
    names_of: dict[nn.Module, list[str]] = {}
    for name, module in modules.items():
        names_of.setdefault(module, []).append(name)
    named = {}
    for tensor, key in key_of.items():
        module_name, _, attribute = tensor.rpartition(".")
        for name in names_of[modules[module_name]]:
            inside = next(place for place in sorted(places, key=len, reverse=True) if name.startswith(f"{place}."))
            named[f"{places[inside]}.{name.removeprefix(f'{inside}.')}.{attribute}"] = key
    return named


def _hold_once(segment: nn.Module, key_of: dict[str, str], stored: dict[str, bytes]) -> None:
    """Let a segment's linears read their codes from the bytes that are going to be written: a model is large."""
    for name, key in key_of.items():
        linear_name, _, tensor = name.rpartition(".")
        if tensor == "codes":
            linear = cast(QuantizedLinear, segment.get_submodule(linear_name))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes
                codes = torch.frombuffer(stored[key], dtype=linear.codes.dtype)
            linear.codes, linear.key = codes.view(linear.codes.shape), key


def sequence_length(options: DecoderOptions) -> Dim:
    """The dynamic dimension S."""
    return Dim("tokens", min=1, max=options.chunk)


@torch.no_grad()
def assemble(decoder: Decoder, metadata: dict[str, object]) -> ExecutorchProgramManager:
    """Export the outer model of a decoder with lowered segments.

    Args:
        decoder: from `lower_segments`.
        metadata: constant methods of the program, such as `get_max_seq_len`.
    """
    tokens = min(_EXAMPLE_TOKENS, decoder.options.chunk)
    example = (torch.zeros(1, tokens, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    dynamic = ({1: sequence_length(decoder.options)}, None)
    exported = torch.export.export(decoder, example, dynamic_shapes=dynamic, strict=False)
    edge = to_edge(
        exported,
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        constant_methods=metadata,
    )
    return edge.to_executorch(
        ExecutorchBackendConfig(
            extract_delegate_segments=True,
            run_reinplace_pass=True,  # the KV cache is written where it lies, not copied there and back
            memory_planning_pass=_CachesOnce(alloc_graph_input=False),
            sym_shape_eval_pass={"forward": ConstraintBasedSymShapeEvalPass()},
        )
    )


def forget_weights(lowered: Decoder) -> None:
    """Drop what the delegates of a decoder store, once it is written."""
    for module in lowered.modules():
        if isinstance(module, Delegate):
            module.forget()


class _CachesOnce(MemoryPlanningPass):
    """Memory for a KV cache that is written in place, once.

    ExecuTorch 1.5.1 plans the result of an operator in place where its input lies, but leaves the graph's output with
    the place that the result had before: as much again as all caches take, which nothing uses.
    """

    def run(
        self, graph_module: torch.fx.GraphModule, graph_signature: ExportGraphSignature | None = None
    ) -> PassResult:
        for node in graph_module.graph.nodes:
            if getattr(node.target, "__name__", "").startswith("aten.index_put_."):
                node.meta["spec"] = node.all_input_nodes[0].meta["spec"]
        output = graph_module.graph.output_node()
        output.meta["spec"] = tuple(result.meta["spec"] for result in output.all_input_nodes)
        planned: PassResult = super().run(graph_module, graph_signature)
        return planned
