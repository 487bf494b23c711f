"""What benchmarks need of the machine."""

import os

import pytest

from sharp_mobile.bench.arm64.emulation import Emulator, find_emulator
from sharp_mobile.bench.memory_limit import memory_limit
from sharp_mobile.errors import SharpError


@pytest.fixture(scope="session")
def limits_allowed() -> None:
    """Skip where this system gives no control group."""
    try:
        with memory_limit(1 << 30):
            pass
    except SharpError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The ARM64 emulation. Without its tools a test is skipped, or fails where SHARP_MOBILE_REQUIRE_ARM64 is 1."""
    try:
        return find_emulator()
    except SharpError as error:
        if os.environ.get("SHARP_MOBILE_REQUIRE_ARM64") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
