"""A directory is written whole or not at all, and a wrong place is told before the work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import PROJECT

from sharp_mobile.errors import SharpError
from sharp_mobile.files.locks import lock_directory
from sharp_mobile.files.outputs import check_writable, create_directory, replace_directory, replace_file, replace_text
from sharp_mobile.files.ownership import KINDS

OUR_FIELDS = KINDS[0].fields


def an_earlier_export(directory: Path) -> Path:
    directory.mkdir()
    (directory / "manifest.json").write_text(json.dumps(dict.fromkeys(OUR_FIELDS)))
    (directory / "model.pte").write_text("old")
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
    assert sorted(file.name for file in out.iterdir()) == ["manifest.json", "model.pte"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_failed_last_step_puts_the_earlier_one_back(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")

    def lose_the_new_one() -> None:
        with replace_directory(out) as partial:
            partial.rmdir()  # so that it cannot be renamed

    with pytest.raises(FileNotFoundError):
        lose_the_new_one()
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["manifest.json", "model.pte", "out"]


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
from sharp_mobile.files.outputs import replace_directory

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
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    assert result.stdout.startswith(f"{out}: disk full after ")
    assert result.stdout.count("\n") == 1
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["manifest.json", "model.pte", "out"]


def test_permissions_are_those_of_a_new_directory(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with replace_directory(tmp_path / "out") as partial:
        (partial / "file").touch()
    assert os.stat(tmp_path / "out").st_mode == os.stat(tmp_path / "plain").st_mode


# An output is never the source


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("a/s", "is the source itself"),
        ("a/link", "is the source itself"),
        ("a/s/../s", "is the source itself"),
        ("a", "holds the source"),
        ("a/s/out", "is inside the source"),
        ("a/link/deep/out", "is inside the source"),
    ],
)
@pytest.mark.parametrize("given", ["a/s", "a/link"])
def test_an_output_that_is_or_holds_or_lies_in_the_source_is_refused(
    out: str, given: str, told: str, tmp_path: Path
) -> None:
    an_earlier_export_below = tmp_path / "a"
    an_earlier_export_below.mkdir()
    source = an_earlier_export(tmp_path / "a" / "s")
    (tmp_path / "a" / "link").symlink_to(source)
    with pytest.raises(SharpError, match=told) as error:
        check_writable(tmp_path / out, sources=[tmp_path / given])
    assert "choose an" in str(error.value)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a", "link", "manifest.json", "model.pte", "s"]


def test_a_directory_that_links_to_the_source_elsewhere_holds_it(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("GGUF")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "link.gguf").symlink_to(tmp_path / "model.gguf")
    with pytest.raises(SharpError, match="cache: holds the source"):
        check_writable(tmp_path / "cache", sources=[tmp_path / "cache" / "link.gguf"])


def test_next_to_a_source_file_is_a_good_place_and_the_file_is_not(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_text("GGUF")
    assert check_writable(tmp_path / "model", sources=[source]) == tmp_path / "model"
    for out, told in ((source, "is the source itself"), (tmp_path, "holds the source"), (source / "x", "is inside")):
        with pytest.raises(SharpError, match=told):
            check_writable(out, sources=[source])
    assert source.read_text() == "GGUF"


def test_a_source_on_the_hub_is_no_path(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "out", sources=["org/name", "nowhere.gguf"]) == tmp_path / "out"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(SharpError, match=r"a: is not a path|a: cannot be written"):
        check_writable(tmp_path / "a")
    with pytest.raises(SharpError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 250))


# What a process that was killed leaves

KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from sharp_mobile.files import outputs

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

target, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "between the renames":
    outputs.Path.rename, rename = (lambda self, to: die() if "partial" in self.name else rename(self, to)), Path.rename
if moment == "while the old one is deleted":
    def delete_one(directory, **_):
        next(directory.iterdir()).unlink()
        die()
    outputs.shutil.rmtree = lambda path, **_: delete_one(path) if list(path.glob("model.pte")) else None
with outputs.replace_directory(target) as partial:
    (partial / "manifest.json").write_text((target / "manifest.json").read_text())
    if moment == "half way":
        die()
"""


def killed(out: Path, moment: str) -> None:
    command = [sys.executable, "-c", KILLED, str(out), moment]
    assert subprocess.run(command, cwd=PROJECT).returncode == -9


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_what_a_killed_run_leaves_is_cleared_by_the_next(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")
    killed(out, "half way")
    assert len(names(tmp_path)) == 2
    check_writable(out)
    assert names(tmp_path) == ["out"]
    assert names(out) == ["manifest.json", "model.pte"]


def test_a_run_that_is_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")
    killed(out, "between the renames")
    assert not out.exists()
    check_writable(out)
    assert names(tmp_path) == ["out"]
    assert (out / "model.pte").read_text() == "old"


def test_a_half_deleted_directory_is_never_put_back(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")
    killed(out, "while the old one is deleted")
    assert names(out) == ["manifest.json"]  # the new one
    (out / "manifest.json").unlink()
    out.rmdir()
    check_writable(out)
    assert names(tmp_path) == []


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")
    with replace_directory(out) as partial:
        (partial / "manifest.json").write_text((out / "manifest.json").read_text())
        with replace_directory(out) as other:
            (other / "manifest.json").write_text((out / "manifest.json").read_text())
        assert partial.is_dir()
    assert names(tmp_path) == ["out"]


def test_what_is_only_named_alike_stays(tmp_path: Path) -> None:
    (tmp_path / "out.partial-0123456789ab").write_text("a file")
    for name in ("out.partial-mine", "out.partial-1234", "out2.partial-0123456789ab", "out.old-20240101"):
        (tmp_path / name).mkdir()
    before = names(tmp_path)
    check_writable(tmp_path / "out")
    replace_text(tmp_path / "text", "text")
    assert names(tmp_path) == sorted([*before, "text"])


def test_a_directory_that_a_living_process_replaces_is_not_put_back_by_another(tmp_path: Path) -> None:
    old = an_earlier_export(tmp_path / "out.old-0123456789ab")
    descriptor = lock_directory(old)
    check_writable(tmp_path / "out")
    assert names(tmp_path) == [old.name]
    assert descriptor is not None
    os.close(descriptor)
    check_writable(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_directory_that_somebody_fills_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = an_earlier_export(tmp_path / "out")

    def write_while_somebody_adds_notes() -> None:
        with replace_directory(out):
            (out / "notes.txt").write_text("mine")

    with pytest.raises(SharpError, match=r"notes\.txt: was not written by sharp-mobile"):
        write_while_somebody_adds_notes()
    assert names(out) == ["manifest.json", "model.pte", "notes.txt"]
    assert names(tmp_path) == ["out"]


def test_a_directory_with_fixed_content_stays_where_another_process_was_faster(tmp_path: Path) -> None:
    with create_directory(tmp_path / "data") as slower:
        (slower / "who").write_text("slower")
        with create_directory(tmp_path / "data") as faster:
            (faster / "who").write_text("faster")
    assert names(tmp_path) == ["data"]
    assert (tmp_path / "data" / "who").read_text() == "faster"


def test_a_file_is_replaced_whole_and_its_links_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    def fail_half_way() -> None:
        with replace_file(tmp_path / "link") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert (tmp_path / "file").read_text() == "old"
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == ["file", "link"]
    with pytest.raises(SharpError, match="is a directory; name a file"):
        replace_text(tmp_path, "new")


@pytest.mark.parametrize("moment", ["shutil.rmtree", "lock_directory"])
def test_an_interrupt_while_the_temporary_directory_comes_or_goes_leaves_none(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts = [KeyboardInterrupt()]
    real = {"shutil.rmtree": shutil.rmtree, "lock_directory": lock_directory}[moment]

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if interrupts:
            raise interrupts.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(f"sharp_mobile.files.outputs.{moment}", interrupted)
    with pytest.raises(KeyboardInterrupt), replace_directory(tmp_path / "out"):
        pass
    assert interrupts == []
    assert list(tmp_path.iterdir()) == []
