"""A fake Android phone on a fake adb server, and exports to bring to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from adbutils import AdbClient
from fake_adb import FakeAdb, FakePhone
from tiny_phones import PATIENCE, an_export

from sharp_mobile.bench.devices.android import AndroidPhone, find_android
from sharp_mobile.bench.exports import Export


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
    return find_android(None, PATIENCE, AdbClient("127.0.0.1", adb.port))


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """An export whose `.pte` is 8 MB of random bytes."""
    return an_export(tmp_path / "exports" / "shared")


@pytest.fixture
def another(tmp_path: Path) -> Export:
    """A smaller one."""
    return an_export(tmp_path / "exports" / "unshared", seed=1, size=100_000)
