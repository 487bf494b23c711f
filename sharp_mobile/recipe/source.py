"""What a user gives as the model: a packaged name, a path, a hub id, or an architecture without weights."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sharp_mobile.files.packaged import PACKAGED_MODELS

RANDOM = "random:"  # and a config.json: an architecture without weights
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = (".gguf", ".safetensors", ".bin", ".yaml")  # endings that no hub id has


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        text: what the user gave.
        allow_pickle: whether `pytorch_model.bin` may be read where there are no safetensors; a pickle can run any code.
    """

    text: str
    allow_pickle: bool = False

    @classmethod
    def of(cls, given: "Source | str | Path") -> "Source":
        """A source as it is, or of what a user gave."""
        return given if isinstance(given, Source) else cls(str(given))

    @property
    def kind(self) -> Literal["packaged", "random", "path", "hub", "nothing"]:
        """What it is, as far as this machine knows: a path comes before a hub id of the same name."""
        if self.text in PACKAGED_MODELS:
            return "packaged"
        if self.text.startswith(RANDOM):
            return "random"
        if _exists(self.path):
            return "path"
        return "hub" if _HUB_ID.fullmatch(self.text) and self.path.suffix not in _FILES else "nothing"

    @property
    def path(self) -> Path:
        """The path that the text names, or would name if it were one; of random weights that of the config.json."""
        path = Path(self.text.removeprefix(RANDOM))
        try:
            return path.expanduser()
        except RuntimeError:  # ~ of a user who does not exist
            return path

    @property
    def name(self) -> str:
        """A short name for files and reports: the packaged name, or the last part of a path or hub id."""
        path = self.path
        try:
            name = path.resolve().name
        except (OSError, RuntimeError):  # a loop of links
            name = path.name
        return name.removesuffix(".json" if self.text.startswith(RANDOM) else ".gguf")

    def __str__(self) -> str:
        return self.text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or that holds a zero byte
        return False
