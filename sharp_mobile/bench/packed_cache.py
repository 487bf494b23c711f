"""XNNPACK's packed weights on disk between launches, used only while they match their seal.

    <key>.packed   XNNPACK's file: packed weights and their index
    <key>.json     the seal: the key, the file's size and its SHA-256

    key = SHA-256(the .pte's SHA-256, the runtime's version, the CPU)

XNNPACK finds packed weights by name and checks their offset and a seed, but not their bytes: a file with a flipped bit
silently gives wrong answers. So the file is hashed and compared with its seal before every launch. A file that is
damaged, stale, incomplete or of another model is deleted, and the next launch writes a new one. XNNPACK refuses entries
that another CPU's kernels packed; it packs again and appends. So a file that a launch has changed is deleted, and the
launch is discarded.

Hashing reads the full file, at 1.5 GB/s on a server core with SHA instructions. A load only maps it, so the check takes
longer than the load. A benchmark checks outside the timed part. An app that stores the file where no other process can
write needs to check it only once, after writing it.
"""

import fcntl
import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.outputs import replace_text

Launched = TypeVar("Launched")

PACKED_CACHES = Path("build/host_bench/packed")

_CPUINFO = Path("/proc/cpuinfo")
# The fields of /proc/cpuinfo, on x86-64 and ARM, that decide which kernels XNNPACK chooses.
_CPU_FIELDS = ("model name", "flags", "CPU implementer", "CPU part", "Features")


def cpu_class(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model and instruction sets; XNNPACK packs the same for CPUs where these are equal."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    fields = {
        (name.strip(), value.strip())
        for name, colon, value in (line.partition(":") for line in text.splitlines())
        if colon and name.strip() in _CPU_FIELDS
    }
    return "; ".join(f"{name}: {value}" for name, value in sorted(fields))


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """The CPU's model name; the architecture if it has none."""
    for part in cpu_class(cpuinfo).split("; "):
        if part.startswith("model name: "):
            return part.removeprefix("model name: ")
    return platform.machine()


def cache_key(pte_sha256: str, runtime: str, cpu: str) -> str:
    """The key of the packed weights of a program, a runtime and a CPU."""
    return hashlib.sha256("\0".join((pte_sha256, runtime, cpu)).encode()).hexdigest()


class PackedCache:
    """The packed weights of one key in a directory; see the module."""

    def __init__(self, key: str, directory: Path = PACKED_CACHES) -> None:
        self.key = key
        # Shortened, because XNNPACK takes paths of at most 255 bytes; the seal has the full key.
        self.path = directory / f"{key[:16]}.packed"
        self._seal = directory / f"{key[:16]}.json"

    @contextmanager
    def in_use(self) -> Iterator["PackedCache"]:
        """Lock the file against other benchmarks.

        Raises:
            SharpError: another benchmark uses it, or the directory cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_suffix(".lock").open("w")
        except OSError as error:
            raise SharpError(f"{self.path.parent}: cannot be written: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SharpError(f"{self.path}: another benchmark is using it; wait until it ends") from error
            yield self

    def delete(self) -> None:
        """Delete the packed weights and their seal, so that the next launch packs again.

        Raises:
            SharpError: a path is not a file, or cannot be deleted.
        """
        for path in (self._seal, self.path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise SharpError(f"{path}: cannot be deleted: {error.strerror}; delete it yourself") from error

    def believed(self) -> bool:
        """Whether the file matches its seal; it is deleted if not."""
        if self.path.is_file() and self._sealed() == self._measured():
            return True
        self.delete()
        return False

    def seal(self) -> None:
        """Write the seal of the file that a launch has just written.

        Raises:
            SharpError: the launch wrote no file.
        """
        if not self.path.is_file():
            raise SharpError(f"{self.path}: XNNPACK wrote no packed weights there; is the disk full?")
        replace_text(self._seal, json.dumps(self._measured()) + "\n")

    def make(self, launch: Callable[[Path], object]) -> None:
        """Write the file again by a launch, which receives its path; if the launch fails, there is no file."""
        self.delete()
        try:
            launch(self.path)
        except BaseException:
            self.delete()
            raise
        self.seal()

    def used_by(self, launch: Callable[[Path], Launched], make: Callable[[Path], object]) -> Launched:
        """Run a launch with the sealed file; `make` packs first if there is no valid one.

        Raises:
            SharpError: two launches in a row changed the file.
        """
        for _ in range(2):
            if not self.believed():
                self.make(make)
            before = self._changes()
            result = launch(self.path)
            if self._changes() == before:
                return result
            self.delete()
        raise SharpError(f"{self.path}: XNNPACK refuses its own packed weights; run with --no-weight-cache")

    def _sealed(self) -> object:
        try:
            return read_json(self._seal)
        except SharpError:
            return None

    def _measured(self) -> dict[str, object]:
        return {"key": self.key, "bytes": self.path.stat().st_size, "sha256": sha256_of(self.path)}

    def _changes(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns
