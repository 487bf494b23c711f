"""The outer model: lowered segments, attention between them, and the `.pte` they make."""

from collections.abc import Callable
from typing import Any

import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, ExecutorchProgramManager, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
from torch import nn

from sharp_mobile.lower.decoder import Decoder
from sharp_mobile.lower.template import Template, kind_of, trace_template

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


class _Delegate(nn.Module):
    """A lowered segment as a module that returns a tuple, as the segment did."""

    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.lowered(*inputs))


@torch.no_grad()
def lower_segments(decoder: Decoder, progress: Progress = _silent) -> Decoder:
    """The decoder with every segment replaced by its XNNPACK delegate.

    Each kind of segment is traced and lowered once (see `template`). `progress` is told each step's name.
    """
    templates: dict[str, Template] = {}

    def lower(name: str, segment: nn.Module, example: tuple[torch.Tensor, ...], dynamic: Any) -> nn.Module:
        kind = kind_of(segment)
        if kind not in templates:
            progress(f"tracing {name}")
            templates[kind] = trace_template(segment, example, dynamic)
        progress(f"lowering {name}")
        return _Delegate(templates[kind].instance(segment))

    examples = _Examples(decoder)
    entry = lower("layer 1", decoder.entry, *examples.entry())
    middles = [
        lower(f"layers {layer + 1}–{layer + 2}", middle, *examples.middle(layer))
        for layer, middle in enumerate(decoder.middles)
    ]
    exit_ = lower("LM head", decoder.exit, *examples.exit())
    return decoder.deployed(entry, middles, exit_)


class _Examples:
    """Example inputs and dynamic shapes of each segment of a decoder."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.length = torch.export.Dim("tokens", min=1, max=decoder.options.max_length - 1)
        heads = decoder.attentions[0].settings.heads
        # The example's length is neither 1, which export would take for a constant, nor the upper bound.
        tokens = min(8, decoder.options.max_length - 1)
        self.hidden = decoder.embedding(torch.zeros(1, tokens, dtype=torch.long))
        self.attended = torch.zeros(1, tokens, heads.queries * heads.width)
        self.table = torch.zeros(1, tokens, 1, heads.width)

    def _rotation(self, layer: int) -> list[torch.Tensor]:
        return [] if self.decoder.rotation_of[layer] is None else [self.table, self.table.clone()]

    def entry(self) -> tuple[tuple[torch.Tensor, ...], Any]:
        rotation = self._rotation(0)
        inputs = (self.hidden, *rotation)
        return inputs, ({1: self.length}, tuple({1: self.length} for _ in rotation))

    def middle(self, layer: int) -> tuple[tuple[torch.Tensor, ...], Any]:
        rotation = self._rotation(layer + 1)
        inputs = (self.hidden, self.attended, *rotation)
        return inputs, ({1: self.length}, {1: self.length}, tuple({1: self.length} for _ in rotation))

    def exit(self) -> tuple[tuple[torch.Tensor, ...], Any]:
        if self.decoder.options.all_logits:
            return (self.hidden, self.attended), ({1: self.length}, {1: self.length})
        return (self.hidden[:, -1:], self.attended[:, -1:]), None


@torch.no_grad()
def assemble(decoder: Decoder, metadata: dict[str, Any]) -> ExecutorchProgramManager:
    """Export the outer model of a decoder with lowered segments.

    Args:
        decoder: from `lower_segments`.
        metadata: constant methods of the program, such as `get_max_seq_len`.
    """
    length = torch.export.Dim("tokens", min=1, max=decoder.options.max_length - 1)
    example = (torch.zeros(1, min(8, decoder.options.max_length - 1), dtype=torch.long), torch.zeros(1, dtype=torch.long))
    exported = torch.export.export(decoder, example, dynamic_shapes=({1: length}, None), strict=False)
    edge = to_edge(
        exported,
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        constant_methods=metadata,
    )
    return edge.to_executorch(
        ExecutorchBackendConfig(
            extract_delegate_segments=True,
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
            sym_shape_eval_pass={"forward": ConstraintBasedSymShapeEvalPass()},
        )
    )
