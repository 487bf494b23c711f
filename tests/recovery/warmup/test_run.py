import copy
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from sharp_mobile.errors import SharpError
from sharp_mobile.model.families import family_of
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import recovery_parameters, shared_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.run import _check_room, warm_up

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 256,
    "pad_token_id": 0,
    "sliding_window": 8,
}
PLAN = SharePlan.parse("2:3, 4:5", 7)


def tiny(config: type[PretrainedConfig] = LlamaConfig, **options: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SIZES, **options)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
        elif ".mlp." in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def windows(count: int = 40) -> torch.Tensor:
    return torch.randint(1, 256, (count, 32), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def divergence(model: PreTrainedModel, original: PreTrainedModel, tokens: torch.Tensor) -> float:
    """Relative error of the last hidden states."""
    expected = original.model(tokens).last_hidden_state
    return ((model.model(tokens).last_hidden_state - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"mlp_bias": True}),
        (Qwen3Config, {}),
        (Phi3Config, {}),
        (Gemma2Config, {}),
        (Gemma3TextConfig, {}),
        (Olmo2Config, {}),
    ],
)
def test_full_rank_brings_the_model_back(config: type[PretrainedConfig], options: dict[str, bool]) -> None:
    model = tiny(config, **options)
    original, direct = copy.deepcopy(model), copy.deepcopy(model)
    report = warm_up(model, PLAN, Recovery("lora", 32), windows())
    warm_up(direct, SharePlan.parse(f"direct:{PLAN}", 7), Recovery("lora", 32), windows())
    assert [(fit.layer, fit.reference) for fit in report.targets] == [(2, 1), (4, 3)]
    # A norm behind the MLP forgets its scale, so there the second target cannot undo the first one's error exactly.
    after_norm = family_of(original.config.model_type).post_mlp_norm is not None
    assert all(fit.error_after < (0.15 if after_norm else 0.05) < 0.5 < fit.error_before for fit in report.targets)
    unseen = windows(44)[40:]
    assert divergence(model, original, unseen) < 0.1 * divergence(direct, original, unseen)


def test_a_multiple_of_the_reference_needs_no_rank() -> None:
    model = tiny()
    layers = decoder_layers(model)
    with torch.no_grad():
        for name, factor in (("gate_proj", 0.5), ("up_proj", -2.0), ("down_proj", 1.5)):
            own, reference = getattr(layers[2].mlp, name).weight, getattr(layers[1].mlp, name).weight
            own.copy_(factor * reference)
    original = copy.deepcopy(model)
    warm_up(model, SharePlan.parse("2:3", 7), Recovery("lora", 1), windows())
    mlp = shared_layers(model)[2]
    assert [p.alpha.item() for p in (mlp.gate, mlp.up, mlp.down)] == pytest.approx([0.5, -2.0, 1.5], rel=1e-4)
    assert divergence(model, original, windows(4)) < 1e-4


def test_more_rank_errs_less() -> None:
    errors = []
    for rank in (2, 8, 16):
        report = warm_up(tiny(), SharePlan.parse("2:3", 7), Recovery("lora", rank), windows())
        errors.append(report.targets[0].error_after)
    assert errors == sorted(errors, reverse=True)


def test_later_targets_make_up_for_earlier_ones() -> None:
    """Fitted in sequence, two targets bring the stream nearer to the original than each fitted alone."""
    plan, recovery = SharePlan.parse("2:3,4", 7), Recovery("lora", 4)
    original, together = tiny(), tiny()
    warm_up(together, plan, recovery, windows())
    apart = tiny()
    for target in (3, 4):
        alone = tiny()
        warm_up(alone, SharePlan.parse(f"2:{target}", 7), recovery, windows())
        decoder_layers(apart)[target - 1].mlp = decoder_layers(alone)[target - 1].mlp
    assert divergence(together, original, windows()) < divergence(apart, original, windows())


def test_a_direct_plan_only_shares() -> None:
    model = tiny()
    report = warm_up(model, SharePlan.parse("direct:2:3", 7), Recovery("lora", 8), windows())
    assert report.targets == ()
    assert list(shared_layers(model)) == [2]
    assert not list(recovery_parameters(model))


def test_the_result_is_trainable() -> None:
    model = tiny()
    warm_up(model, PLAN, Recovery("lora", 4), windows())
    model(windows(2), labels=windows(2)).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert gradients.keys() == dict(recovery_parameters(model)).keys()
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients.values())


def test_a_broken_layer_is_named_and_the_model_left_whole(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        decoder_layers(model)[4].mlp.up_proj.weight[3, 3] = float("inf")
    with pytest.raises(SharpError, match="layer 5 has activations that are not finite"):
        warm_up(model, PLAN, Recovery("lora", 4), windows(), workdir=tmp_path)
    assert shared_layers(model) == {}
    assert list(tmp_path.iterdir()) == []


def test_an_attention_sink_as_target_is_warned_of() -> None:
    model = tiny()
    with torch.no_grad():
        # Token 7 has a channel to itself, which layer 3's MLP turns into a huge activation.
        embedding = model.model.embed_tokens.weight
        embedding[:, 5], embedding[7] = 0, 0
        embedding[7, 5] = 1
        for layer in decoder_layers(model):
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.mul_(0.01)
        mlp = decoder_layers(model)[2].mlp
        mlp.gate_proj.weight[0], mlp.up_proj.weight[0] = 0, 0
        mlp.gate_proj.weight[0, 5] = mlp.up_proj.weight[0, 5] = 20
        mlp.down_proj.weight[:, 0] = 1
    tokens = windows()
    tokens[:, 0] = 7
    report = warm_up(model, PLAN, Recovery("lora", 4), tokens)
    assert report.sink_layers == (2,)
    assert len(report.warnings) == 1
    assert "layer 3 is a target, but its MLP writes the attention sink" in report.warnings[0]
    assert "2:3, 4:5 without 3" in report.warnings[0]
    assert str(SharePlan.parse("2:3, 4:5 without 3", 7)) == "4:5"


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    recovery = Recovery("lora", 4)
    first, second = tiny(), tiny()
    warm_up(first, PLAN, recovery, windows(), checkpoint_dir=tmp_path)
    (saved,) = tmp_path.iterdir()
    assert sorted(path.name for path in saved.iterdir()) == ["layer-3.safetensors", "layer-5.safetensors"]
    (saved / "layer-5.safetensors").unlink()  # as if interrupted there
    kept = (saved / "layer-3.safetensors").stat().st_mtime_ns
    warm_up(second, PLAN, recovery, windows(), checkpoint_dir=tmp_path)
    assert (saved / "layer-3.safetensors").stat().st_mtime_ns == kept  # taken, not fitted again
    assert (saved / "layer-5.safetensors").is_file()
    for (name, ours), (_, theirs) in zip(*map(recovery_parameters, (first, second)), strict=True):
        assert torch.equal(ours, theirs), name
    warm_up(tiny(), PLAN, Recovery("lora", 5), windows(), checkpoint_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # another rank is another run


@pytest.mark.parametrize("place", [20, 0.5, -1])
def test_a_saved_fit_with_a_flipped_bit_is_fitted_again(place: float, tmp_path: Path) -> None:
    recovery, runs = Recovery("lora", 4), [tiny(), tiny()]
    warm_up(runs[0], PLAN, recovery, windows(), checkpoint_dir=tmp_path)
    (saved,) = tmp_path.iterdir()
    content = bytearray((saved / "layer-3.safetensors").read_bytes())
    content[int(place * len(content)) if 0 < place < 1 else int(place)] ^= 0x40
    (saved / "layer-3.safetensors").write_bytes(content)
    warm_up(runs[1], PLAN, recovery, windows(), checkpoint_dir=tmp_path)
    for (name, ours), (_, theirs) in zip(*map(recovery_parameters, runs), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_same_run_gives_the_same_parameters(tmp_path: Path) -> None:
    recovery, runs = Recovery("lora", 4), [tiny(), tiny()]
    for model in runs:
        warm_up(model, PLAN, recovery, windows(), checkpoint_dir=tmp_path)
    for (name, ours), (_, theirs) in zip(*map(recovery_parameters, runs), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("recovery", "dtype", "says"),
    [
        (Recovery("lora", 33), torch.float32, "use at most 32"),
        (Recovery("lora", 4), torch.bfloat16, "load it in float32"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_changes(recovery: Recovery, dtype: torch.dtype, says: str) -> None:
    model = tiny().to(dtype)
    with pytest.raises(SharpError, match=says):
        warm_up(model, PLAN, recovery, windows())
    assert shared_layers(model) == {}


def test_a_missing_workdir_is_refused(tmp_path: Path) -> None:
    model = tiny()
    with pytest.raises(SharpError, match="nowhere: not a directory"):
        warm_up(model, PLAN, Recovery("lora", 4), windows(), workdir=tmp_path / "nowhere")
    assert shared_layers(model) == {}


def test_a_full_disk_is_refused() -> None:
    with pytest.raises(SharpError, match=r"need 1000000000\.0 GB"):
        _check_room(Path.cwd(), 10**18)
