"""Tokenizers are read as their files are, and copied."""

import json
from pathlib import Path

import pytest
import sentencepiece
from tiny_gguf import write_gguf
from tiny_models import tiny_model, tiny_tokenizer
from tiny_sentencepiece import VOCABULARY, sentencepiece_model, write_llama2_json, write_tokenizer_model
from transformers import PreTrainedTokenizerBase

from sharp_mobile.checkpoint.tokenizer import load_tokenizer, tokenizer_warnings, write_tokenizer
from sharp_mobile.errors import SharpError
from sharp_mobile.files.ownership import check_ours
from sharp_mobile.verify.runner_tokenizer import TEXTS, open_as_runner

REFERENCE = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
SPACED = ("", " ", "  begins with two", "\n", "ends ")


def loaded(path: Path) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(path)
    assert tokenizer is not None
    return tokenizer


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def written(source: Path, out: Path) -> dict[str, bytes]:
    write_tokenizer(loaded(source), source, out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_shipped_tokenizer_is_copied_byte_for_byte(tmp_path: Path) -> None:
    shipped = write_llama2_json(tmp_path / "llama2")
    write_tokenizer_model(shipped)
    (shipped / "chat_template.jinja").write_text("{{ messages }}")
    for name in ("special_tokens_map.json", "added_tokens.json", "chat_template.json", "merges.txt"):
        (shipped / name).write_text("{}")
    kept = {path.name: path.read_bytes() for path in shipped.iterdir()}
    (shipped / "notes.txt").write_text("not the tokenizer's")
    (shipped / "additional_chat_templates").mkdir()
    (shipped / "additional_chat_templates" / "rag.jinja").write_text("{{ documents }}")
    write_tokenizer(loaded(shipped), shipped, tmp_path / "out")
    assert (tmp_path / "out" / "additional_chat_templates" / "rag.jinja").read_text() == "{{ documents }}"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == kept
    (tmp_path / "out" / "sharp.json").write_text('{"format_version": 1, "plan": 1, "layers": 1, "recovery": {}}')
    check_ours(tmp_path / "out")  # all of it may be replaced by the next export
    again = loaded(tmp_path / "out")
    assert again.chat_template == {"default": "{{ messages }}", "rag": "{{ documents }}"}
    for text in (*TEXTS, *SPACED):
        assert ids(again, text) == REFERENCE.encode(text)
    assert ids(again, "a<s>b") == [*REFERENCE.encode("a"), 1, *REFERENCE.encode("b")]


def test_a_lone_tokenizer_model_is_copied_and_gives_sentencepieces_ids(tmp_path: Path) -> None:
    for legacy in (True, False):
        lone = write_tokenizer_model(tmp_path / f"{legacy}", legacy=legacy)
        files = written(lone, tmp_path / f"out-{legacy}")
        assert set(files) == {"tokenizer.model", "tokenizer_config.json"}
        again = loaded(tmp_path / f"out-{legacy}")
        for text in (*TEXTS, *SPACED):
            assert ids(again, text) == REFERENCE.encode(text)


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_a_metaspace_becomes_the_normalizer_of_llama_2(scheme: str, tmp_path: Path) -> None:
    rewritten = write_llama2_json(tmp_path / "saved-again", metaspace=scheme)
    files = written(rewritten, tmp_path / "out")
    content = json.loads(files["tokenizer.json"])
    assert content["pre_tokenizer"] is None
    assert [step["type"] for step in content["normalizer"]["normalizers"]] == ["Prepend", "Replace"]
    for text in (*TEXTS, *SPACED):
        assert ids(loaded(tmp_path / "out"), text) == REFERENCE.encode(text)


def test_gemmas_metaspace_puts_no_space_before_the_text(tmp_path: Path) -> None:
    tokenizer = loaded(write_llama2_json(tmp_path / "gemma-like", metaspace="never"))
    assert ids(tokenizer, "▁two") == ids(tokenizer, " two")
    assert ids(tokenizer, "two") != ids(tokenizer, " two")


def test_a_sentencepiece_gguf_gives_sentencepieces_ids(tmp_path: Path) -> None:
    path = write_gguf(tiny_model(vocab_size=VOCABULARY), tmp_path / "tiny.gguf", tokenizer="sentencepiece")
    written(path, tmp_path / "out")
    for tokenizer in (loaded(path), loaded(tmp_path / "out")):
        assert len(tokenizer) == VOCABULARY
        for text in (*TEXTS, *SPACED):
            assert ids(tokenizer, text) == REFERENCE.encode(text)


def test_a_gguf_says_whether_a_space_comes_before_the_text(tmp_path: Path) -> None:
    key = "tokenizer.ggml.add_space_prefix"
    model = tiny_model(vocab_size=VOCABULARY)
    with_space, without = (
        loaded(write_gguf(model, tmp_path / f"{says}.gguf", tokenizer="sentencepiece", metadata={key: says}))
        for says in (True, False)
    )
    assert ids(with_space, "two") == ids(without, " two") == REFERENCE.encode("two")
    assert ids(without, "two") != REFERENCE.encode("two")


def test_digits_of_smollm_are_tokens_of_their_own(packaged_gguf: Path) -> None:
    """As in its own tokenizer.json; GPT-2 would take the last space of two with the digit."""
    tokenizer = loaded(packaged_gguf)
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "x  81,")) == ["x", "ĠĠ", "8", "1", ","]


def test_a_gguf_has_no_token_of_the_class_that_reads_it(tmp_path: Path) -> None:
    path = write_gguf(tiny_model(), tmp_path / "tiny.gguf")
    assert max(loaded(path).get_vocab().values()) == 255
    assert tokenizer_warnings(path, loaded(path), 256) == []


def test_a_tokenizer_of_two_files_becomes_one(tmp_path: Path) -> None:
    """vocab.json and merges.txt, as GPT-2 has them, are no file that the runner opens."""
    source = tmp_path / "gpt2"
    source.mkdir()
    vocabulary = {token: index for token, index in tiny_tokenizer().get_vocab().items() if index > 2}
    (source / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0, "Ġt": 1, "a b": 2, **vocabulary}))
    (source / "merges.txt").write_text("#version: 0.2\nĠ t\n")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    files = written(source, tmp_path / "out")
    assert "tokenizer.json" in files
    assert ids(loaded(tmp_path / "out"), " to")[0] == 1
    assert open_as_runner(tmp_path / "out", loaded(source), source) == ("tokenizer.json", ())


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"model": {"type": "BPE"}}', '{"model": ' * 2000])
def test_a_damaged_tokenizer_is_a_line(content: str, tmp_path: Path) -> None:
    write_llama2_json(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(SharpError, match="its tokenizer cannot be read") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_tokenizer_model_is_a_line(tmp_path: Path) -> None:
    for content in (b"", b"\x00" * 100, sentencepiece_model()[:1000]):
        write_tokenizer_model(tmp_path)
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(SharpError, match="its tokenizer cannot be read") as error:
            load_tokenizer(tmp_path)
        assert "\n" not in str(error.value)


# More tokens than rows


def test_a_token_without_a_row_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["extra", "more"])
    with pytest.raises(SharpError, match=r"has 258 tokens, the embedding 256 rows \(no row for 'extra'\); use the"):
        tokenizer_warnings(tmp_path, tokenizer, 256)
    assert tokenizer_warnings(tmp_path, tokenizer, 258) == tokenizer_warnings(tmp_path, tokenizer, 300) == []


def test_a_special_token_without_a_row_matters_where_the_template_writes_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    (warning,) = tokenizer_warnings(tmp_path, tokenizer, 256)
    assert warning.endswith("text that holds <image_soft_token> cannot be read")
    tokenizer.chat_template = "{{ '<image_soft_token>' }}{{ messages }}"
    with pytest.raises(SharpError, match="no row for '<image_soft_token>'"):
        tokenizer_warnings(tmp_path, tokenizer, 256)
