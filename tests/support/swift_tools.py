"""Swift, where there is one: the machine's, or the one that `make phone-tools-swift` puts into build/phones/swift."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from project import PROJECT

IOS_BENCH = PROJECT / "ios_bench"


def swift(package: Path, *arguments: str) -> str:
    """Run a command of Swift's toolchain in a directory; what it prints.

    Without Swift the test is skipped, or fails where SHARP_MOBILE_REQUIRE_SWIFT is 1; it fails if the command does.
    """
    done = subprocess.run([*_prefix(), *arguments], cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program that Swift has built, where its libraries are."""
    return subprocess.run([*_prefix(), *map(str, command)], cwd=PROJECT, capture_output=True, text=True)


@cache
def _installed() -> bool:
    """Whether Swift is in build/phones, and this machine lets us change into its directory: containers may not."""
    if not (PROJECT / "build/phones/swift/installed").exists() or os.geteuid() != 0:
        return False
    return subprocess.run([IOS_BENCH / "swift-on-linux", "true"], capture_output=True).returncode == 0


def _prefix() -> list[str]:
    if shutil.which("swift"):
        return []
    if _installed():
        return [str(IOS_BENCH / "swift-on-linux")]
    problem = "NO SWIFT: nothing of ios_bench was compiled; run make phone-tools-swift as root, or install swift"
    if os.environ.get("SHARP_MOBILE_REQUIRE_SWIFT") == "1":
        pytest.fail(problem)
    pytest.skip(problem)
