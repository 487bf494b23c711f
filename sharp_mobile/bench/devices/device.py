"""The driver's interface of a phone: write files at an offset, start an app.

    AttachedPhone ─┬─ AndroidPhone   shell commands over adb            android.py
                   └─ IosPhone       AFC and developer services         ios.py, ios_services.py

Every call raises `Disconnected` if the phone does not answer, and can then be repeated: it is harmless to write the
same bytes at the same offset twice, or to start an app that is stopped first. `patiently` repeats calls so.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from sharp_mobile.bench.results import Device
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError

APP = "dev.sharpmobile.bench"

Answer = TypeVar("Answer")


class Disconnected(SharpError):
    """The phone does not answer: the cable was pulled, or the connection closed in the middle."""


@dataclass(frozen=True)
class Patience:
    """Waiting times in seconds, and a limit of retries.

    Attributes:
        poll: between two checks of the app's status or of the attached phones.
        away: for a disconnected phone to return.
        silent: for the app's first report.
        stuck: for the app's next report.
        cuts: the most disconnections in one piece of work.
    """

    poll: float = 1.0
    away: float = 300.0
    silent: float = 60.0
    stuck: float = 3600.0
    cuts: int = 100


class AttachedPhone(ABC):
    """One attached phone; see the module.

    Attributes:
        name: the phone's name in messages.
        exports, results: the app's directories on the phone.
    """

    name: str
    exports: ClassVar[str]
    results: ClassVar[str]
    kind: ClassVar[str]

    @abstractmethod
    def attached(self) -> bool:
        """Whether the phone is connected and ready; never raises `Disconnected`."""

    @abstractmethod
    def device(self) -> Device:
        """The phone's hardware and system, and its current thermal state and battery."""

    @abstractmethod
    def prepare_app(self, package: Path | None) -> None:
        """Install the app from a package, or check that it is installed; then its directories exist.

        Raises:
            SharpError: it is not installed, or cannot be.
        """

    @abstractmethod
    def start(self, exports: Sequence[str], settings: Mapping[str, str]) -> None:
        """Stop the app and start it on exports, named by their directories, without user interaction.

        Args:
            settings: `repetitions`, `threads`, `prefill`, `decode`, `depths`, `threads_sweep`, `sustain`, `cool_down`;
                the app has defaults for missing ones.
        """

    def fix_performance(self, on: bool) -> None:
        """Switch the mode on or off that holds the clocks at a level that the phone can keep.

        Raises:
            SharpError: the phone has no such mode.
        """
        raise SharpError(f"{self.name}: has no fixed-performance mode; leave out --fixed-performance")

    @abstractmethod
    def running(self) -> bool:
        """Whether the app's process is running."""

    @abstractmethod
    def stop(self) -> None:
        """End the app."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None if it does not exist."""

    @abstractmethod
    def sha256(self, path: str) -> str:
        """SHA-256 of a file's current bytes on the phone, in hexadecimal."""

    @abstractmethod
    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write bytes at an offset, which is a multiple of a block; a missing file is created."""

    @abstractmethod
    def read(self, path: str) -> str | None:
        """The text of a small file; None if it does not exist."""

    @abstractmethod
    def list(self, directory: str) -> Sequence[str]:
        """The names in a directory; empty if it does not exist."""

    @abstractmethod
    def make_directory(self, directory: str) -> None:
        """Create a directory and its parents."""

    @abstractmethod
    def rename(self, source: str, target: str) -> None:
        """Rename a file to a name that is not in use."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file or a directory tree, if it exists."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Free bytes on the storage of the exports."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


def patiently(phone: AttachedPhone, work: Callable[[], Answer], patience: Patience) -> Answer:
    """Do some work with a phone; start it again whenever the connection broke and came back.

    Raises:
        SharpError: the work fails for another reason; the phone does not come back; the connection breaks too often.
    """
    for _ in range(patience.cuts):
        try:
            return work()
        except Disconnected as error:
            say(f"{error}; waiting for it")
            _await(phone, patience)
    raise SharpError(f"{phone.name}: the connection broke {patience.cuts} times; try another cable or port")


def _await(phone: AttachedPhone, patience: Patience) -> None:
    deadline = time.monotonic() + patience.away
    while not phone.attached():
        if time.monotonic() > deadline:
            raise SharpError(
                f"{phone.name}: did not come back within {patience.away:.0f} s; plug it in and start again"
            )
        time.sleep(patience.poll)


def choose(phones: Mapping[str, str], requested: str | None, option: str, none: str) -> str:
    """Choose one of the attached phones.

    Args:
        phones: descriptions by serial number. requested: the value of the user's `option`. none: the error if no phone
            is attached.

    Raises:
        SharpError: no phone is attached, several are, or the requested one is not.
    """
    attached = ", ".join(f"{serial} ({description})" for serial, description in phones.items())
    if not phones:
        raise SharpError(none)
    if requested is not None:
        if requested not in phones:
            raise SharpError(f"{option} {requested}: no such phone; attached: {attached}")
        return requested
    if len(phones) > 1:
        raise SharpError(f"{len(phones)} phones are attached: {attached}; choose one with {option}")
    return next(iter(phones))
