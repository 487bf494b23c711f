"""This machine as a device: what it is, and its condition during a run."""

import os
import platform
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sharp_mobile.bench.packed_cache import cpu_name
from sharp_mobile.bench.results import Condition, Device

PERIOD = 2.0  # seconds between two conditions of a run

_CPUS = Path("/sys/devices/system/cpu")


def this_device() -> Device:
    """This machine."""
    product = Path("/sys/class/dmi/id/product_name")
    return Device(
        kind="host",
        model=product.read_text(encoding="utf-8").strip() if product.is_file() else platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        performance_cores=_performance_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def this_condition(at: float) -> Condition:
    """The present condition of this machine; `at` is in seconds since the start of the run."""
    return Condition(at=at, clocks_hz=tuple(_kilohertz("scaling_cur_freq")) or _clocks_of_cpuinfo())


class Sampler:
    """Samples conditions in a thread: at the start, then every `period` seconds, and at the end.

    The device works meanwhile, so its clocks are those of the measurement.
    """

    def __init__(self, probe: Callable[[float], Condition] = this_condition, period: float = PERIOD) -> None:
        self._probe, self._period = probe, period
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._samples: list[Condition] = []
        self._thread = threading.Thread(target=self._work, name="conditions", daemon=True)

    def __enter__(self) -> "Sampler":
        self._start = time.monotonic()
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._take()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def taken(self) -> tuple[Condition, ...]:
        """The conditions so far."""
        return tuple(self._samples)

    def _work(self) -> None:
        while not self._ended.wait(self._period):
            self._take()

    def _take(self) -> None:
        self._samples.append(self._probe(round(self.elapsed, 3)))


def _performance_cores() -> int | None:
    """The number of CPUs that are faster than the slowest kind; all of them if there is one kind."""
    clocks = _kilohertz("cpuinfo_max_freq")
    if not clocks:
        return None
    return sum(clock > min(clocks) for clock in clocks) or len(clocks)


def _kilohertz(name: str) -> list[int]:
    """A file of cpufreq for every CPU, in hertz; empty if the system has none."""
    files = sorted(_CPUS.glob(f"cpu[0-9]*/cpufreq/{name}"), key=lambda file: int(file.parts[-3][3:]))
    try:
        return [1000 * int(file.read_text(encoding="utf-8")) for file in files]
    except (OSError, ValueError):
        return []


def _clocks_of_cpuinfo() -> tuple[int, ...]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    return tuple(round(1e6 * float(clock)) for clock in re.findall(r"^cpu MHz\s*: ([0-9.]+)$", text, re.MULTILINE))
