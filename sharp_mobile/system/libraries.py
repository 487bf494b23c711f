"""Remarks of other libraries that a user can do nothing about.

Deprecations of their own interfaces, GPU libraries that are not installed, a KV cache that starts empty, and each
retry of a download.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("torchao", "torch.utils._pytree", "huggingface_hub")


def silence_libraries() -> None:
    """Hide these remarks from now on, as a program may that has the process to itself."""
    _hide()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide these remarks within the block, and leave the caller's settings as they were."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        _hide()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _hide() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Mutation on a buffer in the model is detected")
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
