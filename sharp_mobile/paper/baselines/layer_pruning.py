"""Layer pruning (Gromov et al. 2024, and the SHARP paper's variant, App. C.4): layers are removed, not shared.

The importance of a block of n layers is the angle between the hidden states x before and after it, at the last token,
averaged over windows; the block with the smallest angle is removed:

    d(l, l+n) = 1/π · mean arccos( x_l · x_{l+n} / (‖x_l‖ ‖x_{l+n}‖) )

SHARP's authors drop only MLPs, not attention: those of layers 17 to 30 of 32 (type `t_ori`), or of the targets of
their `t_next`.
"""

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import NoMLP, causal_lm, decoder_layers
from sharp_mobile.paper.baselines.parameter_count import ParameterCount, count_parameters
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder, batches

_ORI = (16, 30)  # layers 17 to 30, for 32 layers
_ORI_LAYERS = 32


def t_ori(layers: int) -> tuple[int, ...]:
    """The layers (0-based) whose MLPs the paper's type `t_ori` drops (Table 8): 17 to 30 of 32, scaled to `layers`."""
    first, end = (round(boundary * layers / _ORI_LAYERS) for boundary in _ORI)
    return tuple(range(first, min(end, layers - 1)))


@torch.no_grad()
def angular_distances(model: PreTrainedModel, windows: torch.Tensor, count: int) -> tuple[float, ...]:
    """d(l, l + count) in units of π for l = 0, 1, …, N − count (see the module).

    Args:
        windows: calibration tokens, int64 [windows, T]; only the last token of each counts.

    Raises:
        SharpError: `count` is not between 1 and the number of layers.
    """
    layers = len(decoder_layers(model))
    if not 1 <= count <= layers:
        raise SharpError(f"layer pruning: a block of {count} layers cannot be cut from {layers}; use 1 to {layers}")
    states = torch.cat([_last_token_states(model, windows[part]) for part in batches(windows)])
    before, after = states[:, : layers - count + 1], states[:, count:]
    cosine = nn.functional.cosine_similarity(before.double(), after.double(), dim=-1).clamp(-1, 1)
    return tuple((torch.arccos(cosine) / torch.pi).mean(dim=0).tolist())


def _last_token_states(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """The last token's hidden states before each layer and after the last: [windows, N + 1, hidden]."""
    decoder = LayerwiseDecoder(model, windows[:1])
    hidden = decoder.embed(windows)
    states = [hidden[:, -1]]
    for index in range(len(decoder)):
        hidden = decoder.layer(index, hidden)
        states.append(hidden[:, -1])
    return torch.stack(states, dim=1)


def least_block(model: PreTrainedModel, windows: torch.Tensor, count: int) -> tuple[int, ...]:
    """The `count` consecutive layers (0-based) with the smallest angular distance."""
    distances = angular_distances(model, windows, count)
    first = min(range(len(distances)), key=distances.__getitem__)
    return tuple(range(first, first + count))


def drop_mlps(model: PreTrainedModel, layers: Iterable[int]) -> ParameterCount:
    """Zero the MLPs of some layers (0-based), in place; attention stays."""
    original = count_parameters(model)
    modules = decoder_layers(model)
    for layer in layers:
        modules[layer].mlp = NoMLP()
    return ParameterCount(count_parameters(model), original)


def drop_layers(model: PreTrainedModel, layers: Iterable[int]) -> ParameterCount:
    """Remove layers (0-based) from a model, with their attention, in place.

    Raises:
        SharpError: no layer would remain.
    """
    original, dropped = count_parameters(model), set(layers)
    body = causal_lm(model).model
    modules = body.layers
    left = [index for index in range(len(modules)) if index not in dropped]
    if not left:
        raise SharpError("layer pruning: all layers would be removed; keep at least one")
    body.layers = nn.ModuleList(modules[index] for index in left)
    for number, layer in enumerate(decoder_layers(model)):
        layer.self_attn.layer_idx = number  # its place in the KV cache
    model.config.num_hidden_layers = len(left)
    types = getattr(model.config, "layer_types", None)
    if types is not None:  # the attention mask of each layer
        model.config.layer_types = [types[index] for index in left]
    return ParameterCount(count_parameters(model), original)
