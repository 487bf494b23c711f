"""Read and run a `.pte` of unknown origin in a child process, which may crash, hang or take all memory.

The limits are far above what a sound program needs: 4 GB and four times the file's size of memory (its weights, as
packed by XNNPACK, and its cache), and for a step minutes and a tenth of a second a token and 5 MB.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from sharp_mobile.errors import SharpError
from sharp_mobile.pte.runtime import ProgramLimits, Step, open_pte
from sharp_mobile.system.child import Answer, Child, ChildError, Handler, serve
from sharp_mobile.verify.inspect import Inspection, inspect_pte

_MEMORY, _MEMORY_TIMES = 4_000_000_000, 4
_SECONDS = 120.0
_READ_BYTES_A_SECOND = 5_000_000  # hashing and parsing; reads from a slow disk
_COMPUTED_BYTES_A_SECOND = 50_000_000  # of weights, for a token


class Isolated:
    """A `.pte` in a child process of its own."""

    def __init__(self, pte: Path) -> None:
        self._pte = pte
        self._bytes = pte.stat().st_size
        memory = _MEMORY + _MEMORY_TIMES * self._bytes
        self._child = Child("sharp_mobile.verify.isolated:serve_program", memory=memory)

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.close()

    def inspect(self, names: dict[str, str]) -> Inspection:
        """As `inspect_pte`, with its errors.

        Raises:
            SharpError: also if the inspection crashes or exceeds its limits.
        """
        answer, _ = self._ask("reading", {"inspect": str(self._pte), "names": names}, self._reading_seconds())
        return Inspection.model_validate(answer)

    def load(self) -> ProgramLimits:
        """Load the program and run its constant methods, as `open_pte`.

        Raises:
            SharpError: as `open_pte`, and if loading crashes or exceeds its limits.
        """
        answer, _ = self._ask("loading", {"load": str(self._pte)}, self._reading_seconds())
        stop = answer["stop"]
        return ProgramLimits(answer["length"], answer["vocabulary"], None if stop is None else tuple(stop))

    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        """A step of the loaded program: tokens int64 [1, S] at a position → logits float32 [1, S or 1, V].

        Raises:
            SharpError: as the step of `open_pte`, and if it crashes or exceeds its limits.
        """
        seconds = _SECONDS + tokens.shape[1] * (1 + self._bytes / _COMPUTED_BYTES_A_SECOND)
        shape, data = self._ask("running", {"tokens": tokens.tolist(), "position": position}, seconds)
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.float32).reshape(shape))

    def _reading_seconds(self) -> float:
        return _SECONDS + self._bytes / _READ_BYTES_A_SECOND

    def _ask(self, doing: str, request: dict[str, Any], seconds: float) -> Answer:
        try:
            return self._child.ask(request, seconds)
        except ChildError as error:
            raise SharpError(
                f"{self._pte}: {doing} it in a separate process failed: {error}; the file may be damaged: copy or "
                "export it again"
            ) from error


def serve_program(descriptor: int, memory: int) -> None:
    """Read and run a program; what the child process runs."""
    serve(descriptor, memory, _program)


def _program() -> Handler:
    loaded: list[Step] = []

    def handle(request: dict[str, Any]) -> Answer:
        if "inspect" in request:
            return inspect_pte(request["inspect"], request["names"]).model_dump(mode="json"), b""
        if "load" in request:
            step, limits = open_pte(request["load"])
            loaded.append(step)
            return limits._asdict(), b""
        logits = loaded[-1](torch.tensor(request["tokens"]), request["position"]).float().contiguous()
        return list(logits.shape), logits.numpy().tobytes()

    return handle
