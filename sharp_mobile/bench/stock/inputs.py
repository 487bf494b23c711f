"""Convert a Llama checkpoint and our export settings to the inputs of ExecuTorch's exporter `export_llm`.

    weights.pth   the tensors under Meta's names, q and k in Meta's layout
    params.json   the architecture
    config.yaml   the settings
    tokenizer.json, so that the export can be run

RoPE rotates pairs of a head's d dimensions: (i, i + d/2) in Hugging Face's layout, (2i, 2i + 1) in Meta's. So the rows
of q and k are reordered. Attention scores are sums over a head's dimensions, so they do not change.

ExecuTorch 1.5.1 converts SmolLM2 only from the hub and with torchtune, which a comparison should not need.
"""

import json
from pathlib import Path

import click
import torch
import yaml
from transformers import PreTrainedConfig, PreTrainedModel

from sharp_mobile.checkpoint.checkpoint import Checkpoint
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.errors import SharpError

# Relative to the exporter's working directory: it takes a path that contains "int8" or "8da4w" for a quantized
# checkpoint.
WEIGHTS, PARAMS, CONFIG = "weights.pth", "params.json", "config.yaml"

_META_NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleave_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of a q or k projection [heads · d, hidden] from Hugging Face's layout to Meta's."""
    halves = weight.view(heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def meta_state_dict(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A Hugging Face Llama's tensors under Meta's names, q and k in Meta's layout; tied tensors under both names."""
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    state = {}
    for name, tensor in model.state_dict().items():
        module = name.removesuffix(".weight")
        projection = module.rpartition(".")[2]
        if projection in heads:
            tensor = interleave_pairs(tensor, heads[projection])
        state[f"{_meta_name(module)}.weight"] = tensor
    return state


def _meta_name(module: str) -> str:
    if module in _META_NAMES:
        return _META_NAMES[module]
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    return f"layers.{layer}.{_META_NAMES[rest]}"


def stock_params(config: PreTrainedConfig) -> dict[str, object]:
    """The content of params.json."""
    return {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_dim": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"],
        "use_scaled_rope": False,
    }


def stock_config(
    checkpoint: Checkpoint, max_length: int, group_size: int, output: str, attention: str = "custom_sdpa"
) -> dict[str, object]:
    """The content of config.yaml: 8da4w linears and a 4-bit embedding in groups (HQQ by default), KV cache, XNNPACK."""
    tokens = {"get_bos_id": checkpoint.bos_token_id, "get_eos_ids": checkpoint.eos_token_ids}
    return {
        "base": {
            "model_class": "smollm2",  # works for any plain Llama: the architecture comes from params.json
            "checkpoint": WEIGHTS,
            "params": PARAMS,
            "metadata": json.dumps({name: value for name, value in tokens.items() if value is not None}),
        },
        "model": {
            "dtype_override": "fp32",
            "enable_dynamic_shape": True,
            "use_kv_cache": True,
            "use_sdpa_with_kv_cache": attention == "custom_sdpa",
        },
        "export": {"max_seq_length": max_length, "max_context_length": max_length, "output_name": output},
        "quantization": {"qmode": "8da4w", "group_size": group_size, "embedding_quantize": f"4,{group_size}"},
        "backend": {"xnnpack": {"enabled": True, "extended_ops": True}},
    }


def check_plain_llama(checkpoint: Checkpoint) -> None:
    """Refuse a model that `stock_params` cannot describe.

    Raises:
        SharpError: it is of another family, a SHARP checkpoint, or has scaled RoPE or biases.
    """
    config = checkpoint.config
    if checkpoint.plan is not None:
        problem = "a SHARP checkpoint"
    elif config.model_type != "llama":
        problem = f"of model type '{config.model_type}'"
    elif config.rope_parameters["rope_type"] != "default":
        problem = f"a Llama with RoPE of type '{config.rope_parameters['rope_type']}'"
    elif config.attention_bias or config.mlp_bias:
        problem = "a Llama with biases"
    else:
        return
    raise SharpError(f"{checkpoint.source}: is {problem}, which is not supported; give a plain Llama, such as SmolLM2")


@click.command()
@click.argument("model")
@click.argument("directory", type=Path)
@click.option("--max-length", type=int, required=True)
@click.option("--group-size", type=int, required=True)
@click.option("--attention", type=click.Choice(["custom_sdpa", "portable"]), required=True)
@click.option("--output", required=True, help="The exporter's output file, relative to its working directory.")
def main(model: str, directory: Path, max_length: int, group_size: int, attention: str, output: str) -> None:
    """Write the inputs of `export_llm --config config.yaml` for MODEL to DIRECTORY."""
    try:
        checkpoint = open_checkpoint(model)
        check_plain_llama(checkpoint)
    except SharpError as error:
        raise click.ClickException(str(error)) from error
    torch.save(meta_state_dict(checkpoint.model), directory / WEIGHTS)
    (directory / PARAMS).write_text(json.dumps(stock_params(checkpoint.config)), encoding="utf-8")
    config = stock_config(checkpoint, max_length, group_size, output, attention)
    (directory / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    checkpoint.write_tokenizer(directory)


if __name__ == "__main__":
    main()
