"""A directory is written whole or not at all, and a wrong place is told before the work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.outputs import check_writable, replace_directory


def an_earlier_export(directory: Path) -> Path:
    directory.mkdir()
    (directory / "manifest.json").write_text("{}")
    (directory / "old").write_text("old")
    return directory


def test_a_new_directory_appears_under_its_name_and_nothing_else(tmp_path: Path) -> None:
    with replace_directory(tmp_path / "a" / "out") as partial:
        (partial / "file").write_text("new")
        assert not (tmp_path / "a" / "out").exists()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "file").read_text() == "new"


def test_an_earlier_one_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")
    with replace_directory(out) as partial:
        (partial / "manifest.json").write_text("{}")
    assert [file.name for file in out.iterdir()] == ["manifest.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_one_leaves_the_earlier_one_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    out = an_earlier_export(tmp_path / "out")

    def fail_half_way() -> None:
        with replace_directory(out) as partial:
            (partial / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert sorted(file.name for file in out.iterdir()) == ["manifest.json", "old"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_failed_last_step_puts_the_earlier_one_back(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")

    def lose_the_new_one() -> None:
        with replace_directory(out) as partial:
            partial.rmdir()  # so that it cannot be renamed

    with pytest.raises(FileNotFoundError):
        lose_the_new_one()
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["manifest.json", "old", "out"]


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")
    (tmp_path / "link").symlink_to(out)
    with replace_directory(tmp_path / "link") as partial:
        (partial / "new").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert [file.name for file in out.iterdir()] == ["new"]


def test_what_we_did_not_write_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(SharpError, match=r"photos: is not empty and was not written by sharp-mobile"):
        check_writable(tmp_path / "photos")
    (tmp_path / "photos" / "cat.jpg").unlink()
    assert check_writable(tmp_path / "photos") == tmp_path / "photos"


def test_files_and_mount_points_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SharpError, match="file: is a file; choose a directory"):
        check_writable(tmp_path / "file")
    with pytest.raises(SharpError, match="cannot be written"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(SharpError, match="is a mount point"):
        check_writable("/proc")


def test_a_place_that_takes_no_files_is_refused_even_to_root() -> None:
    with pytest.raises(SharpError, match=r"/proc/out: cannot be written: .*; choose another output directory"):
        check_writable("/proc/out")


def test_too_little_room_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"needs 1,000,000,000,000,000,000 bytes and [\d,]+ are free"):
        check_writable(tmp_path / "out", needed=10**18)


FULL_DISK = """
import resource, sys, torch
from safetensors.torch import save_file
from sharp_mobile.errors import SharpError
from sharp_mobile.outputs import replace_directory

# A process that may not write more than 1 MB a file meets the same error path as a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    with replace_directory(sys.argv[1]) as partial:
        if sys.argv[2] == "safetensors":
            save_file({"w": torch.zeros(1_000_000)}, partial / "model.safetensors")
        else:
            (partial / "model.pte").write_bytes(bytes(4_000_000))
except SharpError as error:
    print(error)
"""


@pytest.mark.parametrize("writer", ["python", "safetensors"])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_one(tmp_path: Path, writer: str) -> None:
    out = an_earlier_export(tmp_path / "out")
    command = [sys.executable, "-c", FULL_DISK, str(out), writer]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert result.stdout.startswith(f"{out}: disk full after ")
    assert result.stdout.count("\n") == 1
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["manifest.json", "old", "out"]


def test_permissions_are_those_of_a_new_directory(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with replace_directory(tmp_path / "out") as partial:
        (partial / "file").touch()
    assert os.stat(tmp_path / "out").st_mode == os.stat(tmp_path / "plain").st_mode
