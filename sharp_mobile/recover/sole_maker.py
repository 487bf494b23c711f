"""One run at a time makes a recovered model; others that need the same one wait for it, and take it then.

    build/recovered/m-1a2b.lock     while build/recovered/m-1a2b is made: locked, and says by whom

The processes of one run under `torchrun` are one maker: the first one locks for all.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.locks import lock_file
from sharp_mobile.outputs import check_writable
from sharp_mobile.recover.finetune_stage import processes
from sharp_mobile.sharp_json import SHARP_JSON, is_whole

Say = Callable[[str], None]


@contextmanager
def sole_maker(kept: Path, say: Say) -> Iterator[bool]:
    """Keep other runs from making a recovered model; wait, and say for whom, while one does.

    Args:
        kept: the directory of the model. All processes of a run call this together.

    Yields:
        Whether the model must be made, the same for all processes of a run.

    Raises:
        SharpError: the directory or its lock cannot be written.
    """
    group = processes()
    alone = group.is_main_process and not is_whole(kept, say)
    with _locked(kept, say) if alone else nullcontext():
        group.wait_for_everyone()
        missing = not is_whole(kept, _nothing)
        group.wait_for_everyone()  # before the first process makes it
        yield missing


@contextmanager
def _locked(kept: Path, say: Say) -> Iterator[None]:
    path = kept.with_name(f"{kept.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = lock_file(path, wait=False)
        if descriptor is None:
            say(f"{kept}: {_holder(path)}; waiting until it ends")
            descriptor = lock_file(path)
    except OSError as error:
        raise SharpError(f"{path}: cannot be written: {error.strerror}; see who owns {path.parent}") from error
    assert descriptor is not None
    try:
        with suppress(OSError):  # a full disk is told by what writes the model
            _sign(descriptor)
        if (kept / SHARP_JSON).is_file() and not is_whole(kept, _nothing):
            shutil.rmtree(kept)  # damaged, and maybe not recognizable as ours any more
        check_writable(kept)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is locked, so that nobody else's goes
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode())


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} has been making it since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has only just begun, or ended
        return "another process is making it"


def _nothing(line: str) -> None:
    """What was said once is not said again."""
