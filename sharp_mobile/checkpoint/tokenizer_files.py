"""The files of a tokenizer, by their names; read by `tokenizer`."""

from pathlib import Path

from sharp_mobile.checkpoint.gguf_file import gguf_header
from sharp_mobile.files.paths import is_regular_file

TOKENIZER_JSON, TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"
TOKENIZER_FILES = (TOKENIZER_JSON, TOKENIZER_MODEL, "vocab.json")
GGUF_TOKENS = "tokenizer.ggml.tokens"  # a GGUF file's key for them
# What belongs to them: files that decide token ids, too, and chat templates.
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
MORE_TEMPLATES = "additional_chat_templates"
# What is downloaded of them.
TOKENIZER_PATTERNS = (
    *(*TOKENIZER_FILES, *SETTINGS, "vocab.txt"),
    *("chat_template*.jinja", "chat_template.json", f"{MORE_TEMPLATES}/*.jinja"),
)


def has_tokenizer(path: Path) -> bool:
    """Whether there is a tokenizer in a Hugging Face directory, or in a GGUF file."""
    if path.suffix == ".gguf":
        return GGUF_TOKENS in gguf_header(path).metadata
    return any(is_regular_file(path / file) for file in TOKENIZER_FILES)


def tokenizer_files(directory: Path) -> list[Path]:
    """The files of a directory that decide which token ids a text has."""
    return [directory / name for name in (*TOKENIZER_FILES, *SETTINGS) if is_regular_file(directory / name)]
