"""Single Layer Warmup in closed form: recovery parameters by weighted least squares, target after target.

The paper (Stage 1) minimises ‖f(X; g(Θ_j, ΔΘ_l)) − f(X; Θ_l)‖² by Adam, each target alone. Here targets are fitted in
ascending order on what they will really read, the stream of the already recovered model, and learn what brings that
stream back to the original one. With `mid` the residual stream between a layer's attention and its MLP:

    x = pre_mlp_norm(mid_recovered)      Y = out_original − mid_recovered      f(x) ≈ Y

Tokens weigh w = (‖Y‖² + median‖Y‖²)^−½, so that no outlier token rules the fit and none is left out. For form g0 the
weights are α Θ + B A, and each projection has a closed form (Θ the reference's weight, W the target's own):

    gate, up   minimise Σ_neurons s² ‖w (α Θ + B A − W) x‖²: with C = Σ w² x xᵀ = L Lᵀ and M = diag(s) (W − α Θ) L,
               A = Vᵀ L⁻¹ and B = diag(1/s) M V, V the top eigenvectors of Mᵀ M.
               s is how much an error of the neuron's gate (up) moves the output, to first order.
    down       reduced-rank regression of w Y on the recovered gate and up: H the weighted inner activations,
               α = ⟨H Θᵀ, w Y⟩ / ‖H Θᵀ‖², E = w Y − α H Θᵀ, G = (HᵀH)⁻¹ Hᵀ E, B = V and A = Vᵀ Gᵀ,
               V the top eigenvectors of Gᵀ HᵀH G.

Where a family norms the MLP's output, `f(x)` must give what the norm turns into Y, see `_before_norm`.
"""

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from sharp_mobile import __version__
from sharp_mobile.errors import SharpError
from sharp_mobile.families import (
    Family,
    MLPWeights,
    decoder_layers,
    family_of,
    mlp_activation,
    mlp_biases,
    mlp_weights,
    norm,
)
from sharp_mobile.plan import SharePlan
from sharp_mobile.recover.calibrate import LayerwiseDecoder, batches, hidden_file, norm_ratios, sink_layers
from sharp_mobile.share import RecoveredProjection, Recoveries, Recovery, SharedMLP, recoveries, share_layers

INPUT_RIDGE = 1e-4  # of the mean diagonal of C
INNER_RIDGE = 1e-3  # of the mean diagonal of HᵀH
_NEURON_FLOOR = 0.05  # of the mean s, so that no neuron's weight can be arbitrary


@dataclass(frozen=True)
class TargetFit:
    """One target's weighted relative error ‖w(f − Y)‖ / ‖wY‖, as the direct share (before) and as fitted (after).

    An error of 1 is that of an MLP that answers zero. Layers are 0-based.
    """

    layer: int
    reference: int
    error_before: float
    error_after: float


@dataclass(frozen=True)
class WarmupReport:
    """What a warm-up did; layers are 0-based.

    Args:
        targets: the fitted targets, ascending; none for a direct plan.
        norm_ratios: max over median residual norm after each layer of the original model.
        sink_layers: the layers whose MLP writes the attention sink.
        warnings: what the user should know, one sentence each, layers 1-based.
        tokens: calibration tokens.
        seconds: wall time.
    """

    targets: tuple[TargetFit, ...]
    norm_ratios: tuple[float, ...]
    sink_layers: tuple[int, ...]
    warnings: tuple[str, ...]
    tokens: int
    seconds: float


@torch.no_grad()
def warm_up(
    model: nn.Module,
    plan: SharePlan,
    recovery: Recovery | Recoveries,
    windows: torch.Tensor,
    *,
    progress: bool = True,
    workdir: Path | None = None,
    checkpoint_dir: Path | None = None,
) -> WarmupReport:
    """Share `model` in place and fit its recovery parameters in closed form (paper, Section 2.2.2, Stage 1).

    Needs about 2 · 4 · tokens · hidden bytes of disk, and in memory the model and a few [inner, inner] matrices.
    When it fails or is interrupted, the model is whole again. A direct plan or rank 0 only shares.

    Args:
        model: the original Hugging Face model, float32 on the CPU; left in eval mode, all but the recovery
            parameters frozen.
        windows: calibration tokens, int64 [windows, T].
        workdir: where the hidden states are kept meanwhile; the system's temporary directory if None.
        checkpoint_dir: keep each fitted target here, and take those that an interrupted run with the same model,
            plan, recovery parameters and windows has left.

    Raises:
        SharpError: a form without a closed form, a rank above the hidden size, a model in another dtype, a plan that
            does not suit the model, or activations that are not finite.
    """
    started = time.monotonic()
    family = family_of(model.config.model_type)  # type: ignore[union-attr, arg-type]
    chosen = recoveries(plan, recovery)
    fitted = any(not own.direct for layer, own in chosen.items() if layer in plan.reference_of)
    if fitted:
        for layer in plan.targets:
            _check(model, chosen[layer])
    model.eval()
    ratios = norm_ratios(model, windows[:2])
    sinks = sink_layers(ratios)
    originals = {target: _layer(model, target).mlp for target in plan.targets}
    saved = _SavedFits(checkpoint_dir, model, plan, chosen, windows) if checkpoint_dir and fitted else None
    share_layers(model, plan, recovery)
    fits: tuple[TargetFit, ...] = ()
    if fitted:
        try:
            fits = _Warmup(model, family, originals, windows, saved, workdir, progress).run()
        except BaseException:
            for target, mlp in originals.items():
                _layer(model, target).mlp = mlp
            raise
    return WarmupReport(
        targets=fits,
        norm_ratios=ratios,
        sink_layers=sinks,
        warnings=_warnings(plan, sinks, ratios),
        tokens=windows.numel(),
        seconds=time.monotonic() - started,
    )


def _layer(model: nn.Module, index: int) -> Any:
    return decoder_layers(model)[index]


def _check(model: nn.Module, recovery: Recovery) -> None:
    if recovery.form != "lora" or recovery.hybrid:
        raise SharpError(f"recovery form '{recovery.form}' has no closed form; use 'lora', or train it by fine-tuning")
    weight = mlp_weights(_layer(model, 0).mlp).gate
    if max(recovery.ranks) > min(weight.shape):
        raise SharpError(
            f"recovery rank {max(recovery.ranks)} exceeds the MLP's width; use at most {min(weight.shape)}"
        )
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise SharpError(f"warm-up: the model is {weight.dtype} on {weight.device}; load it in float32 on the CPU")


def _check_room(directory: Path, needed: int) -> None:
    """Refuse before the long work what would end in a bus error: memory-mapped files on a full disk."""
    if not directory.is_dir():
        raise SharpError(f"{directory}: not a directory; create it, or name another workdir")
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise SharpError(
            f"{directory}: {free / 1e9:.1f} GB free, the hidden states need {needed / 1e9:.1f} GB; "
            "name a workdir on another disk, or calibrate on fewer tokens"
        )


def _warnings(plan: SharePlan, sinks: tuple[int, ...], ratios: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(
        f"layer {sink + 1} is a target, but its MLP writes the attention sink (the largest residual norm is "
        f"{ratios[sink]:.0f} times the median after it), which recovery parameters cannot imitate; "
        f"leave it out: '{plan} without {sink + 1}'"
        for sink in sinks
        if sink in plan.targets
    )


class _Zero(nn.Module):
    """An MLP that answers zero: a layer with it ends in `mid`, for a norm of zero is zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class _Warmup:
    """Carries the original and the recovered stream from layer to layer, fitting the targets on the way."""

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        originals: dict[int, nn.Module],
        windows: torch.Tensor,
        saved: "_SavedFits | None",
        workdir: Path | None,
        progress: bool,
    ) -> None:
        self.model, self.family, self.originals, self.windows = model, family, originals, windows
        self.saved, self.workdir = saved, workdir
        self.decoder = LayerwiseDecoder(model, windows[:1])
        self.parts = batches(windows)
        layers = max(originals) + 1  # nothing is learnt after the last target
        self.bar = tqdm(
            total=len(self.parts) * (layers + 3 * len(originals)), unit="batch", disable=None if progress else True
        )

    def run(self) -> tuple[TargetFit, ...]:
        hidden_size = mlp_weights(next(iter(self.originals.values()))).gate.shape[1]
        _check_room(Path(self.workdir or tempfile.gettempdir()), 8 * self.windows.numel() * hidden_size)
        with tempfile.TemporaryDirectory(prefix="sharp-mobile-", dir=self.workdir) as directory, self.bar:
            original = hidden_file(Path(directory) / "original", self.windows, hidden_size)
            recovered = hidden_file(Path(directory) / "recovered", self.windows, hidden_size)
            for part in self.parts:
                original[part] = self.decoder.embed(self.windows[part])
            return tuple(self._layers(original, recovered))

    def _layers(self, original: torch.Tensor, recovered: torch.Tensor) -> Iterator[TargetFit]:
        first = min(self.originals)  # before it the two streams are one
        for index in range(max(self.originals) + 1):
            if index in self.originals:
                yield self._target(index, original, original if index == first else recovered, recovered)
                continue
            for part in self._each(index, "activations"):
                original[part] = self.decoder.layer(index, original[part])
                if index > first:
                    recovered[part] = self.decoder.layer(index, recovered[part])

    def _each(self, index: int, what: str) -> Iterator[slice]:
        self.bar.set_description(f"layer {index + 1} {what}")
        for part in self.parts:
            yield part
            self.bar.update()

    def _target(self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor) -> TargetFit:
        """Fit one target; afterwards both streams are behind its layer."""
        task = self._regression(index, original, source, recovered)
        mlp = self.shared(index)
        if self.saved is None or not self.saved.load(index, mlp):
            self._fit_gate_up(index, task, mlp)
            self._fit_down(index, task, mlp)
            if self.saved:
                self.saved.save(index, mlp)
        else:
            self.bar.update(2 * len(self.parts))
        return self._advance(index, task, mlp)

    def shared(self, index: int) -> SharedMLP:
        mlp: SharedMLP = _layer(self.model, index).mlp
        return mlp

    def _regression(
        self, index: int, original: torch.Tensor, source: torch.Tensor, recovered: torch.Tensor
    ) -> "_Regression":
        """Step both streams: `original` to the layer's end, `recovered` to its middle."""
        own = self.originals[index]
        scales: list[torch.Tensor] = []
        hook = own.register_forward_hook(lambda mlp, args, output: scales.append(output.pow(2).mean(-1).sqrt()))
        try:
            for part in self._each(index, "activations"):
                middle = self._with_mlp(index, _Zero(), source[part])
                original[part] = self._with_mlp(index, own, original[part])
                recovered[part] = middle
        finally:
            hook.remove()
        layer = _layer(self.model, index)
        return _Regression(layer, self.family, index, recovered, original, torch.cat(scales), self.parts)

    def _with_mlp(self, index: int, mlp: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        layer, shared = _layer(self.model, index), self.shared(index)
        layer.mlp = mlp
        try:
            return self.decoder.layer(index, hidden)
        finally:
            layer.mlp = shared

    def _fit_gate_up(self, index: int, task: "_Regression", mlp: SharedMLP) -> None:
        own = self.originals[index]
        weights, activation = mlp_weights(own), mlp_activation(own)
        gate_bias, up_bias, _ = mlp_biases(own)
        inner, hidden = weights.gate.shape
        covariance = torch.zeros(hidden, hidden, dtype=torch.float64)
        squares = torch.zeros(2, inner, dtype=torch.float64)  # Σ (w act'(g) u)², Σ (w act(g))²
        for part in self._each(index, "fits gate and up"):
            x, _, w = task.batch(part)
            g, u = F.linear(x, weights.gate, gate_bias), F.linear(x, weights.up, up_bias)
            with torch.enable_grad():
                g.requires_grad_()
                activated = activation(g)
                (slope,) = torch.autograd.grad(activated.sum(), g)
            covariance += (w * x).T @ (w * x)
            squares[0] += (w * slope * u).pow(2).sum(0)
            squares[1] += (w * activated.detach()).pow(2).sum(0)
        importance = weights.down.double().norm(dim=0) * (squares / self.windows.numel()).sqrt()
        importance += _NEURON_FLOOR * importance.mean(dim=1, keepdim=True)
        reference = mlp_weights(mlp.reference)
        _fit_input(mlp.gate, weights.gate, reference.gate, covariance, importance[0], index)
        _fit_input(mlp.up, weights.up, reference.up, covariance, importance[1], index)

    def _fit_down(self, index: int, task: "_Regression", mlp: SharedMLP) -> None:
        reference = mlp_weights(mlp.reference)
        hidden, inner = reference.down.shape
        gram = torch.zeros(inner, inner, dtype=torch.float64)  # HᵀH
        moment = torch.zeros(inner, hidden, dtype=torch.float64)  # HᵀwY
        for part in self._each(index, "fits down"):
            x, y, w = task.batch(part)
            h = w * _inner(mlp, reference, x)
            gram += h.T @ h
            moment += h.T @ (w * (y if mlp.down.bias is None else y - mlp.down.bias))
        _fit_output(mlp.down, reference.down, gram, moment, index)

    def _advance(self, index: int, task: "_Regression", mlp: SharedMLP) -> TargetFit:
        """Bring the recovered stream to the layer's end, measuring the fit against the direct share."""
        squares = torch.zeros(3, dtype=torch.float64)  # direct share's error, fitted one's, Y
        for part in self._each(index, "measures"):
            x, y, w = task.batch(part)
            fitted = mlp(x)
            for i, value in enumerate((mlp.reference(x) - y, fitted - y, y)):
                squares[i] += (w * value).double().pow(2).sum()
            task.recovered[part] += task.post_norm(fitted).view_as(task.recovered[part])
        before, after = (squares[:2] / squares[2]).sqrt().tolist()
        if not math.isfinite(after):
            raise _not_finite(index)
        return TargetFit(index, mlp.reference_layer, before, after)


class _Regression:
    """What a target has to learn: x -> Y with weight w, for every calibration token.

    Args:
        recovered: the recovered stream at the layer's middle, [windows, T, hidden].
        original: the original stream at the layer's end, [windows, T, hidden].
        scale: root mean square of the original MLP's output, [windows, T].
    """

    def __init__(
        self,
        layer: Any,
        family: Family,
        index: int,
        recovered: torch.Tensor,
        original: torch.Tensor,
        scale: torch.Tensor,
        parts: list[slice],
    ) -> None:
        self.recovered, self.original, self.scale = recovered, original, scale
        self.pre_norm: Any = norm(layer, family.pre_mlp_norm)
        self.post_norm: Any = norm(layer, family.post_mlp_norm)
        attribute = family.post_mlp_norm
        gain = None if attribute is None else getattr(layer, attribute).weight + family.norm_gain_offset
        self.gain: torch.Tensor | None = gain
        squares = torch.cat([self._needed(part).pow(2).sum(-1) for part in parts])
        if not squares.isfinite().all():
            raise _not_finite(index)
        self.weights = (squares + squares.median()).rsqrt().nan_to_num(posinf=0.0).view_as(scale)

    def batch(self, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x [tokens, hidden], Y [tokens, hidden] and w [tokens, 1] of some windows."""
        x = self.pre_norm(self.recovered[part]).flatten(0, 1)
        return x, self._needed(part), self.weights[part].reshape(-1, 1)

    def _needed(self, part: slice) -> torch.Tensor:
        needed = self.original[part] - self.recovered[part]
        if self.gain is not None:
            needed = _before_norm(needed, self.gain, self.scale[part].unsqueeze(-1))
        return needed.flatten(0, 1)


def _before_norm(needed: torch.Tensor, gain: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What an RMS norm turns into (nearly) `needed` [..., hidden]: needed / gain, at the original MLP's scale.

    The norm forgets its input's scale, so the root mean square `scale` [..., 1] of the original MLP's output is taken,
    a size that the weights can reach. Channels of little gain are held down: they matter as little.
    """
    floor = 0.05 * gain.abs().mean()
    direction = needed * gain.sign() / gain.abs().clamp_min(floor)
    return direction * scale


def _inner(mlp: SharedMLP, reference: MLPWeights, x: torch.Tensor) -> torch.Tensor:
    """The activations that a target's down projection reads: x [tokens, hidden] -> [tokens, inner]."""
    return mlp_activation(mlp.reference)(mlp.gate(x, reference.gate)) * mlp.up(x, reference.up)


def _fit_input(
    projection: RecoveredProjection,
    own: torch.Tensor,
    reference: torch.Tensor,
    covariance: torch.Tensor,
    importance: torch.Tensor,
    index: int,
) -> None:
    """Gate or up: the weighted truncated SVD of W − α Θ (see the module)."""
    own, reference = own.double(), reference.double()
    root = _cholesky(covariance, INPUT_RIDGE, index)
    seen = reference @ covariance
    alpha = (seen * own).sum() / (seen * reference).sum()
    change = importance[:, None] * ((own - alpha * reference) @ root)
    top = _top_eigenvectors(change.T @ change, projection.rank, index)
    a = torch.linalg.solve_triangular(root, top.T, upper=False, left=False)
    _set(projection, alpha, a, (change @ top) / importance[:, None], index)


def _fit_output(
    projection: RecoveredProjection, reference: torch.Tensor, gram: torch.Tensor, moment: torch.Tensor, index: int
) -> None:
    """Down: reduced-rank regression from HᵀH and HᵀwY (see the module)."""
    reference = reference.double()
    seen = gram @ reference.T  # HᵀH Θᵀ
    alpha = (reference.T * moment).sum() / (reference.T * seen).sum()
    error = moment - alpha * seen  # Hᵀ E
    regression = torch.cholesky_solve(error, _cholesky(gram, INNER_RIDGE, index))
    explained = regression.T @ error
    top = _top_eigenvectors((explained + explained.T) / 2, projection.rank, index)
    _set(projection, alpha, (regression @ top).T, top, index)


def _cholesky(matrix: torch.Tensor, ridge: float, index: int) -> torch.Tensor:
    """Lower Cholesky factor of matrix + ridge · mean(diagonal) · I; the ridge grows where rounding needs it."""
    mean = matrix.diagonal().mean()
    for factor in (1, 10, 100, 1000):
        regular = matrix.clone()
        regular.diagonal().add_(ridge * factor * mean)
        root, info = torch.linalg.cholesky_ex(regular)
        if info == 0 and root.isfinite().all():
            return root
    raise _not_finite(index)


def _top_eigenvectors(matrix: torch.Tensor, rank: int, index: int) -> torch.Tensor:
    """Eigenvectors [n, rank] of the largest eigenvalues of a symmetric matrix [n, n]."""
    if not matrix.isfinite().all():
        raise _not_finite(index)
    return torch.linalg.eigh(matrix).eigenvectors[:, -rank:].flip(1)


def _set(projection: RecoveredProjection, alpha: torch.Tensor, a: torch.Tensor, b: torch.Tensor, index: int) -> None:
    """Store α, A and B, each component's two norms made equal, so that fine-tuning moves both alike."""
    balance = (b.norm(dim=0) / a.norm(dim=1).clamp_min(1e-30)).sqrt().clamp_min(1e-30)
    for parameter, value in (
        (projection.alpha, alpha),
        (projection.A, a * balance[:, None]),
        (projection.B, b / balance),
    ):
        if not value.isfinite().all():
            raise _not_finite(index)
        parameter.copy_(value)


def _not_finite(index: int) -> SharpError:
    return SharpError(
        f"warm-up: layer {index + 1} has activations that are not finite or all alike; "
        "check the model's weights, calibrate on more text, or leave this layer out of the plan"
    )


class _SavedFits:
    """The fitted targets of an interrupted run, under a directory named by everything that they depend on."""

    def __init__(
        self, directory: Path, model: nn.Module, plan: SharePlan, recovery: Recoveries, windows: torch.Tensor
    ) -> None:
        inputs = {
            "version": __version__,
            "plan": str(plan),
            "recovery": [(layer, asdict(own)) for layer, own in recovery.items()],
        }
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
        digest.update(windows.numpy().tobytes())
        for name, parameter in model.named_parameters():
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // 4096)]  # a fingerprint: another model differs everywhere
            digest.update(name.encode() + sample.contiguous().numpy().tobytes())
        self.directory = Path(directory) / f"warmup-{digest.hexdigest()[:16]}"

    def load(self, index: int, mlp: SharedMLP) -> bool:
        """Take a target's recovery parameters, if they are there."""
        path = self._path(index)
        if not path.is_file():
            return False
        mlp.load_state_dict(load_file(path))
        return True

    def save(self, index: int, mlp: SharedMLP) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self._path(index)
        partial = path.with_suffix(".partial")
        save_file(mlp.state_dict(), partial)
        partial.replace(path)

    def _path(self, index: int) -> Path:
        return self.directory / f"layer-{index + 1}.safetensors"
