"""Basis Sharing (Wang et al. 2024, arXiv 2410.03765): G consecutive layers share the basis of a low-rank factorization.

For one kind of matrix, W_i [in, out] are the weights of G layers, and X are their inputs on calibration text:

    S with SᵀS = Σ_layers XᵀX        S · [W_1 … W_G] = U Σ Vᵀ, truncated to the top k
    B = S⁻¹ U_k Σ_k  [in, k], stored once        C_i = the columns of V_kᵀ that belong to W_i  [k, out]
    W_i ≈ B C_i = S⁻¹ U_k U_kᵀ S W_i,     k = ⌊ in · out·G · kept / (in + out·G) ⌋

The paper shares q, k, v, gate and up over G = 2 layers. It factors o and down separately, because their inputs differ
from layer to layer. Here the product B C_i replaces each weight, with the same outputs as the factors; the parameter
count is that of B and C_i.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from sharp_mobile.console import progress_bar
from sharp_mobile.errors import SharpError
from sharp_mobile.model.basis import matrix_linears
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.sharing import ratio_rank
from sharp_mobile.paper.baselines.parameter_count import ParameterCount, count_parameters
from sharp_mobile.recipe.recovery import ATTENTION_MATRICES, MATRICES, MLP_MATRICES, WITH_SHARED_BASIS
from sharp_mobile.recovery.warmup.bases import basis_factors, collecting, matrix_readers, matrix_weights
from sharp_mobile.recovery.warmup.layer_activations import LayerwiseDecoder, batches, hidden_file
from sharp_mobile.recovery.warmup.regression import FitError


@torch.no_grad()
def share_bases(
    model: PreTrainedModel,
    windows: torch.Tensor,
    kept: float,
    *,
    group: int = 2,
    matrices: tuple[str, ...] = MATRICES,
) -> ParameterCount:
    """Factor the weights of a model with shared bases, in place; biases stay.

    Memory holds the XᵀX of one group of layers at a time; the hidden states are in a temporary file.

    Args:
        windows: calibration tokens, int64 [windows, T].
        kept: 1 − ρ of the paper, the share of each matrix's parameters to store; 1 leaves the model unchanged.
        group: G, the number of consecutive layers that share a basis.
        matrices: the kinds of matrix to factor; `MLP_MATRICES` compares with methods that do not change attention.

    Raises:
        SharpError: `kept` is not in (0, 1], a kind of matrix does not exist, or the activations are not finite.
    """
    if not 0 < kept <= 1:
        raise SharpError(f"Basis Sharing: {kept} of the parameters cannot be stored; use more than 0 and at most 1")
    if unknown := set(matrices) - set(MATRICES):
        raise SharpError(f"Basis Sharing: no matrix '{unknown.pop()}'; choose from {', '.join(MATRICES)}")
    original = count_parameters(model)
    if kept == 1:
        return ParameterCount(original, original)
    saved = dict.fromkeys(matrices, 0)
    for layers, grams in _groups(model, windows, group, matrices):
        for kind in matrices:
            sharing = [layers] if kind in WITH_SHARED_BASIS else [[layer] for layer in layers]
            for members in sharing:
                saved[kind] += _factor(model, kind, members, [grams[layer] for layer in members], kept)
    mlp, attention = (sum(saved.get(kind, 0) for kind in kinds) for kinds in (MLP_MATRICES, ATTENTION_MATRICES))
    return ParameterCount(original.without(mlp=mlp, attention=attention), original)


def basis_rank(inputs: int, outputs: int, kept: float) -> int:
    """k for a matrix [inputs, outputs], with the outputs of all layers that share the basis; at least 1."""
    return max(1, ratio_rank(inputs, outputs, kept))


def shared_basis(weights: list[torch.Tensor], gram: torch.Tensor, rank: int) -> list[torch.Tensor]:
    """The best approximation of weights [out, in] with a shared basis of `rank` vectors, on the data of `gram`.

    Args:
        gram: Σ XᵀX over the layers, float64 [in, in].

    Raises:
        SharpError: the matrix is not positive definite.
    """
    try:
        basis, coefficients = basis_factors(weights, gram, rank)
    except FitError as error:
        raise SharpError(
            "Basis Sharing: the activations are not finite or all equal; check the model, or calibrate on more text"
        ) from error
    return [c @ basis for c in coefficients]


def _factor(
    model: PreTrainedModel, kind: str, layers: list[int], grams: list[dict[nn.Module, torch.Tensor]], kept: float
) -> int:
    """Replace one kind of matrix of some layers by its factorization; returns the number of parameters saved."""
    places = [matrix_linears(decoder_layers(model)[layer]) for layer in layers]
    weights = [matrix_weights(its)[kind] for its in places]
    readers = [matrix_readers(its)[kind] for its in places]
    gram = torch.stack([of_layer[reader] for reader, of_layer in zip(readers, grams, strict=True)]).sum(0)
    inputs, outputs = weights[0].shape[1], sum(len(weight) for weight in weights)
    rank = basis_rank(inputs, outputs, kept)
    for weight, new in zip(weights, shared_basis(weights, gram, rank), strict=True):
        weight.copy_(new)
    return inputs * outputs - rank * (inputs + outputs)


def _groups(
    model: PreTrainedModel, windows: torch.Tensor, size: int, matrices: tuple[str, ...]
) -> Iterator[tuple[list[int], dict[int, dict[nn.Module, torch.Tensor]]]]:
    """Groups of consecutive layers, with the XᵀX of the inputs of each layer's `matrices` in the original model.

    The caller may change a group's weights: its statistics are complete, and the hidden states have passed its layers.
    """
    decoder, parts = LayerwiseDecoder(model, windows[:1]), batches(windows)
    with tempfile.TemporaryDirectory(prefix="sharp-mobile-") as directory:
        hidden = hidden_file(Path(directory) / "hidden", *windows.shape, model.config.hidden_size)
        for part in parts:
            hidden[part] = decoder.embed(windows[part])
        starts = range(0, len(decoder), size)
        for start in progress_bar(starts, desc="basis sharing", unit="group"):
            layers = list(range(start, min(start + size, len(decoder))))
            grams = {}
            for layer in layers:
                readers = matrix_readers(matrix_linears(decoder_layers(model)[layer]))
                with collecting({readers[kind] for kind in matrices}) as grams[layer]:
                    for part in parts:
                        hidden[part] = decoder.layer(layer, hidden[part])
            yield layers, grams
