"""Recovery parameters in closed form: weighted least squares for each projection of one target.

Θ is the reference's weight, W the target's own, w the tokens' weights. What a projection's weight should be is known
in the data's metric C = L Lᵀ, row by row with an importance s:

    gate, up   the target is W itself, C = Σ w² x xᵀ, and s is how much an error of the neuron's gate (up) moves the
               output, to first order
    down       the target is the regression of w Y on the weighted inner activations H of the *recovered* gate and up,
               W = ((HᵀH)⁻¹ Hᵀ w Y)ᵀ, C = HᵀH and s = 1

so with N = diag(s) W L and T = diag(s) Θ L each form is a problem of Frobenius norms, ⌊·⌋ᵣ the truncated SVD:

    g0  lora      ‖N − αT − B̂Â‖       α = ⟨T, N⟩ / ⟨T, T⟩ (s = 1 in it),  B̂Â = ⌊N − αT⌋ᵣ,  B = diag(1/s) B̂,  A = Â L⁻¹
    g1  right     ‖N − T̂D̂ − B̂Â‖      T̂ = diag(s) Θ Cᵀ lies in the columns of diag(s) Θ = Q Σ Pᵀ, so
                                       T̂D̂ = Q ⌊Qᵀ(N − B̂Â)⌋ᵣ and B̂Â = ⌊N − T̂D̂⌋ᵣ in turn, until neither helps
    g2  left      ‖N − ÊT̂ − B̂Â‖      the same with rows: T̂ = FᵀΘL lies in the rows of Θ L
    g3  hadamard  ‖N − diag(u)T − B̂Â‖  UV = u 1ᵀ: u a row's own least squares, B̂Â = ⌊N − diag(u)T⌋ᵣ, in turn

Each step is the optimum of its block, so the error only falls. Where diag(s)Θ (ΘL) has as many columns (rows) as N,
g1 (g2) reaches ⌊N⌋₂ᵣ: the reference then gives a basis and nothing else. α stays 1 but in g0.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sharp_mobile.model.modules import mlp_activation, mlp_biases, mlp_weights
from sharp_mobile.model.recovered import RecoveredProjection
from sharp_mobile.model.share import SharedMLP
from sharp_mobile.recovery.warmup.regression import Batch, not_finite

INPUT_RIDGE = 1e-4  # of the mean diagonal of C
INNER_RIDGE = 1e-3  # of the mean diagonal of HᵀH
_NEURON_FLOOR = 0.05  # of the mean s, so that no neuron's weight can be arbitrary
_ROUNDS = 50  # of the steps in turn of g1 to g3, at most
_GAIN = 3e-4  # of the error: what a round must win for another to follow

Parameters = dict[str, torch.Tensor]


@dataclass(frozen=True)
class InputStatistics:
    """What gate and up are fitted by, float64; any reference and any rank share them.

    Args:
        covariance: C = Σ w² x xᵀ, [hidden, hidden].
        root: its Cholesky factor L after the ridge, lower.
        gate, up: the importance s of each neuron, [inner].
    """

    covariance: torch.Tensor
    root: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True)
class Moments:
    """A linear regression of w Y on weighted features H, float64: HᵀH, HᵀwY and the count of tokens."""

    gram: torch.Tensor
    moment: torch.Tensor

    def of(self, features: torch.Tensor) -> "Moments":
        """Those of some features (indices) alone."""
        return Moments(self.gram[features][:, features], self.moment[features])


def input_statistics(own: nn.Module, batches: Iterable[Batch]) -> InputStatistics:
    """One pass over the tokens that the target's original MLP `own` reads.

    Raises:
        FitError: inputs that are not finite or all zero.
    """
    weights, activation = mlp_weights(own), mlp_activation(own)
    gate_bias, up_bias, _ = mlp_biases(own)
    inner, hidden = weights.gate.shape
    covariance = torch.zeros(hidden, hidden, dtype=torch.float64)
    squares = torch.zeros(2, inner, dtype=torch.float64)  # Σ (w act'(g) u)², Σ (w act(g))²
    tokens = 0
    for x, _, w in batches:
        g, u = F.linear(x, weights.gate, gate_bias), F.linear(x, weights.up, up_bias)
        activated, slope = _with_slope(activation, g)
        covariance += (w * x).T @ (w * x)
        for i, value in enumerate((slope * u, activated)):
            squares[i] += (w * value).pow(2).sum(0)
        tokens += len(x)
    norms = weights.down.double().norm(dim=0)
    importance = norms * (squares / tokens).sqrt()
    importance += _NEURON_FLOOR * importance.mean(dim=1, keepdim=True)
    root = cholesky(covariance, INPUT_RIDGE)
    return InputStatistics(covariance, root, importance[0], importance[1])


def _with_slope(
    activation: Callable[[torch.Tensor], torch.Tensor], g: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        g = g.detach().requires_grad_()
        activated = activation(g)
        (slope,) = torch.autograd.grad(activated.sum(), g)
    return activated.detach(), slope


def fit_gate_up(mlp: SharedMLP, own: nn.Module, statistics: InputStatistics) -> None:
    """Set the recovery parameters of gate and up; a projection of rank 0 has none."""
    weights, reference = mlp_weights(own), mlp_weights(mlp.reference)
    for projection, target, shared, importance in (
        (mlp.gate, weights.gate, reference.gate, statistics.gate),
        (mlp.up, weights.up, reference.up, statistics.up),
    ):
        if not projection.direct:
            fit_input(projection, target, shared, statistics, importance)


def fit_input(
    projection: RecoveredProjection,
    own: torch.Tensor,
    reference: torch.Tensor,
    statistics: InputStatistics,
    importance: torch.Tensor,
) -> None:
    """Gate or up: `own` and `reference` are weights [inner, hidden], `importance` is s [inner]."""
    own, reference, root = own.double(), reference.double(), statistics.root
    rank, form = projection.rank, projection.form
    if form == "lora":
        seen = reference @ statistics.covariance
        alpha = (seen * own).sum() / (seen * reference).sum()
        b, a = truncated(importance[:, None] * ((own - alpha * reference) @ root), rank)
        values = {"alpha": alpha, "A": unwhiten(a, root), "B": b / importance[:, None]}
    else:
        values = fit_form(form, rank, importance[:, None] * (own @ root), reference, root, importance)
    store(projection, values)


def fit_down(projection: RecoveredProjection, reference: torch.Tensor, moments: Moments) -> None:
    """Down: reduced-rank regression of w Y on the inner activations; `reference` is Θ [hidden, inner]."""
    store(projection, down_parameters(projection.form, projection.rank, reference.double(), moments))


def down_parameters(form: str, rank: int, reference: torch.Tensor, moments: Moments) -> Parameters:
    """What `fit_down` sets, float64."""
    root = cholesky(moments.gram, INNER_RIDGE)
    if form == "lora":
        seen = moments.gram @ reference.T  # HᵀH Θᵀ
        alpha = (reference.T * moments.moment).sum() / (reference.T * seen).sum()
        a, b = reduced_rank(root, moments.moment - alpha * seen, rank)
        return {"alpha": alpha, "A": a, "B": b}
    target = torch.linalg.solve_triangular(root, moments.moment, upper=False).T
    return fit_form(form, rank, target, reference, root, torch.ones(len(target), dtype=torch.float64))


def weight_of(parameters: Parameters, reference: torch.Tensor) -> torch.Tensor:
    """The target's weight [out, in] that these parameters make of the reference's."""
    low = parameters["B"] @ parameters["A"]
    if "C" in parameters:
        return low + reference @ parameters["C"].T @ parameters["D"]
    if "E" in parameters:
        return low + parameters["E"] @ parameters["F"].T @ reference
    if "U" in parameters:  # the first row of V is ones, the other columns of U are zero
        return low + parameters["U"][:, :1] * reference
    return low + parameters["alpha"] * reference


def fit_form(
    form: str, rank: int, target: torch.Tensor, reference: torch.Tensor, root: torch.Tensor, importance: torch.Tensor
) -> Parameters:
    """g1 to g3: `target` is N [out, in], `reference` is Θ [out, in], `root` is L, `importance` is s [out].

    Returns:
        The recovery parameters by name; of g3's U and V only the first column and row, the others being zero in U.
    """
    match form:
        case "right":
            return _fit_right(rank, target, reference, root, importance)
        case "left":
            return _fit_left(rank, target, reference, root, importance)
        case "hadamard":
            return _fit_hadamard(rank, target, reference, root, importance)
    raise ValueError(f"{form} is no form of this function")


def _fit_right(
    rank: int, target: torch.Tensor, reference: torch.Tensor, root: torch.Tensor, importance: torch.Tensor
) -> Parameters:
    basis, values, vectors = _thin_svd(importance[:, None] * reference)

    def shared(rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right = truncated(basis.T @ rest, rank)
        return left, right, basis @ left @ right

    (left, right, _), b, a = _in_turn(target, rank, shared)
    c = ((vectors.T / values) @ left).T  # diag(s) Θ Cᵀ = Q left
    d, c = balanced(unwhiten(right, root), c.T)
    return {
        "alpha": _one(),
        "A": unwhiten(a, root),
        "B": b / importance[:, None],
        "C": c.T,
        "D": d,
    }


def _fit_left(
    rank: int, target: torch.Tensor, reference: torch.Tensor, root: torch.Tensor, importance: torch.Tensor
) -> Parameters:
    vectors, values, basis = _thin_svd(reference @ root)

    def shared(rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, right = truncated(rest @ basis.T, rank)
        return left, right, left @ right @ basis

    (left, right, _), b, a = _in_turn(target, rank, shared)
    f = (vectors / values) @ right.T  # Fᵀ Θ L = right Qᵀ
    f_rows, e = balanced(f.T, left / importance[:, None])
    return {
        "alpha": _one(),
        "A": unwhiten(a, root),
        "B": b / importance[:, None],
        "E": e,
        "F": f_rows.T,
    }


def _fit_hadamard(
    rank: int, target: torch.Tensor, reference: torch.Tensor, root: torch.Tensor, importance: torch.Tensor
) -> Parameters:
    seen = importance[:, None] * (reference @ root)
    energy = seen.pow(2).sum(1, keepdim=True).clamp_min(1e-30)

    def shared(rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = (seen * rest).sum(1, keepdim=True) / energy
        return u, u * seen

    (u, _), b, a = _in_turn(target, rank, shared)
    first = torch.zeros(len(target), rank, dtype=torch.float64)
    first[:, :1] = u
    return {"alpha": _one(), "A": unwhiten(a, root), "B": b / importance[:, None], "U": first}


def _in_turn(
    target: torch.Tensor, rank: int, shared: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
    """Fit the reference's part to what B̂Â leaves and B̂Â to what that leaves, until neither helps.

    Args:
        shared: from a matrix [out, in] the best parameters of the reference's part, the last item being the part.

    Returns:
        What `shared` gave last, B̂ [out, r] and Â [r, in].
    """
    low, error = torch.zeros_like(target), math.inf
    for _ in range(_ROUNDS):
        parameters = shared(target - low)
        rest = target - parameters[-1]
        b, a = truncated(rest, rank)
        low, before = b @ a, error
        error = (rest - low).norm().item()
        if not error < (1 - _GAIN) * before:
            break
    return parameters, b, a


def _one() -> torch.Tensor:
    return torch.ones((), dtype=torch.float64)


def _thin_svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U [m, k], σ [k], Vᵀ [k, n]; σ is kept away from zero, for what rounding makes must not be divided by."""
    if not matrix.isfinite().all():
        raise not_finite()
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    return u, values.clamp_min(1e-4 * values[0]), v


def reduced_rank(root: torch.Tensor, moment: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best A [r, features], B [out, r] of y ≈ B A h, from HᵀH = L Lᵀ (`root`) and Hᵀy [features, out].

    With G = (HᵀH)⁻¹ Hᵀ y and V the top eigenvectors of Gᵀ HᵀH G: B = V and A = Vᵀ Gᵀ.
    """
    regression = torch.cholesky_solve(moment, root)
    explained = regression.T @ moment
    top = top_eigenvectors((explained + explained.T) / 2, rank)
    return (regression @ top).T, top


def truncated(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """⌊matrix⌋ᵣ as left [m, r] · right [r, n], by the eigenvectors of the smaller Gram matrix."""
    if matrix.shape[0] < matrix.shape[1]:
        right, left = truncated(matrix.T, rank)
        return left.T, right.T
    top = top_eigenvectors(matrix.T @ matrix, rank)
    return matrix @ top, top.T


def unwhiten(a: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Â L⁻¹ [r, in]."""
    solved: torch.Tensor = torch.linalg.solve_triangular(root, a, upper=False, left=False)
    return solved


def cholesky(matrix: torch.Tensor, ridge: float) -> torch.Tensor:
    """Lower Cholesky factor of matrix + ridge · mean(diagonal) · I; the ridge grows where rounding needs it."""
    mean = matrix.diagonal().mean()
    for factor in (1, 10, 100, 1000):
        regular = matrix.clone()
        regular.diagonal().add_(ridge * factor * mean)
        root: torch.Tensor
        root, info = torch.linalg.cholesky_ex(regular)
        if info == 0 and root.isfinite().all():
            return root
    raise not_finite()


def top_eigenvectors(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """Eigenvectors [n, rank] of the largest eigenvalues of a symmetric matrix [n, n]."""
    if not matrix.isfinite().all():
        raise not_finite()
    vectors: torch.Tensor = torch.linalg.eigh(matrix).eigenvectors
    return vectors[:, matrix.shape[0] - rank :].flip(1)


def store(module: nn.Module, values: Parameters) -> None:
    """Set recovery parameters; the components of A and B get equal norms, so that fine-tuning moves both alike.

    Raises:
        FitError: a value that is not finite.
    """
    a, b = balanced(values["A"], values["B"])
    for name, value in {**values, "A": a, "B": b}.items():
        if not value.isfinite().all():
            raise not_finite()
        if value.numel():  # rank 0 has no A and B
            getattr(module, name).copy_(value)


def balanced(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product B A, each component's two norms made equal: A [r, in], B [out, r]."""
    balance = (b.norm(dim=0) / a.norm(dim=1).clamp_min(1e-30)).sqrt().clamp_min(1e-30)
    return a * balance[:, None], b / balance
