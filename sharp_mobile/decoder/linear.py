"""The float linears of a decoder, each with its role."""

import torch
from torch import nn

from sharp_mobile.decoder.role import LinearRole


class FloatLinear(nn.Linear):
    """A linear around existing tensors, without a copy: weight [out, in], bias [out]."""

    def __init__(self, weight: torch.Tensor, role: LinearRole, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.role: LinearRole = role
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach(), requires_grad=False)
