"""Run a `.pte` on this machine, through ExecuTorch's Python runtime."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from sharp_mobile.errors import SharpError, one_line
from sharp_mobile.pte.package import executorch_package

_METADATA = ("get_max_context_len", "get_max_seq_len", "get_vocab_size", "get_eos_ids", "get_eos_id")

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


class ProgramLimits(NamedTuple):
    """What a program says of itself by its constant methods.

    length: positions in its cache. vocabulary: number of token ids that it knows, None if it does not say.
    stop: tokens that end a text, None if it does not say.
    """

    length: int
    vocabulary: int | None
    stop: tuple[int, ...] | None


def load_pte(path: str | Path, max_length: int | None = None) -> Step:
    """A `.pte` as a step function. More tokens than it takes at a time (`get_max_seq_len`) go in several steps.

    Args:
        path: the file.
        max_length: positions in its cache; by default what the program says.

    Raises:
        SharpError: the file cannot be loaded, or a step goes beyond its cache.
    """
    return open_pte(path, max_length)[0]


def open_pte(path: str | Path, max_length: int | None = None) -> tuple[Step, ProgramLimits]:
    """A `.pte` as a step function, as `load_pte`, and what it says of itself.

    Raises:
        SharpError: the file cannot be loaded, does not say how long its cache is, or a step fails.
    """
    if not Path(path).is_file():
        raise SharpError(f"{path}: no such file")
    with quiet_native():
        # Not `portable_lib` and `custom_ops`: these import ExecuTorch's and PyTorch's compilers first, which takes four
        # seconds in every process and has no part in running a program.
        import executorch.kernels.quantized  # noqa: F401  registers the embedding operators
        from executorch.extension.pybindings import _C

        torch.ops.load_library(_attention_library())
        try:
            module = _C._load_for_executorch(str(path))
            said = {name: module.run_method(name, ()) for name in _METADATA if name in module.method_names()}
        except (RuntimeError, ValueError) as error:  # ValueError: a method's name that is no UTF-8
            raise SharpError(f"{path}: this ExecuTorch cannot load it: {one_line(error)}; export it again") from error
    limits = _limits(path, said, max_length)
    chunk = limits.length - 1
    if "get_max_seq_len" in said:
        chunk = min(chunk, _positive(path, "get_max_seq_len", said))

    def run(tokens: torch.Tensor, position: int) -> torch.Tensor:
        try:
            logits: torch.Tensor = module.forward((tokens, torch.tensor([position])))[0]
            return logits.reshape(1, -1, logits.shape[-1]).clone()  # other exporters leave the batch out
        except (
            RuntimeError,
            ValueError,
            IndexError,
            AttributeError,
        ) as error:  # it fails, or gives nothing, or no tensor
            raise SharpError(
                f"{path}: running {tokens.shape[1]} tokens at position {position} failed: {one_line(error)}; "
                "export it again"
            ) from error

    def step(tokens: torch.Tensor, position: int) -> torch.Tensor:
        end = position + tokens.shape[1]
        if end > limits.length:
            raise SharpError(f"{path}: position {end} is beyond its cache of {limits.length}")
        if tokens.shape[1] == 0:
            raise SharpError(f"{path}: has no tokens to read; give it one or more")
        with quiet_native():
            parts = [
                run(tokens[:, start : start + chunk].contiguous(), position + start)
                for start in range(0, tokens.shape[1], chunk)
            ]
        last_only = parts[0].shape[1] < min(tokens.shape[1], chunk)
        return parts[-1] if last_only else torch.cat(parts, dim=1)

    return step, limits


def _attention_library() -> Path:
    """The kernels of `llama::custom_sdpa` and its cache."""
    directory = executorch_package()[0] / "extension/llm/custom_ops"
    libraries = list(directory.glob("*custom_ops_aot_lib.*"))
    if len(libraries) != 1:
        raise SharpError(f"{directory}: has {len(libraries)} libraries of operators, not one; install executorch again")
    return libraries[0]


def _limits(path: str | Path, said: Mapping[str, Sequence[object]], max_length: int | None) -> ProgramLimits:
    if max_length is None:
        # Programs of other exporters give the one or the other.
        name = next((name for name in ("get_max_context_len", "get_max_seq_len") if name in said), None)
        if name is None:
            raise SharpError(
                f"{path}: does not say how many tokens it takes (get_max_context_len or get_max_seq_len); export it "
                "again with this metadata"
            )
        max_length = _positive(path, name, said)
    if max_length < 2:
        raise SharpError(f"{path}: has a cache of {max_length} positions; export it again with 2 or more")
    stop = said.get("get_eos_ids", said.get("get_eos_id"))
    return ProgramLimits(
        length=max_length,
        vocabulary=_positive(path, "get_vocab_size", said) if "get_vocab_size" in said else None,
        stop=None if stop is None else tuple(token for token in stop if type(token) is int),
    )


def _positive(path: str | Path, name: str, said: Mapping[str, Sequence[object]]) -> int:
    values = said[name]
    value = values[0] if len(values) == 1 else None
    if type(value) is not int or value < 1:
        raise SharpError(f"{path}: {name} gives {str(values)[:50]}, not a positive number; export it again")
    return value


def whole_window(step: Step) -> Callable[[torch.Tensor], torch.Tensor]:
    """All logits [1, S, V] of tokens [1, S], from a step that may give only the last token's."""

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        first = step(tokens, 0)
        if first.shape[1] == tokens.shape[1]:
            return first
        return torch.cat([step(tokens[:, i : i + 1], i) for i in range(tokens.shape[1])], dim=1)

    return logits


def greedy(step: Step, prompt: list[int], count: int, stop: Sequence[int]) -> list[int]:
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
