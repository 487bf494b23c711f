"""Run a `.pte` of unknown origin in a child process (see `isolated`); a step may take a tenth of a second a token and
5 MB beyond the minutes of every request.
"""

from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from sharp_mobile.pte.runtime import ProgramLimits, Step, open_pte
from sharp_mobile.system.child import Answer, Handler, serve
from sharp_mobile.verify.isolated import SECONDS, Isolated

_COMPUTED_BYTES_A_SECOND = 50_000_000  # of weights, for a token
_LIMITS, _SHAPE = TypeAdapter(ProgramLimits), TypeAdapter(list[int])


class IsolatedProgram(Isolated):
    """A program in a separate process."""

    def __init__(self, pte: Path) -> None:
        super().__init__(pte, f"{__name__}:serve_program")

    def load(self) -> ProgramLimits:
        """Load the program and run its constant methods, as `open_pte`.

        Raises:
            SharpError: as `open_pte`, and if loading crashes or exceeds its limits.
        """
        answer, _ = self.ask("loading", {"load": str(self._pte)}, self.reading_seconds())
        return _LIMITS.validate_python(answer)

    def step(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        """A step of the loaded program: tokens int64 [1, S] at a position → logits float32 [1, S or 1, V].

        Raises:
            SharpError: as the step of `open_pte`, and if it crashes or exceeds its limits.
        """
        seconds = SECONDS + tokens.shape[1] * (1 + self._bytes / _COMPUTED_BYTES_A_SECOND)
        shape, data = self.ask("running", {"tokens": tokens.tolist(), "position": position}, seconds)
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.float32).reshape(_SHAPE.validate_python(shape)))


def serve_program(descriptor: int, memory: int) -> None:
    """Load and run a program; what the child process runs."""
    serve(descriptor, memory, _program)


def _program() -> Handler:
    loaded: list[Step] = []

    def handle(request: dict[str, object]) -> Answer:
        match request:
            case {"load": str(path)}:
                step, limits = open_pte(path)
                loaded.append(step)
                return limits._asdict(), b""
            case {"tokens": list(tokens), "position": int(position)}:
                logits = loaded[-1](torch.tensor(tokens), position).float().contiguous()
                return list(logits.shape), logits.numpy().tobytes()
        raise ValueError("neither a program to load nor a step of one")

    return handle
