"""A limit on memory is one that the kernel holds; where there is none, that is said."""

import ctypes
import ctypes.util
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from sharp_mobile.bench import page_cache
from sharp_mobile.bench.memory_limit import memory_limit, parse_bytes, parse_sweep
from sharp_mobile.errors import SharpError

_LIBC = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


def resident_bytes(path: Path) -> int:
    """How much of a file is in memory, in whole pages."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapping:
        size = len(mapping)
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(mapping)
        try:
            status = _LIBC.mincore(ctypes.byref(start), ctypes.c_size_t(size), found)
            if status:
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del start  # or the mapping cannot be closed
        return sum(page & 1 for page in found) * mmap.PAGESIZE


def test_sizes_are_read_as_docker_and_systemd_read_them() -> None:
    assert parse_bytes("330M") == 330 * 2**20
    assert parse_bytes("330mb") == 330 * 10**6
    assert [parse_bytes(text) for text in ("5", "1K", "2G", "1GB")] == [5, 1024, 2**31, 10**9]
    assert parse_sweep("100M:200M:50M") == (100 << 20, 150 << 20, 200 << 20)
    assert parse_sweep("100M:190M:50M") == (100 << 20, 150 << 20)
    assert parse_sweep("2G,100M,100M") == (100 << 20, 2 << 30)


@pytest.mark.parametrize(
    "text",
    [
        *("", "M", "0M", "-1M", "1.5G", "100MiB", "100M:200M", "200M:100M:50M", "1M:2M:0M"),
        *("9" * 5000, "999999999999999G", "²M", "1:900G:1"),
    ],
)
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(SharpError, match=r"memory|ends before it begins|more than 1,000 limits"):
        parse_sweep(text)


def holds(megabytes: int, prefix: tuple[str, ...] | list[str]) -> bool:
    """Whether a process started by `prefix` can have that much memory."""
    fill = f"block = bytearray({megabytes} << 20); print(len(block))"
    return subprocess.run([*prefix, sys.executable, "-S", "-c", fill], capture_output=True).returncode == 0


def test_the_kernel_holds_the_limit(limits_allowed: None) -> None:
    with memory_limit(60 << 20) as prefix:
        assert holds(20, list(prefix))
        assert not holds(100, list(prefix))
    if "/cgroup.procs" in prefix[-1]:
        assert not Path(prefix[-1]).parent.exists()
    with memory_limit(None) as prefix:
        assert prefix == ()


def test_a_group_of_version_2_lies_beside_our_own_and_forbids_swap(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    (root / "app.slice/ours.scope").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    (root / "app.slice/cgroup.subtree_control").write_text("memory pids\n")
    own.write_text("0::/app.slice/ours.scope\n")
    with memory_limit(1 << 20, root, own) as prefix:
        group = Path(prefix[-1]).parent
        assert group.parent == root / "app.slice"
        assert (group / "memory.max").read_text() == str(1 << 20)


@pytest.mark.slow
def test_groups_of_killed_benchmarks_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    (root / "memory" / "ours" / "sharp-bench-1234").mkdir(parents=True)
    own.write_text("4:memory:/ours\n")
    with memory_limit(1 << 20, root, own) as first, memory_limit(2 << 20, root, own) as second:
        groups = sorted(Path(prefix[-1]).parent for prefix in (first, second))
        assert len(set(groups)) == 2
        assert sorted((root / "memory" / "ours").iterdir()) == groups


def test_a_system_without_control_groups_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd-run
    told = r"this system has none to use \(.*has no memory controller; systemd-run: not installed\)"
    with pytest.raises(SharpError, match=told), memory_limit(1 << 20, tmp_path, tmp_path / "own"):
        pass


def test_pages_of_a_file_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    assert resident_bytes(path) == 1 << 20
    page_cache.drop(path)
    assert resident_bytes(path) == 0
    path.read_bytes()
    assert resident_bytes(path) == 1 << 20
