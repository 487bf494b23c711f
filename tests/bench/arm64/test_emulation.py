import dataclasses
import os
from pathlib import Path

import pytest

from sharp_mobile.bench.arm64 import emulation
from sharp_mobile.bench.arm64.emulation import Emulator, fetch_wheel, find_emulator
from sharp_mobile.bench.arm64.profiles import read_profile
from sharp_mobile.errors import SharpError


def test_a_missing_tool_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cc").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SharpError) as error:
        find_emulator()
    assert str(error.value).startswith("qemu-aarch64, aarch64-linux-gnu-g++ not found; run sudo apt-get install ")
    assert "install qemu-user g++-aarch64-linux-gnu, or in a checkout make arm64-tools" in str(error.value)


def test_a_missing_wheel_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("qemu-aarch64", "aarch64-linux-gnu-g++", "cc"):
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(emulation, "BUILD", tmp_path / "build")
    with pytest.raises(SharpError, match=r"are missing; run python -m sharp_mobile\.bench\.arm64\.emulation"):
        find_emulator()


@pytest.mark.parametrize(("version", "options"), [("10.0.13", "-plugin"), ("7.2.22", "-strace")])
def test_a_qemu_that_cannot_count_is_told(
    version: str, options: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    qemu = tmp_path / "qemu-aarch64"
    qemu.write_text(f"#!/bin/sh\necho qemu-aarch64 version {version} {options}\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SharpError, match=r"counting needs one with plugins and not newer than 8\.2"):
        find_emulator()


def test_a_wheel_that_cannot_be_had_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(emulation, "BUILD", tmp_path / "build")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(SharpError, match=r"pip cannot download executorch .* for aarch64: .*executorch"):
        fetch_wheel()
    assert list((tmp_path / "build").iterdir()) == []


def test_the_counter_is_made_again_when_its_source_has_changed(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "counter.c"
    monkeypatch.setattr(emulation, "COUNTER", source)
    source.write_text("int one;")
    here = dataclasses.replace(emulator, build=tmp_path / "build")
    first = here.counter().stat().st_ino
    assert here.counter().stat().st_ino == first
    source.write_text("int two;")
    assert here.counter().stat().st_ino != first
    source.write_text("int;;)")
    with pytest.raises(SharpError, match=r"counter\.c: cc cannot compile it: .*error"):
        here.counter()
    assert sorted(os.listdir(here.build)) == ["counter.key", "counter.so"]


def test_a_sysroot_has_the_libraries_and_the_phone(emulator: Emulator, tmp_path: Path) -> None:
    here = dataclasses.replace(emulator, build=tmp_path)
    root = here.sysroot(read_profile("pixel-6"))
    assert (root / "lib" / "libc.so.6").is_file()
    assert (root / "executorch" / "lib" / "libexecutorch.so").is_file()
    assert (root / "proc" / "cpuinfo").read_text() == read_profile("pixel-6").files()["proc/cpuinfo"]
    assert here.sysroot(read_profile("pixel-6")) == root
    assert len(list(root.parent.iterdir())) == 1
