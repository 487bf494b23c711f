"""A fit that is kept is taken whole, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sharp_mobile.recovery.warmup.saved_fits import TargetFit, read_fit, write_fit

FIT = TargetFit(layer=2, reference=1, error_before=0.5, error_after=0.25)
WHOLE = '{"layer": 2, "reference": 1, "error_before": 0.5, "error_after": 0.25}'


def test_a_fit_comes_back(tmp_path: Path) -> None:
    mlp, other = nn.Linear(2, 3), nn.Linear(2, 3)
    write_fit(tmp_path / "fit.safetensors", mlp.state_dict(), FIT)
    assert read_fit(tmp_path / "fit.safetensors", other.state_dict()) == FIT
    assert torch.equal(other.weight, mlp.weight)


@pytest.mark.parametrize(
    ("metadata", "shape"),
    [
        (None, (3, 2)),
        ({}, (3, 2)),
        ({"fit": "{"}, (3, 2)),
        ({"fit": "[]"}, (3, 2)),
        ({"fit": "[" * 100_000}, (3, 2)),
        ({"fit": WHOLE.replace("0.5", '"much"')}, (3, 2)),
        ({"fit": WHOLE}, (3, 3)),
    ],
)
def test_a_damaged_fit_is_none(metadata: dict[str, str] | None, shape: tuple[int, int], tmp_path: Path) -> None:
    path, mlp = tmp_path / "fit.safetensors", nn.Linear(2, 3)
    save_file({"weight": torch.ones(shape), "bias": torch.ones(3)}, path, metadata=metadata)
    before = mlp.weight.clone()
    assert read_fit(path, mlp.state_dict()) is None
    assert torch.equal(mlp.weight, before)
