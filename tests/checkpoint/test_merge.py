"""A merged model is a plain Hugging Face model that answers as the SHARP checkpoint does."""

from pathlib import Path

import pytest
import torch
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokenizer, tiny_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sharp_mobile.checkpoint.merge import merge, merge_layers
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import recovery_parameters, share_layers, shared_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recoveries, Recovery

FORMS = ("lora", "right", "left", "hadamard")
PLAN = SharePlan.parse("2:3, 4:5", 6)


def randomized(recovery: Recovery | Recoveries, model_type: str = "llama", **overrides: object) -> PreTrainedModel:
    """A tiny shared model whose recovery parameters are random."""
    model = tiny_model(model_type, **overrides)
    share_layers(model, PLAN, recovery)
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny_tokens()).logits


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_merging_keeps_the_logits_of_every_family_and_form(model_type: str, form: str) -> None:
    model = randomized(Recovery(form, 4), model_type)
    expected = logits(model)
    merge_layers(model)
    assert not shared_layers(model)
    assert model.state_dict().keys() == tiny_model(model_type).state_dict().keys()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recovery", [Recovery("lora", 4), Recovery("lora", 0)], ids=["lora", "direct"])
def test_each_target_keeps_its_own_biases(recovery: Recovery) -> None:
    model = randomized(recovery, mlp_bias=True)
    expected = logits(model)
    merge_layers(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gemma2"])
@pytest.mark.parametrize(
    "recovery",
    [
        Recovery("lora", (2, 0, 6)),
        Recovery(neurons=10, reference=False),
        {1: Recovery("lora", 3), 2: Recovery("lora", 4), 4: Recovery(), 5: Recovery("lora", 3)},
    ],
    ids=["uneven", "own neurons alone", "adapters"],
)
def test_all_that_fits_into_a_plain_mlp_is_merged(model_type: str, recovery: Recovery | Recoveries) -> None:
    model = randomized(recovery, model_type)
    expected = logits(model)
    merge_layers(model)
    assert not shared_layers(model)
    assert model.state_dict().keys() == tiny_model(model_type).state_dict().keys()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_own_neurons_keep_their_biases() -> None:
    model = randomized(Recovery(neurons=10, reference=False), mlp_bias=True)
    expected = logits(model)
    merge_layers(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("recovery", "reason"),
    [
        (Recovery("lora", 4, bypass=2), "layer 3 has a linear bypass of rank 2"),
        (Recovery(neurons=4, bypass=2, reference=False), "recovery.bypass 0"),
        (Recovery("lora", 4, neurons=5), "layer 3 has 5 own neurons beside the shared 96"),
    ],
)
def test_what_does_not_fit_is_refused_and_left_alone(recovery: Recovery, reason: str) -> None:
    model = randomized(recovery)
    expected = logits(model)
    with pytest.raises(SharpError, match=reason):
        merge_layers(model)
    assert torch.equal(logits(model), expected)


def test_references_and_merged_targets_are_separate() -> None:
    model = randomized(Recovery("lora", 0))
    merge_layers(model)
    before = model.model.layers[1].mlp.gate_proj.weight.clone()
    torch.testing.assert_close(model.model.layers[2].mlp.gate_proj.weight, before)
    model.model.layers[2].mlp.gate_proj.weight += 1
    assert torch.equal(model.model.layers[1].mlp.gate_proj.weight, before)


@pytest.mark.parametrize("tied", [True, False])
def test_the_directory_is_read_by_transformers_alone(tmp_path: Path, tied: bool) -> None:
    original = tmp_path / "original"
    tiny_model().save_pretrained(original)
    tiny_tokenizer().save_pretrained(original)
    model = randomized(Recovery("lora", 4), tie_word_embeddings=tied)
    model.config.dtype = torch.bfloat16  # what the original was stored in; readers must not round to it
    model.generation_config.max_length = 77
    sharp = save_sharp_checkpoint(model, PLAN, tmp_path / "sharp", tokenizer_source=open_checkpoint(original))
    expected = logits(model)
    directory = merge(sharp, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-4)
    assert plain.generation_config.max_length == 77
    assert AutoTokenizer.from_pretrained(directory)("abc")["input_ids"] == tiny_tokenizer()("abc")["input_ids"]
    merge(sharp, directory)  # what we wrote, we may replace
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "original", "sharp"]


def test_what_shares_nothing_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="shares nothing"):
        merge(tiny_checkpoint, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_never_replaces_its_source(tmp_path: Path) -> None:
    source = save_sharp_checkpoint(randomized(Recovery("lora", 4)), PLAN, tmp_path / "models" / "s")
    (tmp_path / "link").symlink_to(source)
    before = sorted(tmp_path.rglob("*"))
    for out in (source, source.parent, source / "merged", tmp_path / "link", tmp_path / "link" / "merged"):
        with pytest.raises(SharpError, match="source"):
            merge(source, out)
    assert sorted(tmp_path.rglob("*")) == before
