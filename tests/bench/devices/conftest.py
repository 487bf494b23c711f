"""A fake Android phone on a fake adb server, and exports to bring to it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from adbutils import AdbClient
from fake_adb import FakeAdb, FakePhone
from tiny_exports import write_export

from sharp_mobile.bench.devices.android import AndroidPhone, find_android
from sharp_mobile.bench.devices.attached import Patience
from sharp_mobile.bench.exports import Export, read_export

# A bit of everything: blocks, chunks, and a rest.
PTE_BYTES = (1 << 23) + 12345
PATIENCE = Patience(poll=0.02, away=10.0, silent=5.0, stuck=20.0)


@pytest.fixture
def adb(tmp_path: Path) -> Iterator[FakeAdb]:
    server = FakeAdb(FakePhone(tmp_path / "phone"))
    yield server
    server.close()


@pytest.fixture
def on_phone(adb: FakeAdb) -> FakePhone:
    """The fake phone as its own file system shows it."""
    return adb.phones["A1B2"]


@pytest.fixture
def phone(adb: FakeAdb) -> AndroidPhone:
    """The fake phone as the driver sees it."""
    return find_android(None, PATIENCE, lambda line: None, AdbClient("127.0.0.1", adb.port))


def an_export(directory: Path, seed: int = 0, size: int = PTE_BYTES, executorch: str = "1.5.1") -> Export:
    content = random.Random(seed).randbytes(size)
    write_export(directory, content=content, tokens=(5, 6, 7), versions={"executorch": executorch})
    (directory / "tokenizer.json").write_text('{"a": "tokenizer"}')
    return read_export(directory)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """An export whose `.pte` is 8 MB of random bytes."""
    return an_export(tmp_path / "exports" / "shared")


@pytest.fixture
def another(tmp_path: Path) -> Export:
    """A smaller one."""
    return an_export(tmp_path / "exports" / "unshared", seed=1, size=100_000)
