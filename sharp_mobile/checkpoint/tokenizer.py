"""Tokenizers as files: read the files that came with the weights, and copy them to outputs.

ExecuTorch's runner reads a tokenizer.json of Hugging Face's tokenizers library, or a SentencePiece tokenizer.model. It
is given the very files that came with the weights: transformers 5 rewrites a tokenizer.json as the class of the
tokenizer would have it, which for SentencePiece models the runner doesn't read. So the file is also read as it is here,
not as that class, so that our ids are those of the runner.
"""

import json
import re
import shutil
from pathlib import Path

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

from sharp_mobile.checkpoint.tokenizer_files import (
    MORE_TEMPLATES,
    SETTINGS,
    TEMPLATES,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    has_tokenizer,
)
from sharp_mobile.errors import SharpError, one_line
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.paths import is_regular_file

# Kinds of `tokenizer.ggml.pre` that are GPT-2's with every digit on its own (llama.cpp's llama-vocab.cpp).
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a directory or a GGUF file; None if it has none.

    Raises:
        SharpError: it cannot be read.
    """
    if not has_tokenizer(path):
        return None
    try:
        if path.is_file():
            return _from_gguf(path)
        if is_regular_file(path / TOKENIZER_JSON):
            return _from_json(path)
        if is_regular_file(path / TOKENIZER_MODEL) and not (path / TOKENIZER_MODEL).stat().st_size:
            raise SharpError(f"{path / TOKENIZER_MODEL}: its tokenizer cannot be read: it is empty; copy it again")
        # As SentencePiece itself has it: transformers leaves out the first space where the text begins with one.
        return _without_metaspace(AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False))
    except (KeyboardInterrupt, SystemExit, MemoryError, SharpError):
        raise
    except BaseException as error:  # the tokenizers library panics over some damaged files, which is no Exception
        raise SharpError(
            f"{path}: its tokenizer cannot be read: {one_line(error)}; copy the model's tokenizer files again"
        ) from error


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, source: Path, directory: Path) -> None:
    """Put a tokenizer into a directory: the files that it was loaded from, or one tokenizer.json made of others.

    Args:
        tokenizer: what `load_tokenizer(source)` gave.
        source: the directory or GGUF file that it came from.
    """
    directory.mkdir(exist_ok=True)
    shipped = [name for name in (TOKENIZER_JSON, TOKENIZER_MODEL) if source.is_dir() and is_regular_file(source / name)]
    if not shipped or (TOKENIZER_JSON in shipped and _has_metaspace(source / TOKENIZER_JSON)):
        tokenizer.save_pretrained(directory)
        return
    for name in (*shipped, *SETTINGS, *TEMPLATES):
        if is_regular_file(source / name):
            shutil.copyfile(source / name, directory / name)
    for template in sorted((source / MORE_TEMPLATES).glob("*.jinja")):
        (directory / MORE_TEMPLATES).mkdir(exist_ok=True)
        shutil.copyfile(template, directory / MORE_TEMPLATES / template.name)


def keep_spaces(directory: Path) -> None:
    """Leave the `Strip` step out of the decoder of a tokenizer.json, if there is one; token ids stay the same.

    SentencePiece's decoder strips the space before a text. ExecuTorch's runner decodes token by token, and so strips
    the space before every word.
    """
    path = directory / TOKENIZER_JSON
    if not is_regular_file(path):
        return
    content = read_json(path)
    decoder = content.get("decoder")
    steps = decoder.get("decoders") if isinstance(decoder, dict) else None
    if not isinstance(decoder, dict) or not isinstance(steps, list):
        return
    kept = [step for step in steps if step.get("type") != "Strip"]
    if len(kept) < len(steps):
        content["decoder"] = decoder | {"decoders": kept}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def tokenizer_warnings(path: Path, tokenizer: PreTrainedTokenizerBase | None, rows: int) -> list[str]:
    """Warnings about a tokenizer and an embedding of so many rows.

    Raises:
        SharpError: text can become a token that the embedding has no row for.
    """
    if tokenizer is None:
        return [f"{path}: has no tokenizer; text cannot be read or written with it"]
    beyond = {name: token for name, token in tokenizer.get_vocab().items() if token >= rows}
    if not beyond:
        return []
    count = f"the tokenizer has {rows + len(beyond):,} tokens, the embedding {rows:,} rows"
    # Gemma 3's text models come with a token for images that they have no row for, and never use it.
    unused = set(tokenizer.all_special_tokens) - set(re.findall(r"<[^<>\s]+>", str(tokenizer.chat_template or "")))
    if set(beyond) <= unused:
        return [f"{path}: {count}; text that holds {', '.join(sorted(beyond))} cannot be read"]
    raise SharpError(
        f"{path}: {count} (no row for {min(beyond, key=lambda name: beyond[name])!r}); use the tokenizer that belongs "
        "to these weights, or enlarge the embedding by `model.resize_token_embeddings(len(tokenizer))` and train it"
    )


def _from_json(path: Path) -> PreTrainedTokenizerBase:
    """A tokenizer.json as it is, not as the class in tokenizer_config.json would rebuild it."""
    return _without_metaspace(PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True))


def _from_gguf(path: Path) -> PreTrainedTokenizerBase:
    """What transformers builds of a GGUF's metadata, with three differences.

    transformers 5.24 adds special tokens of the class that it borrows, such as `<|endoftext|>` of GPT-2, which the file
    doesn't have and the embedding has no row for. It splits text of the kinds in `_DIGITS_APART` as GPT-2 does, and
    puts a space before SentencePiece's texts where the file says not to.
    """
    architecture, metadata, settings = get_gguf_tokenizer(str(path))
    backend, _ = convert_gguf_tokenizer(architecture, metadata)
    rows = len(metadata["tokens"])
    if backend.get_vocab_size() > rows:
        content = json.loads(backend.to_str())
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
        backend = Tokenizer.from_str(json.dumps(content))
    if metadata.get("pre_tokenizer_type") in _DIGITS_APART:
        bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_of])
    if metadata.get("add_prefix_space") is False and isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer.prepend_scheme = "never"
    return _without_metaspace(PreTrainedTokenizerFast(tokenizer_object=backend, **settings))


def _without_metaspace(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Replace a `Metaspace` pre-tokenizer, unknown to ExecuTorch's runner, by the normalizer that says the same.

    That normalizer is in Llama 2's own tokenizer.json. It puts a space before the text, as SentencePiece does, and
    before what follows a special token, as llama.cpp does.
    """
    backend = tokenizer.backend_tokenizer
    splitter = backend.pre_tokenizer
    if isinstance(splitter, pre_tokenizers.Metaspace) and not splitter.split:
        steps = [] if backend.normalizer is None else [backend.normalizer]
        if splitter.prepend_scheme != "never":
            steps.append(normalizers.Prepend(splitter.replacement))
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", splitter.replacement)])
        backend.pre_tokenizer = None
    return tokenizer


def _has_metaspace(path: Path) -> bool:
    splitter = read_json(path).get("pre_tokenizer")
    return isinstance(splitter, dict) and splitter.get("type") == "Metaspace"
