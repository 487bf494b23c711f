"""Open the tokenizer of an export as ExecuTorch's runner does, and compare its token ids with ours.

The runner has its own tokenizer library in C++ (`pytorch_tokenizers`), which reads a part of what Hugging Face's
reads. What it refuses, or reads in another way, the app's user would see as a model that fails or talks nonsense.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from sharp_mobile.checkpoint.tokenizer_files import TOKENIZER_JSON, TOKENIZER_MODEL
from sharp_mobile.errors import SharpError, one_line
from sharp_mobile.pte.runtime import quiet_native

TEXTS = (
    "Hello, world",
    "  two  spaces, a\ttab",
    "lines\n\nand\r\nmore\n",
    "🙂 naïve e\u0301 中文",
    "def f(x):\n    return x[1] + 2.5  # half",
    "It's 1,234 o'clock",
)
_SPOKEN = "Hello, world"  # in whole characters a token, with every tokenizer that knows bytes
_REMEDY = "put the tokenizer.json or tokenizer.model that came with the original model in its place"
_MOST_SPECIAL = 64  # special tokens compared; some models have hundreds that stand for nothing


class RunnerTokenizer(NamedTuple):
    """Which file the runner is to be given, None if there is no tokenizer; and what its user should know."""

    file: str | None
    warnings: tuple[str, ...] = ()


class _Runner(Protocol):
    """A tokenizer of the runner's library."""

    def load(self, path: str) -> None: ...
    def is_loaded(self) -> bool: ...
    def encode(self, text: str, bos: int, eos: int) -> list[int]: ...
    def decode(self, token: int) -> str: ...


def open_as_runner(directory: Path, tokenizer: PreTrainedTokenizerBase | None, source: Path) -> RunnerTokenizer:
    """Open the tokenizer files of a directory with the runner's library, and compare ids on texts and special tokens.

    Args:
        tokenizer: what gives the same files' ids here; None if there are none.
        source: where the tokenizer came from, for messages.

    Raises:
        SharpError: the runner cannot open the tokenizer, or gives other ids for a text.
    """
    if tokenizer is None:
        return RunnerTokenizer(None)
    refusal = None
    for name in (TOKENIZER_JSON, TOKENIZER_MODEL):
        if (directory / name).is_file():
            try:
                return RunnerTokenizer(name, _warnings(directory / name, tokenizer, f"{source}: {name}"))
            except SharpError as error:
                refusal = refusal or error
    raise refusal or SharpError(f"{source}: it has no tokenizer file that ExecuTorch's runner opens")


def _warnings(path: Path, tokenizer: PreTrainedTokenizerBase, named: str) -> tuple[str, ...]:
    """What a user of this file in the runner should know; raises as `open_as_runner`."""
    runner = _load(path, named)
    special = tokenizer.all_special_tokens[:_MOST_SPECIAL] if path.name == TOKENIZER_JSON else []
    for text in (*TEXTS, *(f"a{token}b" for token in special)):
        if not _equal(runner, tokenizer, text):
            raise SharpError(
                f"{named}: ExecuTorch's runner gives other token ids than Hugging Face's tokenizers for {text!r}; "
                f"{_REMEDY}"
            )
    spoken = "".join(runner.decode(token) for token in runner.encode(_SPOKEN, 0, 0))
    if spoken.strip() != _SPOKEN:
        return (f"ExecuTorch's runner writes {spoken!r} for {_SPOKEN!r} with {path.name}",)
    if path.name == TOKENIZER_MODEL:
        return (
            f"ExecuTorch's runner opens {TOKENIZER_MODEL}, and reads special tokens of a text in plain letters then; "
            f"give it token ids, or add the model's {TOKENIZER_JSON}",
        )
    differing = [token for token in special if not _equal(runner, tokenizer, f"a {token} \n{token}\n b")]
    if not differing:
        return ()
    return (
        f"ExecuTorch's runner keeps spaces beside {differing[0]}, which the model's tokenizer drops; leave them out",
    )


def _load(path: Path, named: str) -> _Runner:
    reason = "it gives no reason"
    with quiet_native():
        from pytorch_tokenizers import CppHFTokenizer, CppSPTokenizer  # which logs as it is imported

        runner: _Runner = CppSPTokenizer() if path.name == TOKENIZER_MODEL else CppHFTokenizer()
        try:
            runner.load(str(path))
        except Exception as error:
            reason = one_line(error)
    if not runner.is_loaded():
        raise SharpError(f"{named}: ExecuTorch's runner cannot open it ({reason}); {_REMEDY}")
    return runner


def _equal(runner: _Runner, tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    with quiet_native():
        try:
            found = list(runner.encode(text, 0, 0))
        except Exception:
            return False
    return bool(found == tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
