"""The `.pte` of whatever layers share predicts what its eager decoder predicts, and holds what is shared once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from share_kinds import KINDS, Kind, shared_model
from tiny_models import tiny_tokens

from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.eager import eager_step
from sharp_mobile.lower.program import assemble, lower_segments
from sharp_mobile.pte.runtime import load_pte
from sharp_mobile.quantize.nearest import quantize
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import AttentionRecovery, Basis, Form, Recovery, recoveries
from sharp_mobile.verify.agreement import TOLERANCE_INTEGER, compare, sharing_problems
from sharp_mobile.verify.inspect import inspect_pte

LENGTH = 32
_NO_ATTENTION, _LORA = AttentionRecovery("none"), Recovery("lora", 32)


def _weights(form: Form, rank: int | tuple[int, int, int, int]) -> AttentionRecovery:
    return AttentionRecovery("weights", 1, form, rank)


# As few models as have every kind, for it takes many seconds to lower one.
LOWERED = {
    "attention": KINDS["attention"],
    "more attention": Kind(
        "2:5",
        {2: Recovery(attention=_weights("left", 32)), 4: replace(_LORA, attention=_weights("lora", (0, 32, 64, 32)))},
    ),
    "recursive": KINDS["recursive"],
    "kv": KINDS["kv"],
    "kv of a target": KINDS["kv of a target"],
    "left out": Kind(
        "1:2, 3:4-5",
        {
            1: Recovery(reference=False, attention=_NO_ATTENTION),
            3: Recovery(neurons=64, reference=False),
            4: Recovery(reference=False),
        },
    ),
    "drop attention": KINDS["drop attention"],
    "bases": Kind(
        "none",
        {
            **dict.fromkeys((1, 2, 3), Recovery(basis=Basis(1, (32,) * 7))),
            **dict.fromkeys((4, 5), Recovery(basis=Basis(4, (64, 0, 32, 32, 32, 0, 0)))),
        },
    ),
    "mixture": Kind(
        "2:3, 4:5",
        {
            2: replace(_LORA, attention=_weights("lora", 32)),
            3: Recovery(attention=AttentionRecovery("kv", 0)),
            4: Recovery(reference=False, attention=AttentionRecovery("none", bypass=32)),
        },
    ),
    # Two segments of one kind, each of which calls its MLP's weights twice.
    "twice in a segment": Kind("2:3, 4:5", dict.fromkeys((2, 4), replace(_LORA, attention=_NO_ATTENTION))),
}


def quantized(kind: Kind, **settings: Any) -> Decoder:
    lower = LowerSettings(**{"max_length": LENGTH, "attention": "custom_sdpa", **settings})
    decoder = build_decoder(shared_model(kind, max_position_embeddings=lower.max_length), lower)
    quantize(decoder, QuantizeSettings())
    return decoder


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOWERED)
def test_a_program_of_every_kind_predicts_what_its_eager_decoder_predicts(kind: str, tmp_path: Path) -> None:
    decoder = quantized(LOWERED[kind], attention="portable")  # of which both kinds of program can be made
    lowered, keys = lower_segments(decoder)
    own = recoveries(LOWERED[kind].parsed(), LOWERED[kind].recovery)
    assert sharing_problems(LOWERED[kind].parsed(), own, keys) == []
    decoder.options = replace(decoder.options, all_logits=True)
    prompt = tiny_tokens(8)[0].tolist()
    of_caches = kind in ("kv", "mixture")  # what a layer has instead of them differs between the two attentions
    for attention in ("custom_sdpa", "portable") if of_caches else ("custom_sdpa",):
        lowered.options = replace(lowered.options, attention=attention)
        program = lowered.deployed(lowered.entry, list(lowered.middles), lowered.exit)
        path = tmp_path / f"{attention}.pte"
        path.write_bytes(assemble(program, {"get_max_context_len": LENGTH}).buffer)
        agreement = compare(lambda path=path: load_pte(path), eager_step(decoder), prompt, 12, [], TOLERANCE_INTEGER)  # type: ignore[misc]
        assert agreement.problems() == []
        assert agreement.divergence < 0.02
        assert len(agreement.tokens) == 12


def written(decoder: Decoder, path: Path) -> tuple[dict[str, str], int]:
    """The keys of a decoder's tensors in its file by their names, and the file's bytes of tensors."""
    lowered, keys = lower_segments(decoder)
    path.write_bytes(assemble(lowered, {"get_max_context_len": LENGTH}).buffer)
    return keys, sum(tensor.bytes for tensor in inspect_pte(path, keys).tensors)


@pytest.mark.slow
def test_what_is_shared_lies_in_the_file_once(tmp_path: Path) -> None:
    """Layer 3's attention and MLP are layer 2's, without recovery parameters: the file lacks exactly their weights."""
    direct = Kind("direct:2:3", {2: Recovery(attention=AttentionRecovery("weights", 1))})
    alone = Kind("none", {})
    _, whole = written(quantized(alone), tmp_path / "alone.pte")
    keys, shared = written(quantized(direct), tmp_path / "shared.pte")
    weights = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    assert whole - shared == weights // 2 + 2 * weights // 32  # 4 bits and a bfloat16 scale for each group of 32
    codes = {tuple(name.split(".")): key for name, key in keys.items() if name.endswith(".codes")}
    for projection in ("q", "k", "v", "o", "gate", "up", "down"):
        of_reference, of_target = (
            {key for parts, key in codes.items() if parts[:2] == ("layers", layer) and projection in parts}
            for layer in ("2", "3")
        )
        assert len(of_reference) == 1
        assert of_target == of_reference


@pytest.mark.slow
def test_a_layer_without_keys_of_its_own_has_no_cache() -> None:
    """The memory that the program plans is smaller by exactly the caches of such layers."""
    length, planned = 2048, []
    for kind in (Kind("none", {}), LOWERED["mixture"]):
        lowered, _ = lower_segments(quantized(kind, max_length=length, attention="portable", prefill_chunk=8))
        method = assemble(lowered, {}).executorch_program.execution_plan[0]
        planned.append(sum(method.non_const_buffer_sizes))
    cache = 2 * 32 * length * 4
    assert planned[0] - planned[1] == 2 * cache  # one reads another layer's, one has no attention
