"""LLM-Pruner (Ma et al. 2023) on the MLPs: remove the channels with the least effect on the loss.

A channel of a gated MLP is one row of gate, the same row of up and the same column of down; they depend on each other
and are removed together. To first order the loss changes by W ∂L/∂W when a weight W is zeroed. A channel's salience is

    Σ over its row of gate, its row of up, its column of down   |W ⊙ ∂L/∂W|

with L the next-token loss on calibration text. Every pruned layer loses the same number of channels. The first two
layers and the last are not pruned, as in the SHARP paper (App. C.4).
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import PlainMLP, decoder_layers, plain_mlp
from sharp_mobile.paper.baselines.parameter_count import ParameterCount, count_parameters

UNPRUNED_FIRST, UNPRUNED_LAST = 2, 1


def prune_channels(
    model: PreTrainedModel,
    windows: torch.Tensor,
    kept: float,
    *,
    first: int = UNPRUNED_FIRST,
    last: int = UNPRUNED_LAST,
) -> ParameterCount:
    """Drop the least salient channels until the share `kept` of all MLP parameters remains, in place.

    Args:
        windows: calibration tokens, int64 [windows, T].
        kept: s, the share of the MLP parameters that remains, over all layers.
        first, last: the number of layers at either end that are not pruned.

    Raises:
        SharpError: `kept` cannot be reached by pruning the other layers.
    """
    original = count_parameters(model)
    layers = decoder_layers(model)
    pruned = range(first, len(layers) - last)
    part = 1 - (1 - kept) * len(layers) / max(1, len(pruned))
    if not 0 < part <= 1:
        raise SharpError(
            f"LLM-Pruner: {kept:.0%} of the MLP parameters cannot be reached by pruning layers {first + 1} to "
            f"{len(layers) - last} of {len(layers)}; keep more (up to 100%), or prune more layers"
        )
    if part < 1:
        for layer, salience in channel_salience(model, windows, pruned).items():
            count = max(1, round(part * len(salience)))
            channels = salience.topk(count).indices.sort().values
            _keep_channels(plain_mlp(layers[layer].mlp), channels)
    return ParameterCount(count_parameters(model), original)


def channel_salience(model: PreTrainedModel, windows: torch.Tensor, layers: range) -> dict[int, torch.Tensor]:
    """The salience of each channel, [inner], of the MLPs of `layers` (0-based); see the module.

    The gradients need as much memory as those MLPs. The model is unchanged.
    """
    mlps = {layer: decoder_layers(model)[layer].mlp for layer in layers}
    weights = [p for mlp in mlps.values() for p in mlp.parameters()]
    before = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            for window in windows:
                model(window[None], labels=window[None], use_cache=False).loss.backward()
        return {layer: _salience(plain_mlp(mlp)) for layer, mlp in mlps.items()}
    finally:
        for parameter, requires_grad in before.items():
            parameter.grad = None
            parameter.requires_grad_(requires_grad)


def _salience(mlp: PlainMLP) -> torch.Tensor:
    if hasattr(mlp, "gate_up_proj"):  # gate's rows, then up's
        rows = _product(mlp.gate_up_proj).sum(dim=1).view(2, -1).sum(dim=0)
    else:
        rows = _product(mlp.gate_proj).sum(dim=1) + _product(mlp.up_proj).sum(dim=1)
    return rows + _product(mlp.down_proj).sum(dim=0)


def _product(linear: nn.Linear) -> torch.Tensor:
    """|W ⊙ ∂L/∂W|, [out, in]."""
    assert linear.weight.grad is not None
    return (linear.weight.detach() * linear.weight.grad).abs()


def _keep_channels(mlp: PlainMLP, channels: torch.Tensor) -> None:
    """Reduce an MLP's linears to some channels."""
    if hasattr(mlp, "gate_up_proj"):
        inner = mlp.down_proj.in_features
        mlp.gate_up_proj = _linear_of(mlp.gate_up_proj, rows=torch.cat([channels, channels + inner]))
    else:
        mlp.gate_proj = _linear_of(mlp.gate_proj, rows=channels)
        mlp.up_proj = _linear_of(mlp.up_proj, rows=channels)
    mlp.down_proj = _linear_of(mlp.down_proj, columns=channels)


def _linear_of(
    linear: nn.Linear, *, rows: torch.Tensor | None = None, columns: torch.Tensor | None = None
) -> nn.Linear:
    """A linear with some rows or columns of another linear's weight."""
    weight: torch.Tensor = linear.weight.detach()
    bias: torch.Tensor | None = linear.bias
    if columns is not None:
        weight = weight[:, columns]
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    smaller = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    smaller.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        smaller.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return smaller
