"""Weight files, indices and configurations that are damaged, unreadable or impossible give one line, at once."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_tokenizer, tiny_tokens

from sharp_mobile.checkpoint.description import describe_model
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.checkpoint.weight_files import safetensors_header, weight_files
from sharp_mobile.errors import SharpError
from sharp_mobile.files.paths import is_regular_file
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.source import Source


def told(source: Path | str, allow_pickle: bool = False) -> str:
    """The one line that opening something gives."""
    with pytest.raises(SharpError) as error:
        open_checkpoint(Source(str(source), allow_pickle))
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Headers


def write_header(path: Path, header: Any, data: int = 16) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


GOOD = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [2, "2"]}, "tensor a: shape is not a list of sizes"),
        ({"shape": [-2, -2]}, "shape is not a list of sizes"),
        ({"shape": [True, 4]}, "shape is not a list of sizes"),
        ({"shape": [10**400, 2]}, "shape is not a list of sizes"),
        ({"shape": 4}, "shape is not a list of sizes"),
        ({"shape": [2.0, 2]}, "shape is not a list of sizes"),
        ({"shape": [[2], 2]}, "shape is not a list of sizes"),
        ({"shape": [2**62, 2**62]}, "has 16 bytes, which F32"),
        ({"dtype": ["F32"]}, "dtype unknown is not supported"),
        ({"dtype": None}, "dtype unknown is not supported"),
        ({"dtype": "C64"}, "dtype C64 is not supported"),
        ({"data_offsets": [0]}, "data_offsets is not a beginning and an end"),
        ({"data_offsets": [16, 0]}, "data_offsets is not a beginning and an end"),
        ({"data_offsets": [False, 16]}, "data_offsets is not a beginning and an end"),
        ({"data_offsets": "0:16"}, "data_offsets is not a beginning and an end"),
        ({"data_offsets": [4, 20]}, "tensor a leaves a gap before it"),
        ({"data_offsets": [10**18, 10**18 + 16]}, "tensor a leaves a gap before it"),
    ],
)
def test_a_header_with_a_wrong_field_is_told(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", {"a": {**GOOD, **changes}})
    with pytest.raises(SharpError) as error:
        safetensors_header(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a": ' + json.dumps(GOOD).encode() + b', "a": ' + json.dumps(GOOD).encode() + b"}",
        b'{"a": {"dtype": "F32", "shape": [1' + b"0" * 5000 + b"]}}",
        b'{"a\xff": 1}',
        {"a": [1, 2]},
        {"a\n": GOOD},
        {"a": None},
        [GOOD],
    ],
)
def test_a_header_of_another_form_is_told(header: Any, tmp_path: Path) -> None:
    path = write_header(tmp_path / "a.safetensors", header)
    with pytest.raises(SharpError, match="its header is not that of a safetensors file"):
        safetensors_header(path)


def test_overlapping_tensors_are_told_and_empty_ones_are_fine(tmp_path: Path) -> None:
    overlapping = write_header(tmp_path / "a.safetensors", {"a": GOOD, "b": {**GOOD, "data_offsets": [8, 24]}}, data=24)
    with pytest.raises(SharpError, match="tensor b overlaps another tensor"):
        safetensors_header(overlapping)
    empty = {"dtype": "F32", "shape": [0, 2], "data_offsets": [16, 16]}
    assert safetensors_header(write_header(tmp_path / "b.safetensors", {"a": GOOD, "e": empty}))["e"].shape == (0, 2)


def test_one_tensor_in_two_shards_is_told(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="300KB")
    first, second = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    tensors = load_file(first)
    name = next(iter(tensors))
    save_file({**load_file(second), name: tensors[name]}, second, {"format": "pt"})
    assert f"{second}: tensor {name} is also in {first.name}" in told(tmp_path)


@pytest.mark.parametrize(
    "weight_map", [{}, [], None, {"a": 1}, {"a": ["model.safetensors"]}, {"a": "pytorch_model.bin"}]
)
def test_an_index_with_a_wrong_map_is_told(weight_map: Any, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(SharpError, match=r"index\.json: (weight_map|names pytorch_model\.bin, which is not a)"):
        weight_files(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("content", [[1, 2], {1: torch.ones(2)}, torch.ones(2), None])
def test_a_pickle_of_something_else_is_told(content: Any, tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "model.safetensors").unlink()
    torch.save(content, tiny_checkpoint / "pytorch_model.bin")
    assert "pytorch_model.bin: is broken, or no plain state dict" in told(tiny_checkpoint, allow_pickle=True)


# A tied pair


def keep_only_the_head(directory: Path) -> None:
    """Store a tied tensor under the LM head's name alone."""
    for file in directory.glob("*.safetensors"):
        tensors = load_file(file)
        if "model.embed_tokens.weight" in tensors:
            tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
            save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("size", ["5GB", "300KB"])
def test_either_name_of_a_tied_pair_holds_the_weight(size: str, tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path, max_shard_size=size)
    keep_only_the_head(tmp_path)
    opened = open_checkpoint(tmp_path).model
    assert torch.equal(opened(tiny_tokens()).logits, model(tiny_tokens()).logits)
    assert opened.lm_head.weight is opened.model.embed_tokens.weight


def test_so_it_does_in_a_sharp_checkpoint_and_in_a_pickle(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=True)
    save_sharp_checkpoint(model, SharePlan.parse("none", 6), tmp_path / "sharp")
    edit_json(tmp_path / "sharp" / "sharp.json", files={})
    keep_only_the_head(tmp_path / "sharp")
    model.save_pretrained(tmp_path / "pickled")
    keep_only_the_head(tmp_path / "pickled")
    torch.save(load_file(tmp_path / "pickled" / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    for name in ("sharp", "pickled"):
        opened = open_checkpoint(Source(str(tmp_path / name), allow_pickle=True)).model
        assert torch.equal(opened(tiny_tokens()).logits, model(tiny_tokens()).logits)


def test_neither_name_of_a_tied_pair_is_told_and_a_wrong_shape_too(tmp_path: Path) -> None:
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    keep_only_the_head(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = tensors.pop("lm_head.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert "tensor model.embed_tokens.weight is missing" in told(tmp_path)
    save_file({**tensors, "lm_head.weight": head[:-1].clone()}, tmp_path / "model.safetensors")
    assert "tensor lm_head.weight has shape [255, 64], config.json says [256, 64]" in told(tmp_path)


# Numbers that would take memory and time without end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000; it must be between 1 and 1,000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 1e9}, "num_hidden_layers is 1000000000.0; it must be between 1 and 1,000"),
        ({"hidden_size": 2**40}, "hidden_size is 1,099,511,627,776; it must be between 1 and 4,194,304"),
        ({"vocab_size": 10**400}, "vocab_size is out of range"),
        ({"num_attention_heads": -4}, "num_attention_heads is -4"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; it must be a divisor of num_attention_heads, 4"),
        ({"intermediate_size": float("nan")}, "intermediate_size is nan"),
    ],
)
def test_impossible_sizes_are_told_before_anything_is_built(
    changes: dict[str, Any], message: str, tiny_checkpoint: Path
) -> None:
    edit_json(tiny_checkpoint / "config.json", **changes)
    assert message in told(tiny_checkpoint)
    for source in (str(tiny_checkpoint), f"random:{tiny_checkpoint / 'config.json'}"):
        with pytest.raises(SharpError) as error:
            describe_model(source)
        assert message in str(error.value)


@pytest.mark.parametrize("layers", [5, 7, 999])
def test_layers_are_compared_with_the_weights_first(layers: int, tiny_checkpoint: Path) -> None:
    edit_json(tiny_checkpoint / "config.json", num_hidden_layers=layers)
    assert f"config.json: num_hidden_layers is {layers}, the weight files have 6 layers" in told(tiny_checkpoint)


@pytest.mark.parametrize(("rank", "width"), [(2**20, 4194304), (4, 2**22)])
def test_a_sharp_checkpoint_allocates_nothing_before_its_shapes_are_known_to_fit(
    rank: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = save_sharp_checkpoint(tiny_model(), SharePlan.parse("none", 6), tmp_path / "out")
    edit_json(out / "sharp.json", files={}, plan="2:3", recovery={"3": {"rank": rank}})
    edit_json(out / "config.json", intermediate_size=width)
    monkeypatch.setattr("sharp_mobile.checkpoint.open.skeleton", lambda *_: pytest.fail("memory was allocated"))
    assert "has shape" in told(out) or "is missing" in told(out)


def test_a_gguf_allocates_nothing_before_its_shapes_are_known_to_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tiny_model(), tmp_path / "t.gguf", metadata={"llama.feed_forward_length": 2**22})
    monkeypatch.setattr("sharp_mobile.checkpoint.open.skeleton", lambda *_: pytest.fail("memory was allocated"))
    assert "has shape [96, 64], its metadata says [4194304, 64]" in told(path)


# Things in a file's place


def directory_there(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def loop(path: Path) -> None:
    path.symlink_to(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)  # opening it would wait for a writer


PLACED = [
    (directory_there, "is a directory"),
    (dangling, "is a link to a missing file"),
    (loop, "cannot be read: Too many levels of symbolic links"),
    (pipe, "is not a regular file"),
]


@pytest.mark.parametrize(("place", "message"), PLACED)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "sharp.json", "generation_config.json"]
)
def test_something_else_in_a_files_place_is_told(
    name: str, place: Callable[[Path], None], message: str, tiny_checkpoint: Path
) -> None:
    path = tiny_checkpoint / name
    path.unlink(missing_ok=True)
    if name.startswith("model"):
        (tiny_checkpoint / "model.safetensors").unlink(missing_ok=True)
    place(path)
    assert f"{path}: {message}" in told(tiny_checkpoint)


@pytest.mark.parametrize(("place", "message"), PLACED[1:])
def test_something_else_in_a_gguf_files_place_is_told(
    place: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    place(tmp_path / "model.gguf")
    line = told(tmp_path / "model.gguf")
    assert message.removeprefix("cannot be read: ") in line
    assert str(tmp_path / "model.gguf") in line


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.gguf"])
def test_a_file_that_may_not_be_read_is_told(name: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tiny_model(), tiny_checkpoint / "model.gguf")
    its_open = Path.open

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return its_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    source = tiny_checkpoint / name if name == "model.gguf" else tiny_checkpoint
    assert f"{tiny_checkpoint / name}: cannot be read: Permission denied" in told(source)


def test_a_directory_that_may_not_be_searched_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(SharpError, match=r"config\.json: cannot be read: Permission denied"):
        is_regular_file(tmp_path / "config.json")
    assert "cannot be read: Permission denied" in told(tmp_path)


@pytest.mark.parametrize(
    "source",
    ["~nobody-has-this-name/model", "a" * 5000, "models/\0", "random:~nobody-has-this-name/config.json", "random:\0"],
)
def test_a_name_that_no_file_can_have_is_told(source: str) -> None:
    assert any(message in told(source) for message in ("cannot be read", "no such directory or file", "no such file"))


def test_a_weight_file_that_vanishes_on_the_way_is_told(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tiny_checkpoint / "model.safetensors"
    monkeypatch.setattr("sharp_mobile.checkpoint.open.on_meta", lambda *_: (weights.unlink(), tiny_model())[1])
    assert f"{weights}: cannot be loaded" in told(tiny_checkpoint)


# Repositories of the hub

LISTINGS = {
    "llama": (
        "config.json generation_config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
        "model.safetensors.index.json special_tokens_map.json tokenizer.json tokenizer_config.json",
        "LICENSE.txt README.md USE_POLICY.md original/consolidated.00.pth original/params.json",
    ),
    "mistral": (
        "config.json generation_config.json model-00001-of-00003.safetensors model.safetensors.index.json params.json "
        "special_tokens_map.json tokenizer.json tokenizer.model tokenizer_config.json",
        "README.md consolidated.safetensors consolidated-00001-of-00002.safetensors tekken.json tokenizer.model.v3",
    ),
    "gemma": (
        "added_tokens.json chat_template.json chat_template.jinja config.json generation_config.json model.safetensors "
        "additional_chat_templates/tool_use.jinja tokenizer.json tokenizer.model tokenizer_config.json",
        "gemma-3-1b.gguf gemma-q4_0.gguf onnx/model.onnx onnx/model.safetensors processor_config.json trainer.bin",
    ),
    "variants": (
        "config.json model.safetensors vocab.json merges.txt sharp.json",
        "model.fp16.safetensors model.safetensors.index.fp16.json model.fp16-00001-of-00002.safetensors "
        "adapter_model.safetensors pytorch_model.bin tf_model.h5 optimizer.pt runs/config.json 1_Pooling/config.json",
    ),
    "diffusers": (
        "model_index.json",
        "unet/config.json unet/model.safetensors text_encoder/model.fp16.safetensors scheduler/scheduler_config.json",
    ),
}


class Hub:
    """Stands for the hub: 'downloads' the files of a listing into a directory, as the hub's own filter chooses them."""

    def __init__(self, names: list[str], directory: Path) -> None:
        self.names, self.directory = names, directory
        self.taken: set[str] = set()

    def __call__(self, repository: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        chosen = filter_repo_objects(self.names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for name in chosen:
            self.taken.add(name)
            (self.directory / name).parent.mkdir(exist_ok=True, parents=True)
            (self.directory / name).touch()
        return str(self.directory)


@pytest.mark.parametrize("name", LISTINGS)
def test_only_what_is_read_is_downloaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, unread = (listing.split() for listing in LISTINGS[name])
    hub = Hub([*read, *unread], tmp_path)
    monkeypatch.setattr("sharp_mobile.checkpoint.locate.snapshot_download", hub)
    for allow_pickle in (False, True):
        told("org/name", allow_pickle)  # the files are empty
        assert hub.taken == set(read)
        if name == "diffusers":
            return


@pytest.mark.parametrize("weights", [["pytorch_model.bin"], ["model.safetensors", "pytorch_model.bin"]])
def test_pickles_are_downloaded_if_they_are_allowed_and_nothing_else_is_there(
    weights: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(["config.json", *weights, "pytorch_model.bin.index.json"], tmp_path)
    monkeypatch.setattr("sharp_mobile.checkpoint.locate.snapshot_download", hub)
    told("org/name")
    assert "pytorch_model.bin" not in hub.taken
    told("org/name", allow_pickle=True)
    assert ("pytorch_model.bin" in hub.taken) == (len(weights) == 1)


def test_an_adapter_on_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"], tmp_path)
    monkeypatch.setattr("sharp_mobile.checkpoint.locate.snapshot_download", hub)
    assert "holds an adapter (PEFT)" in told("org/name")
    assert "adapter_model.safetensors" not in hub.taken


def test_the_tiny_tokenizer_needs_nothing_else(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_tokenizer().save_pretrained(tiny_checkpoint)
    names = [str(path.relative_to(tiny_checkpoint)) for path in tiny_checkpoint.rglob("*") if path.is_file()]
    hub = Hub(names, tiny_checkpoint)
    monkeypatch.setattr("sharp_mobile.checkpoint.locate.snapshot_download", hub)
    assert open_checkpoint("org/name").tokenizer() is not None
    assert hub.taken == set(names)
