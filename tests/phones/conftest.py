"""What several tests of the phones' code need."""

from pathlib import Path

import pytest
from swift_tools import IOS_BENCH, swift


@pytest.fixture(scope="session")
def core_module() -> Path:
    """The directory to import BenchCore from."""
    package = IOS_BENCH / "BenchCore"
    swift(package, "swift", "build", "-j", "1")
    return package / ".build" / "debug" / "Modules"
