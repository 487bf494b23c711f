"""What several tests only read is made once, by the first test process that asks for it, and read by the others."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

Made = TypeVar("Made")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """Return what `make` returns for an empty directory, which is the same for all processes of a test run.

    One process calls `make`; the others wait for it and get its pickled result. Tests must not change what is in the
    directory, but copy it first.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a base directory of its own, next to the others
        root = root.parent
    directory, result = root / "made-once" / name, root / "made-once" / f"{name}.pickle"
    directory.parent.mkdir(exist_ok=True)
    with FileLock(directory.with_suffix(".lock")):
        if not result.exists():
            shutil.rmtree(directory, ignore_errors=True)  # of a process that failed
            directory.mkdir()
            result.write_bytes(pickle.dumps(make(directory)))
    made: Made = pickle.loads(result.read_bytes())
    return made
