"""Check that sharp-mobile wrote a directory, so that it may replace it.

Two conditions: the directory has a marker file with our fields (a web application has a manifest.json, too), and every
file in it has a name that we write. A user may have added notes or results to an export.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import read_json

MERGED_JSON = "merged.json"

# The temporary names of `sharp_mobile.files.outputs`: the new directory, and the replaced one.
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
_ANYWHERE = (".DS_Store",)  # the macOS Finder creates it in every directory that it opens


@dataclass(frozen=True)
class Kind:
    """A kind of directory that we write.

    Attributes:
        marker: the JSON file that identifies it.
        fields: fields that every version of the marker has.
        files: patterns of all other paths in the directory.
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
    """Refuse to replace a directory that sharp-mobile did not write.

    Raises:
        SharpError: it holds a file that sharp-mobile did not write.
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
    """Whether a file is in a directory with our marker and has a name that we write there."""
    kind = next((kind for kind in KINDS if (file.parent / kind.marker).is_file()), None)
    return kind is not None and _is_ours(Path(file.name), kind)


def _is_ours(path: Path, kind: Kind) -> bool:
    """Whether we write this path, relative to a directory of this kind."""
    for depth, part in enumerate(path.parts):
        if leftover := LEFTOVER.fullmatch(part):
            return _is_ours(Path(*path.parts[:depth], leftover[1]), kind)
    patterns = [pattern for pattern in (kind.marker, *kind.files) if pattern.count("/") == len(path.parts) - 1]
    return path.name in _ANYWHERE or any(fnmatchcase(path.as_posix(), pattern) for pattern in patterns)
