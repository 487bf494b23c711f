"""Whatever happens to a header, an index or a configuration: it opens, or it gives one line. Nothing else."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from damage import GGUF_KEYS, GGUF_VALUES, ODD, ODD_VALUES, damaged_bytes, one_line_or_fine
from hypothesis import given
from hypothesis import strategies as st
from tiny_gguf import write_gguf
from tiny_models import tiny_model

from sharp_mobile.checkpoint.gguf_fields import gguf_warnings
from sharp_mobile.checkpoint.gguf_file import gguf_header
from sharp_mobile.checkpoint.hugging_face import gguf_config, read_config
from sharp_mobile.checkpoint.weight_files import safetensors_header, weight_files
from sharp_mobile.errors import SharpError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    tiny_model(num_hidden_layers=1).save_pretrained(path)
    return path


def header_of(path: Path) -> tuple[bytes, bytes]:
    """A safetensors file's header, and its data."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


@ODD
@given(data=st.data())
def test_the_bytes_of_a_safetensors_file(data: st.DataObject, directory: Path, tmp_path: Path) -> None:
    header, _ = header_of(directory / "model.safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(data.draw(damaged_bytes(len(header).to_bytes(8, "little") + header)))
    one_line_or_fine(lambda: safetensors_header(path))


@ODD
@given(data=st.data())
def test_the_fields_of_a_safetensors_header(data: st.DataObject, directory: Path, tmp_path: Path) -> None:
    header, weights = header_of(directory / "model.safetensors")
    table = json.loads(header)
    name = data.draw(st.sampled_from(sorted(table)))
    if data.draw(st.booleans()):
        table[name] = data.draw(ODD_VALUES)
    else:
        table[name][data.draw(st.sampled_from(["shape", "dtype", "data_offsets"]))] = data.draw(ODD_VALUES)
    text = json.dumps(table).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + weights)
    one_line_or_fine(lambda: safetensors_header(path))


@ODD
@given(data=st.data())
def test_an_index(data: st.DataObject, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"metadata": {"total_size": 4}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    if data.draw(st.booleans()):
        whole["weight_map"] = data.draw(ODD_VALUES)
    else:
        whole["weight_map"][data.draw(st.text(max_size=4))] = data.draw(ODD_VALUES)
    text = json.dumps(whole).encode()
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(data.draw(damaged_bytes(text)) if data.draw(st.booleans()) else text)
    one_line_or_fine(lambda: weight_files(tmp_path))


@ODD
@given(data=st.data())
def test_a_config(data: st.DataObject, directory: Path, tmp_path: Path) -> None:
    fields = json.loads((directory / "config.json").read_text())
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=2)):
        fields[name] = data.draw(ODD_VALUES)
    text = json.dumps(fields).encode()
    path = tmp_path / "config.json"
    path.write_bytes(data.draw(damaged_bytes(text)) if data.draw(st.booleans()) else text)
    one_line_or_fine(lambda: read_config(path))


# GGUF


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tiny file whose header takes most of it."""
    model = tiny_model(num_hidden_layers=1, hidden_size=4, intermediate_size=4, num_attention_heads=2, head_dim=2,
                       num_key_value_heads=1, vocab_size=8)  # fmt: skip
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "whole.gguf", tokenizer=None).read_bytes()


def read_gguf(path: Path) -> None:
    header = gguf_header(path)
    gguf_config(header)
    gguf_warnings(header)


@ODD
@given(data=st.data())
def test_the_bytes_of_a_gguf_file(data: st.DataObject, gguf: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(data.draw(damaged_bytes(gguf)))
    one_line_or_fine(lambda: read_gguf(path))


@ODD
@given(data=st.data())
def test_the_values_of_a_gguf_file(data: st.DataObject, tmp_path: Path) -> None:
    model_type = data.draw(st.sampled_from(["llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"]))
    own = model_type.removesuffix("_text")
    keys = data.draw(st.lists(st.sampled_from(GGUF_KEYS), min_size=1, max_size=3))
    metadata = {f"{own}.{key}": data.draw(GGUF_VALUES) for key in keys}
    for key in ("general.type", "split.count", "tokenizer.ggml.eos_token_id", "general.alignment"):
        if data.draw(st.integers(0, 9)) == 0:
            metadata[key] = data.draw(GGUF_VALUES)
    path = write_gguf(MODELS[model_type], tmp_path / "tiny.gguf", metadata=metadata, tokenizer=None)
    one_line_or_fine(lambda: read_gguf(path))


MODELS = {name: tiny_model(name, num_hidden_layers=2, vocab_size=8)
          for name in ("llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text")}  # fmt: skip


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def entry(name: str, shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def made(pairs: list[bytes], tensors: list[bytes], *, version: int = 3, counts: tuple[int, int] | None = None) -> bytes:
    tensor_count, value_count = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, value_count)
    return head + b"".join(pairs) + b"".join(tensors) + bytes(256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (made([pair("a", 4, number(1)), pair("a", 4, number(2))], []), "key a occurs twice"),
        (made([], [entry("t"), entry("t", offset=32)]), "tensor t occurs twice"),
        (made([], [entry("t", (1, 1, 1, 1, 1))]), "tensor t has 5 dimensions, ggml has at most 4"),
        (made([], [entry("t", ())]), r"tensor t has shape \[\]"),
        (made([], [entry("t", (8, 0))]), r"tensor t has shape \[0, 8\]"),
        (made([], [entry("t", (2**40, 2**40))]), "tensor t has shape"),
        (made([], [entry("t", (33,), kind=2)]), "tensor t has rows of 33, which Q4_0 stores in blocks of 32"),
        (made([], [entry("t", kind=99)]), "tensor t is of the unknown type 99"),
        (made([], [entry("t", offset=8)]), "tensor t begins at 8, not at a multiple of 32"),
        (made([], [entry("t", (16,)), entry("u", offset=32)]), "tensors t and u overlap"),
        (made([], [entry("t", offset=2**40)]), "cut short: has .* bytes, needs 1,099,511,"),
        (made([], [entry("t\n")]), r"the name 't\\n'"),
        (made([pair("general.alignment", 4, number(0))], []), "general.alignment is 0, not a power of two"),
        (made([pair("general.alignment", 4, number(24))], []), "general.alignment is 24, not a power of two"),
        (made([pair("general.alignment", 4, number(2**31))], []), "general.alignment is 2147483648"),
        (made([pair("general.alignment", 8, text("32"))], []), "general.alignment is '32'"),
        (made([pair("a", 9, struct.pack("<IQ", 9, 1))], []), "a is an array of arrays"),
        (made([pair("a", 9, struct.pack("<IQ", 77, 1))], []), "a is an array of the unknown type 77"),
        (made([pair("a", 9, struct.pack("<IQ", 8, 2**40))], []), "a is an array of 1,099,511,627,776 strings"),
        (made([pair("a", 9, struct.pack("<IQ", 4, 2**63))], []), "cut short in its header"),
        (made([pair("a", 9, struct.pack("<IQ", 0, 2**62))], []), "cut short in its header"),
        (made([pair("a", 8, struct.pack("<Q", 2**62))], []), "cut short in its header"),
        (made([pair("a", 42, b"")], []), "a is of the unknown type 42"),
        (made([pair("a", 8, text(b"\xff\xfe"))], []), "header is broken .*utf-8"),
        (made([pair(b"\xff\xfe", 4, number(1))], []), "header is broken .*utf-8"),
        (made([], [], counts=(2**63, 0)), "9,223,372,036,854,775,808 tensors"),
        (made([], [], counts=(0, 2**63)), "9,223,372,036,854,775,808 metadata values"),
        (made([], [], version=1), "GGUF version 1 is not supported; versions 2 and 3 are"),
        (made([], [], version=3 << 24), "GGUF version 3 in big-endian order is not supported"),
        (b"", "is not a GGUF file"),
    ],
)
def test_a_gguf_header_that_cannot_be(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    path.write_bytes(content)
    with pytest.raises(SharpError, match=message) as error:
        gguf_header(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
