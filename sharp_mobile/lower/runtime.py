"""Run a `.pte` on this machine, through ExecuTorch's Python runtime."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sharp_mobile.errors import SharpError

# A decoder's step: tokens int64 [1, S] and the position of the first of them → logits [1, S or 1, V].
Step = Callable[[torch.Tensor, int], torch.Tensor]


@contextmanager
def quiet_native() -> Iterator[None]:
    """Hold back what the C++ runtime writes to standard error; show it if the block fails.

    ExecuTorch 1.5.1 logs a line for every operator without a temporary allocator, and about the CPU's files.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            log.seek(max(0, log.tell() - 2000))
            os.write(saved, log.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def load_pte(path: str | Path, max_length: int | None = None) -> Step:
    """A `.pte` as a step function. More tokens than it takes at a time (`get_max_seq_len`) go in several steps.

    Args:
        path: the file.
        max_length: positions in its cache; by default the program's `get_max_context_len`.

    Raises:
        SharpError: the file cannot be loaded, or a step goes beyond its cache.
    """
    if not Path(path).is_file():
        raise SharpError(f"{path}: no such file")
    with quiet_native():
        import executorch.extension.llm.custom_ops.custom_ops
        import executorch.kernels.quantized  # noqa: F401  registers the embedding operators
        from executorch.extension.pybindings import portable_lib

        try:
            module = portable_lib._load_for_executorch(str(path))
            length = max_length or int(module.run_method("get_max_context_len", ())[0])
            chunk = length - 1
            if "get_max_seq_len" in module.method_names():
                chunk = min(chunk, int(module.run_method("get_max_seq_len", ())[0]))
        except RuntimeError as error:
            raise SharpError(f"{path}: this ExecuTorch cannot load it: {error}") from error

    def step(tokens: torch.Tensor, position: int) -> torch.Tensor:
        if position + tokens.shape[1] > length:
            raise SharpError(f"{path}: position {position + tokens.shape[1]} is beyond its cache of {length}")
        parts = []
        with quiet_native():
            for start in range(0, tokens.shape[1], chunk):
                part = tokens[:, start : start + chunk].contiguous()
                logits = module.forward((part, torch.tensor([position + start])))[0]
                parts.append(logits.reshape(1, -1, logits.shape[-1]).clone())  # other exporters leave the batch out
        last_only = parts[0].shape[1] < min(tokens.shape[1], chunk)
        return parts[-1] if last_only else torch.cat(parts, dim=1)

    return step


def whole_window(step: Step) -> Callable[[torch.Tensor], torch.Tensor]:
    """All logits [1, S, V] of tokens [1, S], from a step that may give only the last token's."""

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        first = step(tokens, 0)
        if first.shape[1] == tokens.shape[1]:
            return first
        return torch.cat([step(tokens[:, i : i + 1], i) for i in range(tokens.shape[1])], dim=1)

    return logits


def greedy(step: Step, prompt: list[int], count: int, stop: list[int]) -> list[int]:
    """The `count` likeliest tokens after a prompt, one after the other; fewer if one of `stop` comes."""
    logits = step(torch.tensor([prompt]), 0)
    generated: list[int] = []
    while len(generated) < count:
        token = int(logits[0, -1].argmax())
        generated.append(token)
        if token in stop:
            break
        logits = step(torch.tensor([[token]]), len(prompt) + len(generated) - 1)
    return generated
