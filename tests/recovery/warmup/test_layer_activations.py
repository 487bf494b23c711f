import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    SmolLM3Config,
)

from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.recovery.warmup.layer_activations import (
    LayerwiseDecoder,
    batches,
    find_sink_layers,
    norm_ratios,
    sink_layers,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "pad_token_id": 0,
    "sliding_window": 8,
}
CONFIGS = (LlamaConfig, Qwen3Config, Phi3Config, Gemma2Config, Gemma3TextConfig, SmolLM3Config, Olmo2Config)


def tiny(config: type[PretrainedConfig]) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SIZES)).eval()


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_layer_by_layer_is_the_model(config: type[PretrainedConfig]) -> None:
    model = tiny(config)
    windows = torch.randint(1, 256, (3, 24))  # longer than the sliding window
    decoder = LayerwiseDecoder(model, windows[:1])
    hidden = decoder.embed(windows)
    for index in range(len(decoder)):
        hidden = decoder.layer(index, hidden)
    expected = model.model(windows).last_hidden_state
    torch.testing.assert_close(model.model.norm(hidden), expected, rtol=1e-4, atol=1e-4)


def test_leaves_no_hooks() -> None:
    model = tiny(LlamaConfig)
    LayerwiseDecoder(model, torch.ones(1, 4, dtype=torch.long)).embed(torch.ones(2, 4, dtype=torch.long))
    assert not any(layer._forward_pre_hooks for layer in decoder_layers(model))


def test_batches_cover_all_windows_once() -> None:
    windows = torch.arange(11)[:, None].expand(11, 700)
    assert torch.cat([windows[part] for part in batches(windows)]).equal(windows)
    assert {len(windows[part]) for part in batches(windows)} == {2, 1}
    assert len(batches(torch.zeros(3, 5000))) == 3


def test_finds_the_layer_that_writes_a_sink() -> None:
    model: LlamaForCausalLM = tiny(LlamaConfig)
    windows = torch.randint(1, 256, (2, 24))
    windows[:, 0] = 7
    assert find_sink_layers(model, windows) == ()
    with torch.no_grad():
        # Token 7 stands out in one channel, which layer 4's MLP turns into a huge activation.
        model.model.embed_tokens.weight[:, 5] = 0
        model.model.embed_tokens.weight[7] = 0
        model.model.embed_tokens.weight[7, 5] = 1
        mlp = decoder_layers(model)[3].mlp
        mlp.gate_proj.weight[0], mlp.up_proj.weight[0] = 0, 0
        mlp.gate_proj.weight[0, 5] = mlp.up_proj.weight[0, 5] = 10
        mlp.down_proj.weight[:, 0] = 5
    assert norm_ratios(model, windows)[3] > 30
    assert find_sink_layers(model, windows) == (3,)


def test_sink_layers_are_jumps() -> None:
    # After each layer of SmolLM2-135M-Instruct, two windows of 512 tokens.
    smollm2 = [2.4, 4.4, 11.1, 10.1, 9.5, 8.9, 8.4, 7.7, 6.2, 3.1, 1.4, 185.7, 178.0, 167.6, 162.6, 147.0, 135.3, 6.4]
    assert sink_layers(smollm2) == (11,)
    assert sink_layers([1.1, 1.2, 15.0, 1.1]) == ()
    assert sink_layers([400.0, 390.0, 20.0, 300.0]) == (0, 3)
