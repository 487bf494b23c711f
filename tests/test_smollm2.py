"""The packaged real model: what sharing saves in the file, and that ExecuTorch's own runner says what we say."""

from pathlib import Path

import executorch.extension.llm.custom_ops.custom_ops
import executorch.extension.pybindings.portable_lib
import executorch.kernels.quantized  # noqa: F401  registers the embedding operators
import pytest
from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner
from made_once import made_once
from transformers import PreTrainedTokenizerFast

from sharp_mobile.pipeline import ExportResult, export
from sharp_mobile.pte.runtime import greedy, load_pte, quiet_native
from sharp_mobile.recipe.load import load_recipe

pytestmark = pytest.mark.slow


def exported(name: str, plan: str, directory: Path, **changes: object) -> ExportResult:
    """An export with next to no calibration, which a direct share does not need; 4 bits for all, to count bytes by."""
    settings = {"eight_bit_budget": 0, "window": 16, "windows": 1, "max_length": 256, **changes}
    recipe = load_recipe("smollm2-135m-t_next", plan=plan, **settings)
    return export(recipe, name, directory / name, work=directory)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Its weights are rounded to the nearest, which is faster and takes as many bytes."""
    return made_once(
        tmp_path_factory,
        "smollm2-shared",
        lambda directory: exported("shared", "direct:t_next", directory, rounding="nearest"),
    )


@pytest.fixture(scope="session")
def unshared(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return made_once(tmp_path_factory, "smollm2-unshared", lambda directory: exported("unshared", "none", directory))


def test_the_file_is_its_tensors(shared: ExportResult) -> None:
    size = (shared.directory / "model.pte").stat().st_size
    assert size <= 1.01 * sum(tensor.bytes for tensor in shared.manifest.tensors)


def test_sharing_saves_thirteen_mlps(shared: ExportResult, unshared: ExportResult) -> None:
    mlp = 3 * 576 * 1536
    assert shared.manifest.sizes.shared == 13 * (mlp // 2 + mlp // 32 * 2)
    saved = unshared.manifest.sizes.file - shared.manifest.sizes.file
    assert saved == pytest.approx(shared.manifest.sizes.shared - shared.manifest.sizes.recovery, rel=1e-3)
    assert shared.manifest.sizes.unshared == pytest.approx(unshared.manifest.sizes.file, rel=1e-3)


def test_the_unshared_model_answers(unshared: ExportResult) -> None:
    assert "Paris" in unshared.manifest.expected.text


def test_executorchs_own_runner_says_the_same(unshared: ExportResult) -> None:
    directory, prompt, count = unshared.directory, "The President said that", 12
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    tokens = greedy(load_pte(directory / "model.pte"), tokenizer(prompt)["input_ids"], count, [])
    said: list[str] = []
    with quiet_native():
        runner = TextLLMRunner(str(directory / "model.pte"), str(directory / "tokenizer.json"))
        config = GenerationConfig(max_new_tokens=count, temperature=0.0, echo=False)
        runner.generate(prompt, config, said.append, None)
    assert "".join(said) == tokenizer.decode(tokens)
