"""A small SentencePiece tokenizer, as Llama 2 has it: BPE with byte fallback, in its three files."""

import json
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import gguf
import sentencepiece

VOCABULARY = 400
_TEXT = (
    "Hello, world. The capital of France is Paris, and it's 1,234 years old.\n"
    "def f(x):\n    return x[1] + 2.5  # half\n  two  spaces, a tab\nlines and more lines\n"
    "one two three four five six seven eight nine ten eleven twelve o'clock\n"
)
_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
}


@cache
def sentencepiece_model() -> bytes:
    """The content of a tokenizer.model; the same each time."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=StringIO(_TEXT * 3),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_tokenizer_model(directory: Path, **settings: Any) -> Path:
    """tokenizer.model and tokenizer_config.json, and nothing else."""
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.model").write_bytes(sentencepiece_model())
    (directory / "tokenizer_config.json").write_text(json.dumps(_CONFIG | settings))
    return directory


def write_llama2_json(directory: Path, *, metaspace: str | None = None) -> Path:
    """tokenizer.json as Llama 2 ships it; or as transformers 5 writes it anew, with that prepend scheme."""
    directory.mkdir(exist_ok=True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    pieces = [processor.id_to_piece(token) for token in range(VOCABULARY)]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": pieces[token], **special} for token in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": _merges(processor, pieces),
        },
    }
    if metaspace is not None:
        content["normalizer"] = None
        splitter = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": metaspace, "split": False}
        content["pre_tokenizer"] = splitter
    (directory / "tokenizer.json").write_text(json.dumps(content))
    (directory / "tokenizer_config.json").write_text(json.dumps(_CONFIG))
    return directory


def _merges(processor: Any, pieces: list[str]) -> list[list[str]]:
    """Each piece of two known ones, the likeliest piece first."""
    known = set(pieces)
    found = [
        (-processor.get_score(token), len(piece[:cut]), [piece[:cut], piece[cut:]])
        for token, piece in enumerate(pieces)
        if not processor.is_byte(token) and not processor.is_control(token) and not processor.is_unknown(token)
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
    return [pair for _, _, pair in sorted(found)]


def add_sentencepiece(writer: gguf.GGUFWriter) -> None:
    """Write the tokenizer into a GGUF, as llama.cpp's converter does."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    tokens = range(VOCABULARY)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([processor.id_to_piece(token) for token in tokens])
    writer.add_token_scores([processor.get_score(token) for token in tokens])
    writer.add_token_types(
        [
            kinds.UNKNOWN
            if processor.is_unknown(token)
            else kinds.CONTROL
            if processor.is_control(token)
            else kinds.BYTE
            if processor.is_byte(token)
            else kinds.NORMAL
            for token in tokens
        ]
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
