"""SHA-256 of files, cached until a file changes.

The user's cache directory stores a digest under the file's path, with the file's size, change times, inode and device.
If any of these differs, the file is read again. The digest of a file that changed in the last seconds is not cached,
because two changes may have the same time.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sharp_mobile.files.json_file import fields_of
from sharp_mobile.files.paths import reading

_BLOCK = 1 << 22
_SETTLED_SECONDS = 3.0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. It reads in blocks, so the file may be larger than memory.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _digest(file)


def remembered_sha256(path: Path) -> str:
    """`sha256_of`, from the cache if the file is unchanged.

    Raises:
        SharpError: the file cannot be read.
    """
    with reading(path) as file:
        state = _state(os.fstat(file.fileno()))
        entry = _cache() / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.json"
        known = fields_of(entry)
        if known.get("state") == state and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
        digest = _digest(file)
        if _state(os.fstat(file.fileno())) == state and time.time() - state[1] / 1e9 > _SETTLED_SECONDS:
            _write(entry, {"state": state, "sha256": digest})
    return digest


def fingerprint_of(files: list[Path]) -> str:
    """A fingerprint of the contents of files, in this order: 16 hexadecimal digits.

    Raises:
        SharpError: one of them cannot be read.
    """
    digests = "".join(remembered_sha256(file) for file in files)
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _state(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    with suppress(RuntimeError):  # no home directory
        return Path(base).expanduser() / "sharp_mobile" / "digests"
    return Path("/nonexistent")


def _write(path: Path, content: dict[str, object]) -> None:
    """Cache a digest. Without disk space or permission nothing is cached, and the next call reads the file again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.urandom(4).hex()}")
        partial.write_text(json.dumps(content))
        partial.replace(path)
