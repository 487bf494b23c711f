"""XNNPACK's packed weights on disk between launches, believed only while they are what a launch of ours left.

    <key>.packed   what XNNPACK wrote: packed weights, and an index of them
    <key>.json     its seal: the key, the file's size and its SHA-256

    key = SHA-256(the .pte's SHA-256, the runtime's version, the CPU)

XNNPACK finds packed weights by the name of what was packed, and looks at their place in the file and a seed, not at
their bytes: a file with a flipped bit answers wrongly, without a word. So before every launch the file is hashed and
held against its seal; one that is damaged, stale, half made or another model's is deleted, and the next launch makes a
new one. XNNPACK refuses entries that were packed by another CPU's kernels, packs anew and appends: a file that a
launch has changed is thrown away too, and so is that launch.

Hashing reads the whole file, 1.5 GB/s on a server core with SHA instructions; a load maps it and reads nothing, so the
check takes longer than the load that it guards. A benchmark does it outside what it times. An app that keeps the file
where nobody else can write may check it once, after it was made.
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
# What /proc/cpuinfo calls the parts that decide which kernels XNNPACK chooses, on x86-64 and on ARM.
_CPU_FIELDS = ("model name", "flags", "CPU implementer", "CPU part", "Features")


def cpu_class(cpuinfo: Path = _CPUINFO) -> str:
    """What two CPUs have in common if XNNPACK packs alike for them: model and instruction sets."""
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
    """The CPU as it is called; the architecture where it has no name."""
    for part in cpu_class(cpuinfo).split("; "):
        if part.startswith("model name: "):
            return part.removeprefix("model name: ")
    return platform.machine()


def cache_key(pte_sha256: str, runtime: str, cpu: str) -> str:
    """The name under which packed weights of a program, a runtime and a CPU are kept."""
    return hashlib.sha256("\0".join((pte_sha256, runtime, cpu)).encode()).hexdigest()


class PackedCache:
    """The packed weights of one key in a directory; see the module."""

    def __init__(self, key: str, directory: Path = PACKED_CACHES) -> None:
        self.key = key
        # Shortened, because XNNPACK takes paths of 255 bytes at most; the seal holds the whole key.
        self.path = directory / f"{key[:16]}.packed"
        self._seal = directory / f"{key[:16]}.json"

    @contextmanager
    def in_use(self) -> Iterator["PackedCache"]:
        """Keep other benchmarks from the file.

        Raises:
            SharpError: one is using it, or the directory cannot be written.
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
        """Have the next launch pack anew.

        Raises:
            SharpError: something that is no file is in the place of one, or it cannot be deleted.
        """
        for path in (self._seal, self.path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise SharpError(f"{path}: cannot be deleted: {error.strerror}; delete it yourself") from error

    def believed(self) -> bool:
        """Whether the file is what its seal says; deletes it if not."""
        if self.path.is_file() and self._sealed() == self._measured():
            return True
        self.delete()
        return False

    def seal(self) -> None:
        """Vouch for what a launch has just written.

        Raises:
            SharpError: it has written nothing.
        """
        if not self.path.is_file():
            raise SharpError(f"{self.path}: XNNPACK wrote no packed weights there; is the disk full?")
        replace_text(self._seal, json.dumps(self._measured()) + "\n")

    def make(self, launch: Callable[[Path], object]) -> None:
        """Make the file anew by a launch that is given its path; a launch that fails leaves none."""
        self.delete()
        try:
            launch(self.path)
        except BaseException:
            self.delete()
            raise
        self.seal()

    def used_by(self, launch: Callable[[Path], Launched], make: Callable[[Path], object]) -> Launched:
        """Run a launch with the file as it was sealed, having `make` pack first where that is needed.

        Raises:
            SharpError: launches change the file again and again.
        """
        for _ in range(2):
            if not self.believed():
                self.make(make)
            before = self._changes()
            result = launch(self.path)
            if self._changes() == before:
                return result
            self.delete()
        raise SharpError(f"{self.path}: XNNPACK refuses what it has packed itself; run with --no-weight-cache")

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
