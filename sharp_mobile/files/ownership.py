"""Which directories sharp-mobile wrote, so that it may replace them.

A directory is ours if it has one of our markers with our fields in it (a web application has a manifest.json, too), and
no file that we do not write: somebody may have put notes or results next to an export.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import read_json

MERGED_JSON = "merged.json"

# The temporary names of `sharp_mobile.files.outputs`: what is being written, and what is being replaced.
LEFTOVER = re.compile(r"(.+)\.(partial|old)-[0-9a-f]{12}")

_TOKENIZER = (
    "tokenizer*.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
    "additional_chat_templates/*.jinja",
)
_MODEL = ("config.json", "generation_config.json", "model.safetensors", *_TOKENIZER)
_ANYWHERE = (".DS_Store",)  # macOS puts it wherever its file manager looks


@dataclass(frozen=True)
class Kind:
    """A kind of directory that we write.

    marker: a JSON file in it. fields: those that every version of the marker has. files: patterns of all other paths in
    the directory.
    """

    marker: str
    fields: frozenset[str]
    files: tuple[str, ...]


KINDS = (
    Kind(
        "manifest.json",
        frozenset({"name", "sha256", "recipe", "fingerprint", "plan", "tensors", "expected"}),
        (
            "model.pte",
            "report.md",
            "sizes.png",
            "perplexity.json",
            "results*.json",
            "forward.etdump",
            "packed",
            "packed/*.cache",
            *_TOKENIZER,
        ),
    ),
    Kind("sharp.json", frozenset({"format_version", "plan", "layers", "recovery"}), _MODEL),
    Kind(MERGED_JSON, frozenset({"source", "fingerprint", "plan", "recovery", "sharp_mobile"}), _MODEL),
)


def check_ours(directory: Path) -> None:
    """Refuse to replace a directory that holds anything which sharp-mobile did not write.

    Raises:
        SharpError: it does.
    """
    entries = sorted(directory.iterdir())
    if not entries:
        return
    kind = next((kind for kind in KINDS if (directory / kind.marker).is_file()), None)
    if kind is None:
        raise SharpError(
            f"{directory}: is not empty and was not written by sharp-mobile (it holds {entries[0].name}); "
            "delete it, or choose another output directory"
        )
    marker = directory / kind.marker
    missing = sorted(kind.fields - read_json(marker, remedy=f"delete {directory}, or choose another directory").keys())
    if missing:
        raise SharpError(
            f"{marker}: was not written by sharp-mobile (it has no field {missing[0]}), so its directory is not "
            "replaced; choose another output directory"
        )
    for path in sorted(directory.rglob("*")):
        if not _is_ours(path.relative_to(directory), kind):
            raise SharpError(
                f"{path}: was not written by sharp-mobile, so its directory is not replaced; "
                "move it away, or choose another output directory"
            )


def is_ours(file: Path) -> bool:
    """Whether a file has the name of one that we write into its directory, which has our marker."""
    kind = next((kind for kind in KINDS if (file.parent / kind.marker).is_file()), None)
    return kind is not None and _is_ours(Path(file.name), kind)


def _is_ours(path: Path, kind: Kind) -> bool:
    """Whether we write this path, relative to a directory of this kind."""
    for depth, part in enumerate(path.parts):
        if leftover := LEFTOVER.fullmatch(part):
            return _is_ours(Path(*path.parts[:depth], leftover[1]), kind)
    patterns = [pattern for pattern in (kind.marker, *kind.files) if pattern.count("/") == len(path.parts) - 1]
    return path.name in _ANYWHERE or any(fnmatchcase(path.as_posix(), pattern) for pattern in patterns)
