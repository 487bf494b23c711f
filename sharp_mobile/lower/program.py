"""The outer model: lowered segments, attention between them, and the `.pte` they make."""

from collections.abc import Callable
from typing import Any

import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, ExecutorchProgramManager, to_edge
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
from torch import nn

from sharp_mobile.lower.decoder import Decoder, DecoderOptions
from sharp_mobile.lower.template import Template, kind_of, trace_template

Progress = Callable[[str], None]

# Not 1, which export would take for a constant.
_EXAMPLE_TOKENS = 8


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
    options = decoder.options
    length = sequence_length(options)
    tokens = min(_EXAMPLE_TOKENS, options.max_length - 1)
    heads = decoder.attentions[0].settings.heads
    hidden = decoder.embedding(torch.zeros(1, tokens, dtype=torch.long))
    attended = torch.zeros(1, tokens, heads.queries * heads.width)

    def rotation(layer: int) -> list[torch.Tensor]:
        count = 0 if decoder.rotation_of[layer] is None else 2
        return [torch.zeros(1, tokens, 1, heads.width) for _ in range(count)]

    def lower(name: str, segment: nn.Module, *example: torch.Tensor, length: Any | None = length) -> nn.Module:
        kind = kind_of(segment)
        if kind not in templates:
            progress(f"tracing {name}")
            templates[kind] = trace_template(segment, example, length)
        progress(f"lowering {name}")
        return _Delegate(templates[kind].instance(segment))

    entry = lower("layer 1", decoder.entry, hidden, *rotation(0))
    middles = [
        lower(f"layers {layer + 1}–{layer + 2}", middle, hidden, attended, *rotation(layer + 1))
        for layer, middle in enumerate(decoder.middles)
    ]
    if options.all_logits:
        exit_ = lower("LM head", decoder.exit, hidden, attended)
    else:
        exit_ = lower("LM head", decoder.exit, hidden[:, -1:], attended[:, -1:], length=None)
    return decoder.deployed(entry, middles, exit_)


def sequence_length(options: DecoderOptions) -> Any:
    """The dynamic dimension S: as the stock runner's exports have it, up to one less than the cache's length."""
    return torch.export.Dim("tokens", min=1, max=options.max_length - 1)


@torch.no_grad()
def assemble(decoder: Decoder, metadata: dict[str, Any]) -> ExecutorchProgramManager:
    """Export the outer model of a decoder with lowered segments.

    Args:
        decoder: from `lower_segments`.
        metadata: constant methods of the program, such as `get_max_seq_len`.
    """
    tokens = min(_EXAMPLE_TOKENS, decoder.options.max_length - 1)
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
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
            sym_shape_eval_pass={"forward": ConstraintBasedSymShapeEvalPass()},
        )
    )
