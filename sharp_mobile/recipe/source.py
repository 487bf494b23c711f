"""What a user gives as the model: a packaged name, a path, a hub id, or an architecture without weights."""

import re
from pathlib import Path

RANDOM = "random:"  # and a config.json: an architecture without weights
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def checkpoint_name(source: str) -> str:
    """A short name for what `open_checkpoint` takes: the packaged name, or the last part of a path or hub id."""
    path = Path(source.removeprefix(RANDOM))
    try:
        name = path.expanduser().resolve().name
    except (OSError, RuntimeError):  # an unknown user's home, a loop of links
        name = path.name
    return name.removesuffix(".json" if source.startswith(RANDOM) else ".gguf")
