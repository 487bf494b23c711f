"""A digest is of the whole file, and remembered only while the file stays as it is."""

import hashlib
import os
from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import fingerprint_of, remembered_sha256, sha256_of

OLD = 1_600_000_000  # a time at which no test writes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sharp_mobile" / "digests"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 5000)
    os.utime(path, (OLD, OLD))
    return path


def plain(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_byte_anywhere_changes_it(file: Path, cache: Path) -> None:
    content = bytearray(file.read_bytes())
    seen = {remembered_sha256(file)}
    for place in (0, 777_777, len(content) - 1):
        content[place] ^= 1
        file.write_bytes(content)
        assert remembered_sha256(file) == sha256_of(file) == plain(file)
        seen.add(remembered_sha256(file))
    assert len(seen) == 4


def test_a_file_that_stays_is_read_once(file: Path, cache: Path) -> None:
    assert remembered_sha256(file) == plain(file)
    (kept,) = cache.iterdir()
    kept.write_text(kept.read_text().replace(plain(file), "f" * 64))
    assert remembered_sha256(file) == "f" * 64
    os.utime(file, (OLD + 1, OLD + 1))
    assert remembered_sha256(file) == plain(file)


def test_a_file_that_was_just_written_is_not_remembered(file: Path, cache: Path) -> None:
    file.write_bytes(b"new")
    assert remembered_sha256(file) == plain(file)
    assert not cache.exists()


def test_another_file_in_its_place_is_read(file: Path, cache: Path) -> None:
    """Of the same size and time: the inode is another."""
    remembered_sha256(file)
    other = file.with_name("other")
    other.write_bytes(b"x" * file.stat().st_size)
    os.utime(other, (OLD, OLD))
    other.replace(file)
    assert remembered_sha256(file) == plain(file)


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"state": 3}', '{"sha256": 3}', "[" * 100_000])
def test_a_damaged_memory_is_forgotten(content: str, file: Path, cache: Path) -> None:
    remembered_sha256(file)
    (kept,) = cache.iterdir()
    kept.write_text(content)
    assert remembered_sha256(file) == plain(file)


def test_a_cache_that_cannot_be_written_is_done_without(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("a file")
    for place in (tmp_path / "blocked", Path("/proc"), Path("~nobody-there/x")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert remembered_sha256(file) == plain(file)


def test_what_cannot_be_read_is_a_line(tmp_path: Path, cache: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SharpError) as error:
            fingerprint_of([path])
        assert str(path) in str(error.value)
