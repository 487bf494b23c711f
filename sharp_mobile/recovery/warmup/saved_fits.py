"""The fitted targets of an interrupted run, under a directory named by everything that they depend on.

    <directory>/warmup-<digest>/layer-4.safetensors            what was fitted of the MLP of layer 4 (1-based), and its
                                                               errors
                                layer-4.attention.safetensors  of its attention; or of its bases

The digest covers the model, the plan, the recovery parameters, the settings and the tokens, so a run with another of
these finds nothing of this one's.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sharp_mobile import __version__
from sharp_mobile.files.outputs import replace_file

Part = Literal["mlp", "attention", "basis"]


@dataclass(frozen=True)
class TargetFit:
    """One target's weighted relative error ‖w(f − Y)‖ / ‖wY‖, as the direct share (before) and as fitted (after).

    An error of 1 is that of an MLP, or an attention, that answers zero. Of bases it is the root mean square over the
    layer's matrices of what truncation loses, ‖X (W − C B)ᵀ‖ / ‖X Wᵀ‖, before by bases that know no data.

    Args:
        layer, reference: 0-based; of bases the group's first layer, of attention that is left out the layer itself.
        part: of the layer.
    """

    layer: int
    reference: int
    error_before: float
    error_after: float
    part: Part = "mlp"


class Fitted(Protocol):
    """A target, as far as it is kept."""

    @property
    def layer(self) -> int:
        """0-based."""

    @property
    def part(self) -> Part:
        """Of the layer."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """What is fitted, by name; tensors that can be set."""


class SavedFits:
    """One file a target; see the module.

    Args:
        settings: everything else than model and windows that the fits depend on, as JSON can hold it.
    """

    def __init__(
        self, directory: Path, model: nn.Module, settings: Mapping[str, object], windows: torch.Tensor
    ) -> None:
        inputs = {"version": __version__, **settings}
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
        digest.update(str(tuple(windows.shape)).encode() + windows.numpy().tobytes())
        for name, parameter in model.named_parameters():
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // 4096)]  # a fingerprint: another model differs everywhere
            digest.update(name.encode() + sample.contiguous().numpy().tobytes())
        self.directory = Path(directory) / f"warmup-{digest.hexdigest()[:16]}"

    def load(self, target: Fitted) -> TargetFit | None:
        """Take what was fitted of a target, if it is there; a damaged file is as good as none."""
        return read_fit(self.path(target), target.state())

    def save(self, target: Fitted, fit: TargetFit) -> None:
        """Keep a fitted target."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_fit(self.path(target), target.state(), fit)

    def path(self, target: Fitted) -> Path:
        """Where a target's fit is kept."""
        part = "" if target.part == "mlp" else f".{target.part}"
        return self.directory / f"layer-{target.layer + 1}{part}.safetensors"


@torch.no_grad()
def read_fit(path: Path, own: Mapping[str, torch.Tensor]) -> TargetFit | None:
    """Set what `write_fit` wrote; None, and the tensors as they were, if the file is absent or damaged."""
    try:
        with safe_open(path, "pt") as file:
            fit = TypeAdapter(TargetFit).validate_json(file.metadata()["fit"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if _digest(state) != file.metadata()["sha256"]:
                return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None
    if {name: tensor.shape for name, tensor in state.items()} != {name: tensor.shape for name, tensor in own.items()}:
        return None
    for name, tensor in own.items():
        tensor.copy_(state[name])
    return fit


def write_fit(path: Path, own: Mapping[str, torch.Tensor], fit: TargetFit) -> None:
    """Write what was fitted of one target and its errors, whole or not at all."""
    state = {name: tensor.detach() for name, tensor in own.items()}
    with replace_file(path) as partial:
        save_file(state, partial, metadata={"fit": json.dumps(vars(fit)), "sha256": _digest(state)})


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
