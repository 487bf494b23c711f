"""Run a process with a memory limit, like an app on a phone.

    cgroup sharp-bench-01234567, memory.max = 330 MB, no swap
      └─ the process: its anonymous memory, and every file page that it was the first to read

At the limit the kernel evicts clean file pages and reads them again on the next access: this is the cost of a model
that does not fit. If that is not enough, the kernel kills the process.

A page that another process read first counts for that process, so drop the page cache first (see `page_cache`). Pages
of the runtime's libraries, about 15 MB, stay in use and count for no process.

Control groups of version 2 or 1 are used directly if they are writable, otherwise through systemd-run.
"""

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.fields import LARGEST
from sharp_mobile.files.locks import lock_directory

_PREFIX = "sharp-bench-"
_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}

_MOST_LIMITS = 1000  # limits of one sweep; each takes seconds

# The process joins the group itself, before it allocates anything.
_JOIN = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')


def parse_bytes(text: str) -> int:
    """`330M`, `330MB`, `1G`, `1000000`: M is 2²⁰ as for docker and systemd, MB is 10⁶.

    Raises:
        SharpError: it is not a size.
    """
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?B?)", text.strip().upper())
    amount = int(match[1]) * _UNITS.get(match[2], 0) if match else 0
    if not 0 < amount <= LARGEST:
        raise SharpError(f"{text}: is not an amount of memory; write one such as 330M (2²⁰ bytes) or 330MB (10⁶)")
    return amount


def parse_sweep(text: str) -> tuple[int, ...]:
    """`100M:400M:50M` (from, to, step, with the end) or `100M,250M,1G`, in ascending order.

    Raises:
        SharpError: it is neither.
    """
    parts = text.split(":")
    if len(parts) == 1:
        return tuple(sorted({parse_bytes(part) for part in text.split(",")}))
    if len(parts) != 3:
        raise SharpError(f"{text}: is not a range of memory limits; write from:to:step, such as 100M:400M:50M")
    start, stop, step = (parse_bytes(part) for part in parts)
    if stop < start:
        raise SharpError(f"{text}: ends before it begins; write the smaller limit first")
    if (stop - start) // step >= _MOST_LIMITS:
        raise SharpError(f"{text}: has more than {_MOST_LIMITS:,} limits; write a larger step")
    return tuple(range(start, stop + 1, step))


@contextmanager
def memory_limit(limit: int | None, root: Path = _ROOT, own: Path = _OWN) -> Iterator[Sequence[str]]:
    """The prefix of a command that runs within `limit` bytes; empty without a limit.

    Raises:
        SharpError: this system cannot limit memory.
    """
    if limit is None:
        yield ()
        return
    with ExitStack() as stack:
        group, reasons = _make_group(limit, root, own, stack)
        yield _systemd_run(limit, reasons) if group is None else (*_JOIN, str(group / "cgroup.procs"))


def _make_group(limit: int, root: Path, own: Path, stack: ExitStack) -> tuple[Path | None, list[str]]:
    """A control group with this limit, removed at the end of `stack`; or the reasons why it cannot be created."""
    reasons = []
    for parent, memory, (swap, largest_swap) in _places(root, own):
        _clear_leftovers(parent)
        group = parent / f"{_PREFIX}{secrets.token_hex(4)}"
        try:
            group.mkdir()
            if (descriptor := lock_directory(group)) is not None:
                stack.callback(os.close, descriptor)
            (group / memory).write_text(str(limit))
            if (group / swap).exists():  # a kernel may be built without swap accounting
                (group / swap).write_text(largest_swap or str(limit))
            stack.callback(_remove, group)
            return group, []
        except OSError as error:
            reasons.append(f"{group}: {error.strerror}")
            if group.is_dir():
                _remove(group)
    return None, reasons or [f"{root}: has no memory controller"]


def _places(root: Path, own: Path) -> Iterator[tuple[Path, str, tuple[str, str]]]:
    """The directories that can hold a new group: for version 2 next to our own group, for version 1 inside it.

    Yields:
        The directory, the file of the memory limit, and the swap file with its value. An empty value stands for the
        limit, because version 1 limits memory and swap together.
    """
    groups = {}
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path.lstrip("/")
    if "memory" in _words(root / "cgroup.controllers"):
        parent = (root / groups[""]).parent if groups.get("") else root
        if "memory" in _words(parent / "cgroup.subtree_control") or _enable_memory(parent):
            yield parent, "memory.max", ("memory.swap.max", "0")
    for controllers, path in groups.items():
        if "memory" in controllers.split(",") and (root / "memory" / path).is_dir():
            yield root / "memory" / path, "memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", "")


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _enable_memory(parent: Path) -> bool:
    """Let groups in `parent` limit memory; False without permission."""
    try:
        (parent / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        return False
    return True


def _systemd_run(limit: int, reasons: Sequence[str]) -> Sequence[str]:
    scope = ("--scope", "--quiet", "--collect", f"--property=MemoryMax={limit}", "--property=MemorySwapMax=0")
    prefix = ("systemd-run", *(() if os.geteuid() == 0 else ("--user",)), *scope)
    if shutil.which("systemd-run") is None:
        reasons = [*reasons, "systemd-run: not installed"]
    else:
        done = subprocess.run([*prefix, "true"], capture_output=True, text=True)
        if done.returncode == 0:
            return prefix
        reasons = [*reasons, f"systemd-run: {(done.stderr.strip().splitlines() or ['fails'])[-1]}"]
    raise SharpError(
        f"a memory limit needs a control group, and this system has none to use ({'; '.join(reasons)}); "
        "run as root, or in a systemd session"
    )


def _clear_leftovers(parent: Path) -> None:
    """Remove the groups of killed benchmarks; the kernel refuses to remove a group with a process."""
    for group in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = lock_directory(group, wait=False)
            if descriptor is None:
                continue
            try:
                group.rmdir()
            finally:
                os.close(descriptor)


def _remove(group: Path) -> None:
    """Remove an empty group; the kernel may need a moment until it counts as empty."""
    for _ in range(50):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.02)
