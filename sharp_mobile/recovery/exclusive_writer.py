"""One run at a time makes a recovered model; others that need the same one wait for it, and take it then.

    build/recovered/m-1a2b.lock     while build/recovered/m-1a2b is made: locked, names the process

The processes of one run under `torchrun` are one maker: the first one locks for all.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sharp_mobile.files.locks import only_user
from sharp_mobile.files.outputs import check_writable
from sharp_mobile.recipe.sharp_json import SHARP_JSON, is_whole
from sharp_mobile.recovery.finetune.stage import processes


@contextmanager
def exclusive_writer(kept: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a recovered model. While another run holds it, report that run and wait.

    Args:
        kept: the directory of the model. All processes of a run call this together.

    Yields:
        Whether the model must be made, the same for all processes of a run.

    Raises:
        SharpError: the directory or its lock cannot be written.
    """
    group = processes()
    alone = group.is_main_process and not is_whole(kept)
    with only_user(kept) if alone else nullcontext():
        if alone and not is_whole(kept):
            if (kept / SHARP_JSON).is_file():
                shutil.rmtree(kept)  # damaged, and maybe not recognizable as ours any more
            check_writable(kept)
        group.wait_for_everyone()
        missing = not is_whole(kept)
        group.wait_for_everyone()  # before the first process makes it
        yield missing
