"""What a `.pte` holds is read from the file itself, and what is not sound about it is told."""

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from damage import outcome
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge, to_edge_transform_and_lower
from tiny_models import tiny_model
from torch import nn

from sharp_mobile.cli import main
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.decoder.decoder import Decoder
from sharp_mobile.decoder.integer import QuantizedLinear, project
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.program import assemble, lower_segments
from sharp_mobile.lower.template import trace_template
from sharp_mobile.model.share import recovery_parameters, share_layers
from sharp_mobile.quantize.nearest import quantize, quantize_linear
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.quantize_settings import QuantizeSettings
from sharp_mobile.recipe.recovery import Recovery, recoveries
from sharp_mobile.verify.agreement import sharing_problems
from sharp_mobile.verify.inspect import Inspection, describe, inspect_pte
from sharp_mobile.verify.inspect_export import inspect_export
from sharp_mobile.verify.manifest import measure

HIDDEN, INNER, RANK, LAYERS, VOCABULARY = 64, 96, 32, 4, 256
PLAN = SharePlan.parse("2:3", LAYERS)
METADATA = {"get_max_context_len": 32, "get_eos_ids": [2], "use_kv_cache": True}


def shared_decoder(plan: SharePlan, rank: int) -> Decoder:
    """A tiny shared Llama with random recovery parameters, in float."""
    model = tiny_model(num_hidden_layers=plan.layers)
    share_layers(model, plan, Recovery("lora", rank))
    for _, parameter in recovery_parameters(model):
        nn.init.normal_(parameter, std=0.3)
    return build_decoder(model.requires_grad_(False), LowerSettings(max_length=32))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A quantized shared model's `.pte`, and the keys of its weights."""
    torch.manual_seed(0)
    decoder = shared_decoder(PLAN, RANK)
    quantize(decoder, QuantizeSettings())
    lowered, keys = lower_segments(decoder)
    path = tmp_path_factory.mktemp("inspect") / "model.pte"
    path.write_bytes(assemble(lowered, METADATA).buffer)
    return path, keys


@pytest.fixture(scope="module")
def inspection(exported: tuple[Path, dict[str, str]]) -> Inspection:
    return inspect_pte(*exported)


def four_bits(out: int, width: int) -> int:
    """Bytes of a 4-bit linear: half a byte a weight, and a bfloat16 scale for each group of 32."""
    return out * width // 2 + out * width // 32 * 2


NORMS = 2 * LAYERS + 1
MLP = 2 * four_bits(INNER, HIDDEN) + four_bits(HIDDEN, INNER)


@pytest.mark.slow
def test_saved_bytes_are_those_counted_by_hand(inspection: Inspection) -> None:
    assert inspection.saved_bytes == MLP + (NORMS - 1) * 4 * HIDDEN  # all norms use one row of 1/width


@pytest.mark.slow
def test_sizes_by_kind_are_those_counted_by_hand(inspection: Inspection) -> None:
    attention = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN // 2  # q, o; k and v have half the heads
    weights = LAYERS * attention + (LAYERS - 1) * 3 * HIDDEN * INNER
    assert inspection.of_kind("int4 codes") == weights // 2
    factors = {"A": [(2 * RANK, HIDDEN), (RANK, INNER)], "B": [(INNER, RANK), (INNER, RANK), (HIDDEN, RANK)]}
    recovery = sum(out * width for shapes in factors.values() for out, width in shapes)
    assert inspection.of_kind("int8 codes") == VOCABULARY * HIDDEN + recovery
    rows = VOCABULARY + sum(out for shapes in factors.values() for out, _ in shapes)
    assert inspection.of_kind("scales") == weights // 32 * 2 + rows * 4
    embedding = VOCABULARY * HIDDEN // 2 + VOCABULARY * HIDDEN // 32 * 4
    gains = NORMS * 4 * HIDDEN
    assert 0 <= inspection.of_kind("outer model") - embedding - gains < 1000  # and RoPE's few numbers, ε, α
    assert sum(tensor.bytes for tensor in inspection.tensors) == inspection.tensor_bytes
    sizes = measure(inspection.file_bytes, inspection.tensors)
    assert sizes.shared == MLP
    assert sizes.recovery == recovery + 4 * sum(out for shapes in factors.values() for out, _ in shapes)


@pytest.mark.slow
def test_every_shared_weight_is_stored_once_and_names_its_users(
    exported: tuple[Path, dict[str, str]], inspection: Inspection
) -> None:
    users = {tensor.users for tensor in inspection.tensors if any(".mlp.gate." in user for user in tensor.users)}
    assert users == {
        ("layers.1.mlp.gate.codes",),
        ("layers.1.mlp.gate.scales",),
        ("layers.2.mlp.gate.codes", "layers.3.mlp.gate.codes"),
        ("layers.2.mlp.gate.scales", "layers.3.mlp.gate.scales"),
        ("layers.4.mlp.gate.codes",),
        ("layers.4.mlp.gate.scales",),
    }
    assert len({tensor.key for tensor in inspection.tensors}) == len(inspection.tensors)
    assert sharing_problems(PLAN, recoveries(PLAN, Recovery("lora", 32)), exported[1]) == []


@pytest.mark.slow
def test_without_names_users_are_delegates(exported: tuple[Path, dict[str, str]], inspection: Inspection) -> None:
    nameless = inspect_pte(exported[0])
    assert nameless.tensor_bytes == inspection.tensor_bytes
    assert nameless.saved_bytes == inspection.saved_bytes
    assert any(len(tensor.users) == 2 and tensor.users[0].startswith("delegate 3") for tensor in nameless.tensors)


@pytest.mark.slow
def test_one_delegate_a_segment_and_one_quantization_an_input(inspection: Inspection) -> None:
    assert inspection.delegates == inspection.operators["XnnpackBackend"] == LAYERS + 1
    # The entry reads x; a layer's end reads the attended values, x and h; the target's also two halves of A x, and
    # A h; the next layer's start and the LM head read x.
    assert inspection.xnnpack_nodes["XNNConvert"] == 1 + 3 * LAYERS + 3 + LAYERS
    assert inspection.operators["llama::custom_sdpa.out"] == LAYERS
    assert {name: inspection.metadata[name] for name in METADATA} == METADATA


@pytest.mark.slow
def test_a_tiny_program_is_sound_though_larger_than_its_tensors(inspection: Inspection) -> None:
    assert inspection.problems == ()
    assert inspection.file_bytes > 1.01 * inspection.tensor_bytes


@pytest.mark.slow
@pytest.mark.parametrize("excess", [0, 1])
def test_bytes_that_nothing_explains_are_told(excess: int, small_pte: Path, tmp_path: Path) -> None:
    """A copy of a weight that is stored twice, say; what the program may take depends on its delegates alone."""
    found = inspect_pte(small_pte)
    allowed = int(1.01 * found.tensor_bytes) + 24_000 + 20_000 * found.delegates
    larger = tmp_path / "larger.pte"
    larger.write_bytes(small_pte.read_bytes() + bytes(allowed - found.file_bytes + excess))
    problems = inspect_pte(larger).problems
    assert len(problems) == excess
    assert all(f"the file has {allowed + 1:,} bytes; its distinct tensors have" in problem for problem in problems)


@pytest.mark.slow
def test_a_description_tells_sizes_users_and_problems(inspection: Inspection) -> None:
    lines = describe(inspection, 40)
    text = "\n".join(lines)
    assert inspection.sha256 in lines[0]
    assert f"which saves {inspection.saved_bytes:,}" in text
    assert "layers.2.mlp.gate.codes, layers.3.mlp.gate.codes" in text
    assert not any("NOT SOUND" in line for line in lines)
    unsound = inspection.model_copy(update={"problems": ("the file has 9 bytes",)})
    assert describe(unsound, 40)[-1] == "NOT SOUND: the file has 9 bytes"


@pytest.mark.slow
def test_a_private_copy_of_a_shared_weight_is_told() -> None:
    """Three layers, the second a direct share of the first, whose gate has been changed on the way."""
    plan = SharePlan.parse("direct:1:2", 3)
    decoder = shared_decoder(plan, 0)
    target: Any = decoder.middles[1].end.mlp
    target.gate = copy.deepcopy(target.gate)
    target.up = copy.deepcopy(target.up)  # equal bytes are stored once, whatever they were in Python
    with torch.no_grad():
        target.gate.weight[0, 0] += 1
    _, keys = lower_segments(decoder)
    assert sharing_problems(plan, recoveries(plan, Recovery()), keys) == [
        "layer 2 must call layer 1's gate weight, but the file has a separate one"
    ]


class TwoLinears(nn.Module):
    """Two quantized linears that read the same input."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(project(x, self.first, self.second))


def two_linears(path: Path, first: nn.Module, second: nn.Module) -> list[str]:
    """Write a program of two linears; returns what inspection has against their weights."""
    segment, example = TwoLinears(first, second), (torch.randn(1, 4, HIDDEN),)
    delegate, keys = trace_template(segment, example, None).instance(segment)
    edge = to_edge(
        torch.export.export(delegate, example, strict=False),
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
    )
    path.write_bytes(edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True)).buffer)
    return [problem for problem in inspect_pte(path, keys).problems if "the file has" not in problem]


def quantized(linear: nn.Linear, bits: Any) -> QuantizedLinear:
    layer = quantize_linear(linear, bits, 32)
    assert isinstance(layer, QuantizedLinear)
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_equal_codes_with_other_scales_are_told(bits: int, tmp_path: Path) -> None:
    """XNNPACK's weight cache would keep one of the two, and the other would answer wrongly."""
    first = quantized(nn.Linear(HIDDEN, 24, bias=False), bits)
    second = copy.deepcopy(first)
    assert two_linears(tmp_path / "same.pte", first, second) == []
    second.scales *= 2
    (problem,) = two_linears(tmp_path / "other.pte", first, second)
    assert problem.startswith("weights with equal codes and different scales")
    assert "codes in delegate 1, value" in problem


@pytest.mark.parametrize("bits", [4, 8])
def test_recovery_parameters_that_are_all_zero_are_sound(bits: int, tmp_path: Path) -> None:
    """Every B starts as zeros, so codes of several B are equal: their scales must be too."""
    layers = [nn.Linear(HIDDEN, 24, bias=False) for _ in range(2)]
    for layer in layers:
        nn.init.zeros_(layer.weight)
    assert two_linears(tmp_path / "zeros.pte", *(quantized(layer, bits) for layer in layers)) == []


def test_a_constant_that_the_weight_cache_frees_while_it_is_read_is_told(tmp_path: Path) -> None:
    """As the stock partitioner lowers a PReLU; a convolution's weight and bias are packed and do no harm."""
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8)).requires_grad_(False)
    exported = torch.export.export(module, (torch.randn(1, 3, 4, 4),), strict=False)
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (tmp_path / "prelu.pte").write_bytes(edge.to_executorch().buffer)
    (problem,) = (problem for problem in inspect_pte(tmp_path / "prelu.pte").problems if "the file has" not in problem)
    assert problem.startswith("delegates read constants of their own at every step (1, the first one of shape [8] in")


@pytest.fixture(scope="module")
def small_pte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "model.pte"
    two_linears(path, *(quantized(nn.Linear(HIDDEN, 24, bias=False), 4) for _ in range(2)))
    return path


@pytest.mark.parametrize("kept", [0, 3, 20, 200, 0.5, 0.9, -1])
def test_a_file_that_is_cut_short_is_told(kept: float, small_pte: Path, tmp_path: Path) -> None:
    content = small_pte.read_bytes()
    cut = tmp_path / "cut.pte"
    cut.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(
        SharpError, match=r"cut\.pte: (is not an ExecuTorch program|is cut short|cannot be read)"
    ) as error:
        inspect_pte(cut)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("; export it again")


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.pte").write_text("no program " * 1000)
    with pytest.raises(SharpError, match=r"text\.pte: is not an ExecuTorch program"):
        inspect_pte(tmp_path / "text.pte")
    for missing in (tmp_path / "missing.pte", tmp_path):
        with pytest.raises(SharpError, match=r"cannot be read"):
            inspect_pte(missing)


def told(path: Path) -> str:
    """What inspection has to say about a file: its SHA-256, or the error's one line."""
    try:
        return inspect_pte(path).sha256
    except SharpError as error:
        return str(error)


def test_a_damaged_program_is_an_inspection_or_a_line(small_pte: Path, tmp_path: Path) -> None:
    """Wherever noise is written over a program, nothing worse than a `SharpError` comes of it."""
    content = small_pte.read_bytes()
    generator = torch.Generator().manual_seed(0)
    damaged = tmp_path / "damaged.pte"
    lines = set()
    for start in range(64, len(content) - 32, 61):
        noise = torch.randint(256, (32,), generator=generator, dtype=torch.uint8).numpy().tobytes()
        damaged.write_bytes(content[:start] + noise + content[start + 32 :])
        line = told(damaged)
        assert line == hashlib.sha256(damaged.read_bytes()).hexdigest() or line.startswith(f"{damaged}: ")
        assert "\n" not in line
        lines.add(line)
    assert any("is damaged" in line for line in lines)


def test_a_pipe_is_no_program(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pte")
    with pytest.raises(SharpError, match=r"pipe\.pte: cannot be read: is not a file"):
        inspect_pte(tmp_path / "pipe.pte")


def test_a_program_without_tensors_is_described(tmp_path: Path) -> None:
    """Nothing is divided by the bytes of its tensors, and what its names hold does not reach the terminal."""
    exported = torch.export.export(nn.ReLU(), (torch.randn(2),), strict=False)
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    (tmp_path / "relu.pte").write_bytes(edge.to_executorch().buffer)
    inspection = inspect_pte(tmp_path / "relu.pte")
    assert inspection.tensor_bytes == 0
    assert f"(the file has {inspection.file_bytes} bytes more)" in describe(inspection, 5)[1]
    coloured = inspection.model_copy(update={"operators": {"\x1b[31maten::x\nNOT": 1}})
    assert all(line.isprintable() for line in describe(coloured, 5))


@pytest.mark.slow
def test_a_manifest_of_another_file_is_told(small_pte: Path, tmp_path: Path) -> None:
    shutil.copy(small_pte, tmp_path / "model.pte")
    alone = inspect_export(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"names": {}, "sha256": alone.sha256}))
    checked = inspect_export(tmp_path)
    assert checked == inspect_export(tmp_path / "model.pte") == alone.model_copy(update={"warnings": ()})
    manifest.write_text(json.dumps({"names": {}, "sha256": "0" * 64}))
    assert inspect_export(tmp_path).problems[-1].startswith("the manifest describes another file, with SHA-256 0000")
    for content in (
        "no JSON",
        "[]",
        '{"names": {}}',
        '{"names": 3, "sha256": ""}',
        '{"names": {"a": 1}, "sha256": ""}',
    ):
        manifest.write_text(content)
        with pytest.raises(SharpError, match=r"manifest\.json: (is not|must hold)"):
            inspect_export(tmp_path)


@pytest.mark.slow
def test_names_of_a_manifest_are_printed_as_text(exported: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path, keys = exported
    shutil.copy(path, tmp_path / "model.pte")
    names = {f"\x1b[2J{name}\nNOT SOUND: forged\x9b\u202e": key for name, key in keys.items()}
    content = {"names": names, "sha256": inspect_pte(path).sha256}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert not outcome("inspect", tmp_path).startswith("NOT SOUND")
    assert not outcome("inspect", tmp_path, "--json").startswith("NOT SOUND")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path)]).stdout
    assert r"\x1b[2J" in shown
    assert "\nNOT SOUND: forged" not in shown
    content = json.loads(CliRunner().invoke(main, ["inspect", str(tmp_path), "--json"]).stdout)
    assert any("\x1b[2J" in user for tensor in content["tensors"] for user in tensor["users"])
