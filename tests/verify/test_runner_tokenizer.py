"""The runner's own library opens what an export writes, or the export is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from executorch.extension.llm.runner import TextLLMRunner
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_tokenizer
from tiny_sentencepiece import VOCABULARY, write_llama2_json, write_tokenizer_model

from sharp_mobile.checkpoint.tokenizer import keep_spaces, load_tokenizer, write_tokenizer
from sharp_mobile.errors import SharpError
from sharp_mobile.verify.runner_tokenizer import RunnerTokenizer, open_as_runner


def opened(source: Path, out: Path, *, spaces: bool = True) -> RunnerTokenizer:
    tokenizer = load_tokenizer(source)
    assert tokenizer is not None
    write_tokenizer(tokenizer, source, out)
    if spaces:
        keep_spaces(out)
    return open_as_runner(out, tokenizer, source)


def edited(directory: Path, **changes: Any) -> Path:
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_the_runner_opens_llama_2s_files(tmp_path: Path) -> None:
    assert opened(write_llama2_json(tmp_path / "a"), tmp_path / "out-a") == ("tokenizer.json", ())
    assert opened(write_llama2_json(tmp_path / "b", metaspace="always"), tmp_path / "out-b") == ("tokenizer.json", ())
    lone = opened(write_tokenizer_model(tmp_path / "c"), tmp_path / "out-c")
    assert lone.file == "tokenizer.model"
    assert "reads special tokens of a text in plain letters" in lone.warnings[0]


def test_the_runner_opens_byte_level_bpe_and_ggufs(tmp_path: Path) -> None:
    (tmp_path / "bpe").mkdir()
    tiny_tokenizer().save_pretrained(tmp_path / "bpe")
    bpe = write_gguf(tiny_model(), tmp_path / "bpe.gguf")
    pieces = write_gguf(tiny_model(vocab_size=VOCABULARY), tmp_path / "sp.gguf", tokenizer="sentencepiece")
    for number, source in enumerate([tmp_path / "bpe", bpe, pieces]):
        assert opened(source, tmp_path / f"out-{number}") == ("tokenizer.json", ())


def test_a_tokenizer_that_the_runner_does_not_know_is_refused(tmp_path: Path) -> None:
    source = edited(write_llama2_json(tmp_path / "source"), pre_tokenizer={"type": "WhitespaceSplit"})
    with pytest.raises(SharpError, match=r"tokenizer\.json: ExecuTorch's runner cannot open it .*; put the tokenizer"):
        opened(source, tmp_path / "out")
    write_tokenizer_model(source)  # cannot stand in for it: its ids are others
    with pytest.raises(SharpError, match=r"tokenizer\.json: ExecuTorch's runner cannot open it"):
        opened(source, tmp_path / "out")


def test_a_tokenizer_that_the_runner_reads_otherwise_is_refused(tmp_path: Path) -> None:
    source = write_llama2_json(tmp_path / "source")
    lower = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "Prepend", "prepend": "▁"}]}
    with pytest.raises(SharpError, match=r"tokenizer\.json: ExecuTorch's runner (gives other token ids|cannot open)"):
        opened(edited(source, normalizer=lower), tmp_path / "out")


def test_the_tokenizer_model_takes_the_place_of_a_json_that_the_runner_refuses(tmp_path: Path) -> None:
    source = write_tokenizer_model(write_llama2_json(tmp_path / "source"))
    content = json.loads((source / "tokenizer.json").read_text())
    prepend, replace = content["normalizer"]["normalizers"]
    steps = [
        {"type": "Strip", "strip_left": False, "strip_right": False},
        prepend,
        replace,
    ]  # unknown to the runner, and without effect on the texts
    edited(source, normalizer={"type": "Sequence", "normalizers": steps})
    assert opened(source, tmp_path / "out").file == "tokenizer.model"


def test_spaces_that_a_special_token_takes_along_are_a_warning(tmp_path: Path) -> None:
    """As Phi 3's `<|end|>`."""
    source = write_llama2_json(tmp_path / "source")
    tokens = json.loads((source / "tokenizer.json").read_text())["added_tokens"]
    found = opened(edited(source, added_tokens=[token | {"rstrip": True} for token in tokens]), tmp_path / "out")
    assert found.file == "tokenizer.json"
    assert "the runner keeps spaces beside" in found.warnings[0].replace("ExecuTorch's", "the")


def test_spaces_that_the_runner_would_drop_are_kept(tmp_path: Path) -> None:
    source = write_llama2_json(tmp_path / "source")
    dropping = opened(source, tmp_path / "out", spaces=False)
    assert dropping.warnings == ("ExecuTorch's runner writes 'Hello,world' for 'Hello, world' with tokenizer.json",)
    keep_spaces(tmp_path / "out")
    tokenizer = load_tokenizer(source)
    assert open_as_runner(tmp_path / "out", tokenizer, source) == ("tokenizer.json", ())
    kept = (tmp_path / "out" / "tokenizer.json").read_bytes()
    keep_spaces(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == kept


def test_no_tokenizer_is_no_file(tmp_path: Path) -> None:
    assert open_as_runner(tmp_path, None, tmp_path) == (None, ())


def test_the_stock_runner_takes_both_kinds(tmp_path: Path) -> None:
    """It opens them before the program, which is none here."""
    write_tokenizer_model(write_llama2_json(tmp_path))
    (tmp_path / "model.pte").write_bytes(b"no program")
    for name in ("tokenizer.json", "tokenizer.model"):
        with pytest.raises(RuntimeError):
            TextLLMRunner(str(tmp_path / "model.pte"), str(tmp_path / name)).generate("x", 1)
