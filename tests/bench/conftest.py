"""Exports that a plain C++ program can run: attention in portable operators."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.bench.emulation import Emulator, find_emulator
from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.memory_limit import memory_limit
from sharp_mobile.bench.runner import build_runner
from sharp_mobile.errors import SharpError
from sharp_mobile.pipeline import export
from sharp_mobile.recipe import Recipe

HIDDEN, INNER, RANK = 192, 768, 32


@pytest.fixture(scope="session")
def runner() -> Path:
    """The compiled runner."""
    if shutil.which("g++") is None:
        pytest.skip("the runner needs g++")
    return build_runner()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a model whose `.pte` is 11 MB, of which a shared MLP is 0.2."""
    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "head_dim": 48, "vocab_size": 32768}
    tiny_model(num_hidden_layers=4, tie_word_embeddings=True, **sizes).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def exported(model: Path, text: Path, plan: str, directory: Path) -> Export:
    recipe = Recipe(
        model=str(model),
        plan=plan,
        recovery={"rank": RANK},
        warmup={"text": str(text), "window": 32, "windows": 16},
        lower={"max_length": 96, "attention": "portable"},
    )
    torch.manual_seed(0)
    export(recipe, directory.name, directory, work=directory.parent, progress=False, say=lambda line: None)
    return read_export(directory)


@pytest.fixture(scope="session")
def shared(tiny_llama: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The third layer calls the second's MLP."""
    return exported(tiny_llama, tiny_text, "2:3", tmp_path_factory.mktemp("exports") / "shared")


@pytest.fixture(scope="session")
def unshared(tiny_llama: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Nothing is shared."""
    return exported(tiny_llama, tiny_text, "none", tmp_path_factory.mktemp("exports") / "unshared")


@pytest.fixture(scope="session")
def limits_allowed() -> None:
    """Skip where this system gives no control group."""
    try:
        with memory_limit(1 << 30):
            pass
    except SharpError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The ARM64 emulation. Without its tools a test is skipped, or fails where SHARP_MOBILE_REQUIRE_ARM64 is 1."""
    try:
        return find_emulator()
    except SharpError as error:
        if os.environ.get("SHARP_MOBILE_REQUIRE_ARM64") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
