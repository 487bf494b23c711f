"""An architecture without weights goes through the pipeline as a model with weights does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reported import recorded
from tiny_models import tiny_config

from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.pipeline import export
from sharp_mobile.recipe.load import load_recipe, recipe_name


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "shape.json"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "vocab_size": 32768, "num_hidden_layers": 3}
    tiny_config(**sizes).to_json_file(path)
    return path


def test_it_is_the_same_every_time_and_of_that_shape(config: Path) -> None:
    source = f"random:{config}"
    one, two = open_checkpoint(source), open_checkpoint(source)
    assert (one.name, one.random, one.tokenizer()) == ("shape", True, None)
    assert one.config.vocab_size == 32768
    assert one.fingerprint == two.fingerprint
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert "the weights are random" in one.warnings[0]


@pytest.mark.parametrize("tied", [True, False])
def test_its_lm_head_is_tied_as_its_configuration_says(tied: bool, tmp_path: Path) -> None:
    tiny_config(tie_word_embeddings=tied).to_json_file(tmp_path / "shape.json")
    model = open_checkpoint(f"random:{tmp_path}/shape.json").model
    assert torch.equal(model.get_input_embeddings().weight, model.lm_head.weight) == tied


@pytest.mark.slow
def test_it_is_exported_with_what_is_shared_stored_once(config: Path, tmp_path: Path) -> None:
    argument = f"random:{config}"
    recipe = load_recipe(argument, plan="1:2", rank=32, max_length=96)
    with recorded() as report:
        found = export(recipe, recipe_name(argument), tmp_path / "out", work=tmp_path)
    mlp = 3 * 128 * 256 * (4 + 16 / 32) / 8
    assert found.manifest.sizes.shared == mlp
    # A and B of gate, up and down; 8 bits a weight and a float32 scale a row of the rank or of the output.
    weights, rows = 3 * 32 * (128 + 256), 3 * 32 + 2 * 256 + 128
    assert found.manifest.sizes.recovery == pytest.approx(weights + 4 * rows, rel=0.1)
    assert found.manifest.name == "shape"
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert any("the weights are random" in line for line in report.warnings)


GROWTH = """
import resource, sys
from sharp_mobile import cli, pipeline
def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
cli.main(sys.argv[1:], standalone_mode=False)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in their own ways")
def test_a_model_is_walked_through_and_never_whole_in_memory(config: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 32768, "num_hidden_layers": 8}
    tiny_config(**sizes, num_attention_heads=16, num_key_value_heads=16, head_dim=64).to_json_file(config)
    options = ["--random-weights", str(config), "--plan", "none", "--set", "max_length=96", "--quiet"]
    run = [sys.executable, "-c", GROWTH, "export", *options, "--out", str(tmp_path / "out")]
    growth = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()[-1])
    parameters = 8 * (4 * 1024**2 + 3 * 1024 * 4096) + 2 * 32768 * 1024
    assert growth < 4 * parameters  # what they take in float, without any work on them


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"none\.json: no such file; give the config\.json"):
        open_checkpoint(f"random:{tmp_path}/none.json")
    (tmp_path / "other.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(SharpError, match=r"other\.json: .*gpt2"):
        open_checkpoint(f"random:{tmp_path}/other.json")
