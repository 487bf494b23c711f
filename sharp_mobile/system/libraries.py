"""Hide messages of other libraries that a user cannot act on.

These are deprecations of their own interfaces, missing GPU libraries, the initially empty KV cache, and each retry of a
download.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("torchao", "torch.utils._pytree", "huggingface_hub")


def silence_libraries() -> None:
    """Hide these messages for the rest of the process. Only for a program that owns the process."""
    _hide()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide these messages within the block, and restore the caller's settings at its end."""
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
