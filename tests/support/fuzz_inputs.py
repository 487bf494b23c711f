"""Damaged inputs by kind, each from one number, and the commands that read them."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from damage import (
    BUDGETS,
    GGUF_KEYS,
    GGUF_VALUES,
    HOSTILE_NUMBERS,
    HOSTILE_VALUES,
    ODD_VALUES,
    damaged_budgets,
    damaged_bytes,
    damaged_data,
    damaged_floats,
    damaged_json,
    damaged_safetensors,
)
from fuzz_command import Command
from hypothesis import strategies as st
from tiny_exports import Place
from tiny_gguf import write_gguf
from tiny_models import CHATML, tiny_model, tiny_tokenizer

from sharp_mobile.pipeline import export
from sharp_mobile.recipe.settings import Recipe

LAYERS, PLAN = 3, "1:2"
_QUICK = ("--set", "rounding=nearest", "--set", "max_length=64", "--quiet")
_ISOLATED_SECONDS, _ISOLATED_BYTES = 200.0, 6_000_000_000  # `lower.isolated` allows a foreign program 120 s and 4 GB


@dataclass(frozen=True)
class Whole:
    """What is damaged: checkpoints by name, a GGUF file's bytes, exports, and a text to read."""

    checkpoints: dict[str, dict[str, bytes]]
    ggufs: dict[str, bytes]
    exports: dict[str, Path]
    text: Path


def make_whole(directory: Path) -> Whole:
    """Make tiny models in all the formats; half a minute. Run it in a process of its own: exporting starts threads."""
    text = directory / "text.txt"
    text.write_text(" ".join(f"The {number}. sentence speaks of {number**2} things." for number in range(100)))
    for family in ("llama", "gemma2"):
        tiny_model(family, num_hidden_layers=LAYERS).save_pretrained(directory / family)
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = CHATML
        tokenizer.save_pretrained(directory / family)
        model = tiny_model(family, num_hidden_layers=LAYERS, vocab_size=256)
        write_gguf(model, directory / f"{family}.gguf")
    settings: dict[str, Any] = {
        "model": str(directory / "llama"),
        "warmup": {"text": str(text), "window": 32, "windows": 4},
        "quantize": {"rounding": "nearest"},
        "lower": {"max_length": 64},
    }
    work = directory / "work"
    export(Recipe(plan="none", **settings), "tiny", directory / "unshared", work=work)
    settings["lower"]["attention"] = "portable"
    export(Recipe(plan=PLAN, recovery={"rank": 32}, **settings), "tiny", directory / "shared", work=work)
    (sharp,) = (path.parent for path in (directory / "work").rglob("sharp.json"))
    shutil.copytree(sharp, directory / "sharp")
    return read_whole(directory)


def read_whole(directory: Path) -> Whole:
    """What `make_whole` made."""

    def files(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((directory / name).iterdir())}

    return Whole(
        checkpoints={name: files(name) for name in ("llama", "gemma2", "sharp")},
        ggufs={name: (directory / f"{name}.gguf").read_bytes() for name in ("llama", "gemma2")},
        exports={name: directory / name for name in ("unshared", "shared")},
        text=directory / "text.txt",
    )


def commands_of_model(model: Path, text: Path, *, sharp: bool = False) -> list[Command]:
    """Everything but `export`, which is made of what opens; see `export_of`."""
    plan = () if sharp else ("--plan", PLAN)
    window = ("--set", f"text={text}", "--set", "window=16", "--set", "windows=2")
    commands = [
        Command("plan", (str(model), *plan, "--quiet")),
        Command("size", (str(model), *plan)),
        Command("evaluate", (str(model), "--text", str(text), "--windows", "1", "--window", "16", "--quiet")),
    ]
    if sharp:
        return [*commands, Command("merge", (str(model), "--out", "out", "--quiet"))]
    return [*commands, Command("recover", (str(model), *plan, "--rank", "4", *window, "--quiet", "--out", "out"))]


def export_of(model: Path, attention: str) -> Command:
    return Command("export", (str(model), *_QUICK, "--set", f"attention={attention}", "--out", "out"), seconds=180.0)


def _attention(family: str) -> str:
    return "portable" if family == "gemma2" else "custom_sdpa"  # which takes no soft caps, and is exported faster


# Checkpoints

_FIELDS = {
    "rope_parameters": [{"rope_type": "linear", "factor": 0}, {"rope_type": "llama3"}, {"rope_theta": -1.0}, [],
                        {"rope_theta": float("nan"), "rope_type": "default"}, {"rope_type": "yarn", "factor": 1e30}],
    "rope_scaling": [{"type": "dynamic", "factor": "x"}, {"rope_type": "longrope", "short_factor": [1]}, "linear"],
    "sliding_window": [0, -1, 1, 10**9, "8", 1.5],
    "layer_types": [["sliding_attention"], ["full_attention"] * LAYERS, ["x"] * LAYERS, "full_attention", [None] * 3],
    "final_logit_softcapping": [0, -30.0, 1e-30, "30", float("nan"), 30],
    "attn_logit_softcapping": [0, -50.0, 1e-30, [50], float("inf"), 50],
    "model_type": ["gpt2", "", "../llama", None, "mistral", "qwen2", "gemma2", "phi3", "\x1b[2J"],
    "architectures": [[], ["X"], "LlamaForCausalLM", None, ["LlamaForSequenceClassification"]],
    "torch_dtype": ["float16", "int8", "x", 5], "dtype": ["bfloat16", "bool", None, "float99"],
    "quantization_config": [{"quant_method": "gptq", "bits": 4}, {}, "awq", {"quant_method": "fp8"}],
    "auto_map": [{"AutoModelForCausalLM": "x.Y"}], "vocab_size": [1, 255, 257, 10**9, 0],
    "head_dim": [1, 3, 15, 32, 0, 10**6], "num_attention_heads": [3, 0, 64], "num_key_value_heads": [3, 0, 8],
    "num_hidden_layers": [0, 1, 2, 4, 10**6, -1], "hidden_size": [63, 0, 10**9], "intermediate_size": [95, 0, 2**40],
    "max_position_embeddings": [0, 1, 2**62, -5], "rms_norm_eps": [0, -1.0, 1e30, float("nan"), "1e-6"],
    "eos_token_id": [-1, 10**12, [], [2, 2, 300], "2"], "bos_token_id": [256, [1], -7], "hidden_act": ["gelu", "x", 3],
    "tie_word_embeddings": [True, "yes", None], "attention_bias": [True], "mlp_bias": [True, "x"],
    "attention_multiplier": [2.0], "logit_scale": [0.5], "query_pre_attn_scalar": [0, -1, "x", 1e-300],
    "initializer_range": ["x", -1], "use_cache": ["no"], "attention_dropout": ["x", 2.0], "pad_token_id": [10**9, -1],
}  # fmt: skip

_TEMPLATES = [
    "", "{", "{% for m in messages %}", "{{ raise_exception('alternate') }}", "{{ messages[3].content.x() }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{{ ''.__class__.__mro__ }}", "{{ 'a' * 10**10 }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ '\\ud800' }}", "{% include '/etc/passwd' %}", "\x1b[2J{{ messages[0].content }}",
    "{{ messages[0].content }}" * 9000,
    {"rag": "x"}, {}, 5, None, [{"name": "default", "template": 3}], [{"name": "default"}], ["x"], {"default": ["a"]},
]  # fmt: skip

_INDEXES: list[Any] = [
    {"weight_map": {"model.norm.weight": "../model.safetensors"}}, {"weight_map": {"a": "/etc/passwd"}},
    {"weight_map": {"a": "model.safetensors/x"}}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": {"a": 3}},
    {"weight_map": {"model.norm.weight": "model.safetensors"}}, 5, [], {"weight_map": {"a": "."}}, {"metadata": {}},
    {"weight_map": {"a": "pytorch_model.bin"}}, {"weight_map": {"a\nb": "model\x1b.safetensors"}},
]  # fmt: skip


@st.composite
def damaged_checkpoint(draw: Callable, whole: dict[str, bytes]) -> dict[str, bytes | str]:
    """Files by name: contents, or a word for what stands in their place; see `_put`."""
    files: dict[str, Any] = dict(whole)
    weights, sharp = "model.safetensors", "sharp.json"
    kinds = [*["config"] * 6, *["weights"] * 5, *["tokenizer"] * 3, *["template"] * 2, "generation", "index", "place"]
    for kind in draw(st.lists(st.sampled_from(kinds + ["sharp"] * 12 * (sharp in files)), min_size=1, max_size=2)):
        match kind:
            case "config":
                files["config.json"] = draw(_damaged_config(whole["config.json"]))
            case "weights":
                files[weights] = draw(damaged_safetensors(whole[weights]))
            case "tokenizer":
                name = draw(st.sampled_from(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"]))
                if name in files:
                    files[name] = draw(damaged_json(json.loads(whole[name])))
            case "template":
                files.update(_with_template(whole, draw(st.sampled_from(_TEMPLATES)), draw(st.booleans())))
            case "generation":
                changed = {"eos_token_id": draw(HOSTILE_VALUES | st.sampled_from([[], [2, 10**9], [-1], "2"]))}
                content = draw(damaged_data({"bos_token_id": 1, "eos_token_id": 2}) | st.just(changed))
                files["generation_config.json"] = json.dumps(content).encode()
            case "index":
                index = draw(st.sampled_from(_INDEXES) | damaged_data(_INDEXES[6]))
                files["model.safetensors.index.json"] = json.dumps(index).encode()
                if draw(st.booleans()):
                    files[weights] = "missing"
            case "place":
                files[draw(st.sampled_from(sorted(files)))] = draw(st.sampled_from(_PLACES))
            case "sharp":
                files[sharp] = draw(damaged_json(json.loads(whole[sharp])))
    if sharp in files and isinstance(files[sharp], bytes) and draw(st.booleans()):
        files[sharp] = _without_digests(files[sharp])
    return files


@st.composite
def _damaged_config(draw: Callable, content: bytes) -> bytes:
    fields = json.loads(content)
    match draw(st.sampled_from([*["known"] * 4, *["near"] * 3, "number", "value", "json"])):
        case "known":
            for name in draw(st.lists(st.sampled_from(sorted(_FIELDS)), min_size=1, max_size=2)):
                fields[name] = draw(st.sampled_from(_FIELDS[name]))
        case "near":
            numbers = sorted(name for name, value in fields.items() if type(value) in (int, float, bool))
            for name in draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=2, unique=True)):
                value = fields[name]
                near = (
                    [not value] if isinstance(value, bool) else [value + 1, value - 1, value * 2, value // 2, value / 3]
                )
                fields[name] = draw(st.sampled_from([*near, str(value), [value], None]))
        case "number":
            fields[draw(st.sampled_from(sorted(_FIELDS)))] = draw(st.sampled_from(HOSTILE_NUMBERS))
        case "value":
            for name in draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=2)):
                fields[name] = draw(HOSTILE_VALUES | ODD_VALUES)
        case "json":
            return draw(damaged_json(fields))
    return json.dumps(fields).encode()


def _with_template(files: dict[str, bytes], template: Any, beside: bool) -> dict[str, bytes | str]:
    if beside and isinstance(template, str):
        return {"chat_template.jinja": template.encode()}
    config = json.loads(files["tokenizer_config.json"])
    content = json.dumps({**config, "chat_template": template}).encode()
    return {"tokenizer_config.json": content, "chat_template.jinja": "missing"}


def _without_digests(content: bytes) -> bytes:
    """A sharp.json that says nothing about the files beside it, so that their damage is read."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return content
    return json.dumps({**fields, "files": {}}).encode() if isinstance(fields, dict) else content


_PLACES = ["missing", "directory", "loop", "fifo", "outside", "empty"]


def _put(directory: Path, name: str, content: bytes | str) -> None:
    """Write a file, or something that is none: a word of `_PLACES`."""
    path = directory / name
    match content:
        case bytes():
            path.write_bytes(content)
        case "directory":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "fifo":
            os.mkfifo(path)
        case "outside":
            path.symlink_to(directory.parent / "Makefile")
        case "empty":
            path.touch()


@dataclass(frozen=True)
class Case:
    """A case laid out in a directory.

    model: what can be exported, if `evaluate` opens it: every few cases, or always.
    """

    commands: list[Command]
    model: Path | None = None
    always: bool = False
    attention: str = "custom_sdpa"


def checkpoint_case(draw: Callable, whole: Whole, place: Path) -> Case:
    name = draw(st.sampled_from(["llama", "llama", "llama", "gemma2", "sharp", "sharp"]))
    files = draw(damaged_checkpoint(whole.checkpoints[name]))
    model = place / "model"
    model.mkdir()
    for file, content in files.items():
        _put(model, file, content)
    template = files.get("chat_template.jinja") != whole.checkpoints[name].get("chat_template.jinja")
    commands = commands_of_model(model, whole.text, sharp=name == "sharp")
    return Case(commands, model, always=template, attention=_attention(name))


# GGUF


def gguf_case(draw: Callable, whole: Whole, place: Path) -> Case:
    family = draw(st.sampled_from(["llama", "llama", "gemma2"]))
    model = place / "model.gguf"
    content = whole.ggufs[family]
    end = content.rfind(b"output_norm.weight") + 64  # of the header, about
    tensors = content.find(b"token_embd.weight") - 8
    match draw(
        st.sampled_from(["values", "values", "values", "header", "tensors", "tensors", "cut", "weights", "bytes"])
    ):
        case "values":
            write_gguf(tiny_model(family, num_hidden_layers=LAYERS), model, metadata=draw(_gguf_metadata(family)))
        case "header":
            model.write_bytes(draw(damaged_bytes(content, end=tensors)))
        case "tensors":
            model.write_bytes(draw(damaged_bytes(content, begin=tensors, end=end)))
        case "cut":
            model.write_bytes(content[: draw(st.integers(0, len(content)))])
        case "weights":
            begin = draw(st.sampled_from([end + (-end) % 32, len(content) // 2]))
            model.write_bytes(content[:begin] + draw(damaged_floats(content[begin:])))
        case "bytes":
            model.write_bytes(draw(damaged_bytes(content)))
    return Case(commands_of_model(model, whole.text), model, attention=_attention(family))


@st.composite
def _gguf_metadata(draw: Callable, family: str) -> dict[str, Any]:
    keys = [f"{family}.{key}" for key in GGUF_KEYS]
    keys += ["general.alignment", "general.type", "split.count", "tokenizer.chat_template", "tokenizer.ggml.model"]
    keys += [f"tokenizer.ggml.{name}" for name in ("eos_token_id", "bos_token_id", "add_bos_token", "pre", "merges")]
    keys += ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"]
    templates = st.sampled_from([template for template in _TEMPLATES if isinstance(template, str)])
    numbers = st.sampled_from([0, 1, 2, 3, 4, 8, 15, 16, 17, 32, 63, 64, 65, 96, 128, 255, 256, 257, 2**31])
    floats = st.sampled_from([0.0, 0.1, 1.0, 50.0, 1e4, 3e38, -1.0, float("nan"), float("inf")])
    texts = st.sampled_from(["gpt2", "llama", "llama-bpe", "default", "model", "linear", "yarn", "none", "\x1b[2J", ""])
    values = numbers | floats | texts | GGUF_VALUES
    chosen = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True))
    return {key: draw(templates if key.endswith("template") else values) for key in chosen}


# Programs


def pte_case(draw: Callable, whole: Whole, place: Path, *, described: bool) -> Case:
    """A damaged `.pte`, in its export with the manifest, or with nothing but the tokenizer beside it."""
    source = whole.exports[draw(st.sampled_from(sorted(whole.exports)))]
    content = (source / "model.pte").read_bytes()
    damaged = draw(damaged_pte(content).filter(lambda found: found != content))
    export_directory = place / "exports" / "tiny"
    shutil.copytree(source, export_directory)
    pte = export_directory / "model.pte"
    pte.write_bytes(damaged)
    if not described:
        for name in ("manifest.json", "report.md", "sizes.png"):
            (export_directory / name).unlink()
    budgets = place / "budgets.toml"
    budgets.write_text(BUDGETS)
    commands = _commands_of_export(export_directory, whole.text, "--budgets", str(budgets))
    if described:
        # `inspect` starts an interpreter to say more of the damage.
        left_out = () if draw(st.integers(0, 3)) == 0 else ("inspect",)
        return Case([Command(c.verb, c.arguments, whole=True) for c in commands if c.verb not in left_out])
    isolated = [c for c in commands if c.verb in ("inspect", "generate", "evaluate")]
    one = draw(st.sampled_from(isolated))  # each starts an interpreter, which takes seconds
    arguments = tuple(str(pte) if a == str(export_directory) else a for a in one.arguments)
    return Case([Command(one.verb, arguments, seconds=_ISOLATED_SECONDS, memory=_ISOLATED_BYTES)])


@st.composite
def damaged_pte(draw: Callable, content: bytes) -> bytes:
    """Its flatbuffer's head, its program, its delegates or its weights damaged, or cut, zeroed or something else."""
    program = int.from_bytes(content[16:24], "little")  # in the extended header, after two offsets and two magics
    match draw(
        st.sampled_from(["head", "program", "program", "segments", "segments", "cut", "zeros", "random", "any"])
    ):
        case "head":
            return draw(damaged_bytes(content, end=64))
        case "program":
            return draw(_flipped_or_damaged(content, 0, program))
        case "segments":
            return draw(_flipped_or_damaged(content, program, len(content)))
        case "cut":
            return content[: draw(st.integers(0, len(content) - 1))]
        case "zeros":
            begin, length = draw(st.integers(0, len(content))), draw(st.integers(1, 20_000))
            return content[:begin] + bytes(len(content[begin : begin + length])) + content[begin + length :]
        case "random":
            return draw(st.binary(max_size=2000)) + content[draw(st.integers(0, 64)) :] * draw(st.booleans())
    return draw(damaged_bytes(content))


@st.composite
def _flipped_or_damaged(draw: Callable, content: bytes, begin: int, end: int) -> bytes:
    """Between two places one bit flipped, a small number written, or as `damaged_bytes`."""
    data, where = bytearray(content), draw(st.integers(begin, end - 1))
    match draw(st.sampled_from(["bit", "bit", "number", "bytes"])):
        case "bit":
            data[where] ^= 1 << draw(st.integers(0, 7))
        case "number":
            where -= where % 4
            data[where : where + 4] = draw(st.sampled_from([0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**32 - 1])).to_bytes(
                4, "little"
            )
        case "bytes":
            return draw(damaged_bytes(content, begin, end))
    return bytes(data[: len(content)])


def _commands_of_export(directory: Path, text: Path, *budgets: str) -> list[Command]:
    where = str(directory)
    return [
        Command("inspect", (where,)),
        Command("generate", (where, "Hello", "--tokens", "2")),
        Command("evaluate", (where, "--text", str(text), "--windows", "1", "--window", "16", "--quiet")),
        Command("compare", (where, "--markdown", "table.md")),
        Command("check", (where, *budgets)),
        Command("bundle", (where,)),
        Command("prepack", (where,)),
    ]


# Manifests, results and budgets


def results_case(draw: Callable, whole: Whole, place: Path) -> Case:
    """An export that runs, with results, where one of the files that describe it is damaged."""
    found = Place(place, whole.exports["unshared"])
    names = ["manifest.json", "manifest.json", "results-host.json", "results-arm64.json", "perplexity.json"]
    name = draw(st.sampled_from([*names, "../../sweep.json", "../../budgets.toml", "tokenizer.json"]))
    if name.endswith(".toml"):
        found.write(name, draw(damaged_budgets()))
    else:
        found.damage(draw, name)
    budgets = place / "check" / "budgets.toml"
    budgets.parent.mkdir()
    (place / "budgets.toml").replace(budgets)
    update = ("--update",) if draw(st.booleans()) else ()
    drawn = ("--sweep", str(place / "sweep.json"), "--html", "page.html") if draw(st.integers(0, 3)) == 0 else ()
    # `evaluate` keeps its result beside the export, which is another test's.
    commands = [
        Command(c.verb, (*c.arguments, *(drawn if c.verb == "compare" else ())))
        for c in _commands_of_export(found.export, whole.text, "--budgets", str(budgets), *update)
        if c.verb != "evaluate"
    ]
    return Case(commands)


Layout = Callable[[Callable, Whole, Path], Case]
KINDS: dict[str, tuple[int, Layout]] = {
    "checkpoint": (200, checkpoint_case),
    "gguf": (100, gguf_case),
    "pte": (100, lambda draw, whole, place: pte_case(draw, whole, place, described=True)),
    "bare-pte": (100, lambda draw, whole, place: pte_case(draw, whole, place, described=False)),
    "results": (100, results_case),
}


def lay_out(draw: Callable, kind: str, whole: Whole, place: Path) -> Case:
    """Write a case into an empty directory, beside a file that nobody may change."""
    (place / "Makefile").write_text("all:\n")
    torch.manual_seed(0)
    return KINDS[kind][1](draw, whole, place)
