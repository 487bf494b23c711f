"""What stands around or instead of one weight: the paper's forms (see `share`), and a linear map of low rank."""

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.recipe.recovery import Form


class RecoveredProjection(nn.Module):
    """One projection of a target: its recovery parameters, applied around the reference's weight.

    Every form starts where training can move it: α = 1, B = 0 and A random; UV = 1, so that g3 starts at Θ;
    C = D (E = F) with r orthonormal rows (columns), so that g1 and g2 start at Θ seen through an r-dimensional
    subspace, the nearest that a rank-r factor comes to Θ without data.

    Args:
        weight: the target's own weight [out, in]; gives shape, dtype and device.
        bias: the target's own bias [out], which it keeps, or None.
        direct: no parameters at all; otherwise rank 0 still has α.
    """

    def __init__(
        self, form: Form, rank: int, weight: torch.Tensor, bias: torch.Tensor | None, *, direct: bool = False
    ) -> None:
        super().__init__()
        self.form, self.rank, self.direct = form, rank, direct
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        if direct:
            return
        out_features, in_features = weight.shape

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=weight.dtype, device=weight.device))

        self.alpha = parameter()
        if rank:
            self.A, self.B = parameter(rank, in_features), parameter(out_features, rank)
        if form == "right":
            self.C, self.D = parameter(rank, in_features), parameter(rank, in_features)
        elif form == "left":
            self.E, self.F = parameter(out_features, rank), parameter(out_features, rank)
        elif form == "hadamard":
            self.U, self.V = parameter(out_features, rank), parameter(rank, in_features)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the recovery parameters to their start (see the class)."""
        self.alpha.fill_(1.0)
        if self.rank:
            nn.init.kaiming_uniform_(self.A, a=5**0.5)
            self.B.zero_()
        if self.form == "right":
            self.D.copy_(nn.init.orthogonal_(torch.empty(self.D.shape)))
            self.C.copy_(self.D)
        elif self.form == "left":
            self.F.copy_(nn.init.orthogonal_(torch.empty(self.F.shape)))
            self.E.copy_(self.F)
        elif self.form == "hadamard":
            self.U.zero_()[:, 0] = 1.0
            nn.init.kaiming_uniform_(self.V, a=5**0.5)
            self.V[0] = 1.0

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out], `weight` [out, in] being the reference's."""
        if self.direct:
            return F.linear(x, weight, self.bias)
        y = self.alpha * self._shared(x, weight)
        if self.rank:
            y = y + F.linear(F.linear(x, self.A), self.B)
        return y if self.bias is None else y + self.bias

    def _shared(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        match self.form:
            case "right":
                return F.linear(F.linear(F.linear(x, self.D), self.C.T), weight)
            case "left":
                return F.linear(F.linear(F.linear(x, weight), self.F.T), self.E)
            case "hadamard":
                return F.linear(x, (self.U @ self.V) * weight)
            case _:
                return F.linear(x, weight)


class Bypass(nn.Module):
    """A linear map of rank r past an MLP or instead of attention: A [r, hidden], B [hidden, r]; it starts at zero.

    Args:
        like: gives dtype and device.
    """

    def __init__(self, rank: int, hidden: int, like: torch.Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, hidden, dtype=like.dtype, device=like.device))
        self.B = nn.Parameter(torch.zeros(hidden, rank, dtype=like.dtype, device=like.device))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set A at random and B to zero."""
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.B.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> [..., hidden]."""
        return F.linear(F.linear(x, self.A), self.B)
