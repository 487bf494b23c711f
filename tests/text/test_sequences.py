"""Sequences to train on: packed, split, the same every time, and kept in one place."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CHATML, tiny_config, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sharp_mobile.errors import SharpError
from sharp_mobile.text import sequences as dataset
from sharp_mobile.text.conversation import IGNORED
from sharp_mobile.text.sequences import TrainingData, packed_windows, prepare_data
from sharp_mobile.text.windows import check_length, read_text, source_windows, token_windows

LENGTH = 16
EOS = 2


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with a chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return tokenizer


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """400 documents, each of its own word."""
    return write_lines(tmp_path / "texts.jsonl", [{"text": f"word{i:03d}"} for i in range(400)])


def prepare(tokenizer: PreTrainedTokenizerFast, source: Path, work: Path, **options: Any) -> TrainingData:
    return prepare_data(tokenizer, source, LENGTH, work=work, **options)


def everything(data: TrainingData, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    train, validation = (list(chain(*part["input_ids"])) for part in (data.train, data.validation))
    return tokenizer.decode(train), tokenizer.decode(validation)


def test_documents_are_joined_by_eos_and_cut_into_full_sequences(
    tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path
) -> None:
    data = prepare(tokenizer, texts, tmp_path / "data")
    assert data.train.column_names == data.validation.column_names == ["input_ids", "labels"]
    for row in (*data.train, *data.validation):
        assert len(row["input_ids"]) == LENGTH
        assert row["labels"] == row["input_ids"]
    assert data.train[0]["input_ids"][7] == EOS
    # 396 documents of 8 tokens fill 198 sequences of 16; the 4 others fill 2.
    assert (len(data.train), len(data.validation)) == (198, 2)


def test_one_document_in_a_hundred_is_held_out_and_is_not_trained_on(
    tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path
) -> None:
    train, validation = everything(prepare(tokenizer, texts, tmp_path / "data"), tokenizer)
    trained, held = set(train.split("</s>")[:-1]), set(validation.split("</s>")[:-1])
    assert len(held) == 4
    assert not held & trained
    assert held | trained == {f"word{i:03d}" for i in range(400)}


def test_the_split_depends_on_the_seed_only(tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path) -> None:
    first = everything(prepare(tokenizer, texts, tmp_path / "a"), tokenizer)
    torch.manual_seed(1)
    assert everything(prepare(tokenizer, texts, tmp_path / "b"), tokenizer) == first
    assert everything(prepare(tokenizer, texts, tmp_path / "a", seed=1), tokenizer) != first


def test_few_documents_are_split_by_sequence(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = tmp_path / "one.txt"
    source.write_text("".join(f"{i:07d} " for i in range(600)), encoding="utf-8")
    data = prepare(tokenizer, source, tmp_path / "data")
    assert (len(data.train), len(data.validation)) == (297, 3)
    train, validation = everything(data, tokenizer)
    assert not set(train.split()) & set(validation.split())


def test_the_warm_up_takes_a_share_of_the_training_part(
    tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path
) -> None:
    data = prepare(tokenizer, texts, tmp_path / "data")
    windows = data.warmup_windows()
    assert windows.shape == (19, LENGTH)
    assert windows.dtype == torch.int64
    assert all(window in data.train["input_ids"][:] for window in windows.tolist())
    assert len(data.warmup_windows(0.0)) == 1


def test_only_answers_have_labels_and_every_sequence_has_one(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = [{"prompt": f"{100 * 'q'}{i}", "completion": f"answer {i}"} for i in range(30)]
    data = prepare(tokenizer, write_lines(tmp_path / "chats.jsonl", rows), tmp_path / "data")
    labels = chain(*data.train["labels"], *data.validation["labels"])
    learned = tokenizer.decode([label for label in labels if label != IGNORED])
    assert "q" not in learned
    assert "Be kind" not in learned
    assert "answer 7</s>" in learned
    assert all(any(label != IGNORED for label in row["labels"][1:]) for row in data.train)


def test_prepared_data_is_kept_until_the_source_changes(
    tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "data"
    first = everything(prepare(tokenizer, texts, work), tokenizer)
    (kept,) = work.iterdir()
    assert sorted(file.name for file in kept.iterdir()) == ["train.arrow", "validation.arrow"]
    with monkeypatch.context() as patch:
        patch.delattr(dataset, "read_documents")  # it is not read again
        assert everything(prepare(tokenizer, texts, work), tokenizer) == first
    write_lines(texts, [{"text": f"other{i:02d}"} for i in range(100)])
    assert "other" in everything(prepare(tokenizer, texts, work), tokenizer)[0]
    assert len(list(work.iterdir())) == 2


def test_a_failure_leaves_nothing_behind(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"text": "a"}] * 50 + [{"body": "b"}])
    with pytest.raises(SharpError, match="line 51"):
        prepare(tokenizer, source, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_windows_of_documents_and_of_running_text(
    tokenizer: PreTrainedTokenizerFast, texts: Path, tiny_text: Path
) -> None:
    windows = source_windows(tokenizer, texts, LENGTH, 10)
    assert windows.shape == (10, LENGTH)
    assert windows.dtype == torch.int64
    assert tokenizer.decode(windows[0]) == "word000</s>word001</s>"
    assert torch.equal(windows, packed_windows(tokenizer, texts, LENGTH)[::20])
    expected = token_windows(tokenizer, read_text(tiny_text), LENGTH, 10)
    assert torch.equal(source_windows(tokenizer, tiny_text, LENGTH, 10), expected)
    with pytest.raises(SharpError, match="its 3200 tokens give 200 windows of 16, 201 are needed"):
        source_windows(tokenizer, texts, LENGTH, 201)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", r"a\.txt: holds no text"), (20 * "a", r"its 21 tokens give 1 sequences of 16 .*take more text")],
)
def test_a_source_with_too_little_is_refused(
    text: str, complaint: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(SharpError, match=complaint):
        prepare(tokenizer, tmp_path / "a.txt", tmp_path / "data")


def test_conversations_without_a_chat_template_are_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(SharpError, match="no chat template"):
        prepare(tiny_tokenizer(), source, tmp_path / "data")


def test_text_that_the_tokenizer_does_not_know_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "known": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    (tmp_path / "a.txt").write_text(990 * "known " + 10 * "strange ")
    assert len(prepare(words, tmp_path / "a.txt", tmp_path / "data").train) > 0
    (tmp_path / "b.txt").write_text(80 * "known " + 20 * "strange ")
    with pytest.raises(SharpError, match=r"b\.txt: 20% of its tokens are <unk>"):
        prepare(words, tmp_path / "b.txt", tmp_path / "data")
    with pytest.raises(SharpError, match="text: 20% of its tokens are <unk>"):
        token_windows(words, read_text(tmp_path / "b.txt"), LENGTH)


def test_a_length_beyond_the_models_is_refused() -> None:
    check_length(128, tiny_config())
    for length in (1, 129):
        with pytest.raises(SharpError, match=f"sequence length {length}: the model takes 2 to 128 tokens"):
            check_length(length, tiny_config())
