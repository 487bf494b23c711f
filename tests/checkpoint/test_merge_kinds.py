"""What layers share of attention and bases is merged into whole weights, or refused where none are the same."""

from pathlib import Path

import pytest
import torch
from share_recipes import KINDS, planned
from tiny_models import MODEL_TYPES, tiny_model, tiny_tokenizer, tiny_tokens
from transformers import AutoModelForCausalLM, PreTrainedModel

from sharp_mobile.checkpoint.merge import merge, merge_layers
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.model.share import layer_recoveries, recovery_parameters, share_layers

MERGED = [kind for kind in KINDS if kind not in ("kv", "kv lora", "bypass", "mixture")]


def randomized(kind: str, model_type: str = "llama") -> PreTrainedModel:
    model: PreTrainedModel = tiny_model(model_type)
    share_layers(model, *planned(kind, model))
    for _, parameter in recovery_parameters(model):
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    found: torch.Tensor = model(tiny_tokens()).logits
    return found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", MERGED)
def test_merging_keeps_the_logits(kind: str, model_type: str) -> None:
    model = randomized(kind, model_type)
    expected = logits(model)
    merge_layers(model)
    assert layer_recoveries(model) == {}
    assert model.state_dict().keys() == tiny_model(model_type).state_dict().keys()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("kv", r"layer 3 reads the keys and values of layer 1.*share: attention"),
        ("kv lora", "layer 3 reads the keys and values of layer 1"),
        (
            "bypass",
            r"layer 3 has a linear bypass of rank 16 instead of its attention.*recovery\.attention_bypass 0",
        ),
        ("mixture", "layer 5 reads the keys and values of layer 1"),
    ],
)
def test_what_no_weights_give_is_refused_and_left_alone(kind: str, says: str) -> None:
    model = randomized(kind)
    expected, recovery = logits(model), layer_recoveries(model)
    with pytest.raises(SharpError, match=says):
        merge_layers(model)
    assert layer_recoveries(model) == recovery
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("kind", ["layer", "drop", "basis"])
def test_others_read_what_was_merged(kind: str, tmp_path: Path) -> None:
    model = randomized(kind, "qwen2")
    source = save_sharp_checkpoint(model, planned(kind, model)[0], tmp_path / "sharp")
    tiny_tokenizer().save_pretrained(source)
    plain = AutoModelForCausalLM.from_pretrained(merge(source, tmp_path / "merged"))
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-4)
