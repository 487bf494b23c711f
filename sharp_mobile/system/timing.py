"""Time and peak memory of each step of a run."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import BaseModel

from sharp_mobile.files.fields import Count, Number, Text


class Stage(BaseModel):
    """One step of an export: wall and CPU seconds, and the process's peak resident bytes at its end."""

    name: Text
    seconds: Number
    cpu_seconds: Number
    peak_bytes: Count


@dataclass
class Stages:
    """The measurements of a run's steps."""

    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a step of this process."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.done.append(
            Stage(
                name=name,
                seconds=time.perf_counter() - wall,
                cpu_seconds=time.process_time() - cpu,
                peak_bytes=peak,
            )
        )
