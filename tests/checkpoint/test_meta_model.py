"""A blueprint is the model that would be opened, with nothing in it."""

from pathlib import Path

import pytest

from sharp_mobile.checkpoint.meta_model import open_blueprint
from sharp_mobile.checkpoint.open import open_checkpoint


def test_it_has_the_shapes_of_what_would_be_opened(tiny_checkpoint: Path) -> None:
    blueprint, opened = open_blueprint(str(tiny_checkpoint)), open_checkpoint(tiny_checkpoint)
    tensors = blueprint.model.state_dict()
    assert all(tensor.is_meta for tensor in tensors.values())
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in opened.model.state_dict().items()
    }
    assert (blueprint.name, blueprint.path, blueprint.plan) == (opened.name, opened.path, None)


def test_of_a_repository_no_weights_are_downloaded(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def download(repository: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        wanted.extend([repository, *allow_patterns])
        return str(tiny_checkpoint)

    monkeypatch.setattr("sharp_mobile.checkpoint.locate.snapshot_download", download)
    (tiny_checkpoint / "model.safetensors").unlink()
    assert open_blueprint("org/name").config.hidden_size == 64
    assert not any(pattern.endswith((".safetensors", ".bin")) or "*" in pattern for pattern in wanted)
    assert wanted[:3] == ["org/name", "config.json", "sharp.json"]
