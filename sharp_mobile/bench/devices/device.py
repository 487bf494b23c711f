"""A phone as the driver sees it: files that are written at an offset, and an app that is started.

    AttachedPhone ─┬─ AndroidPhone   shell commands over adb            android.py
                   └─ IosPhone       AFC and developer services         ios.py, ios_services.py

Every call says `Disconnected` when the phone does not answer, and may be made again then: writing the same bytes at the
same place twice, or starting an app that is stopped first, changes nothing. `patiently` does just that.
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

# As the systems call the states in which they slow the processor down.
_THROTTLED = ("moderate", "severe", "critical", "emergency", "shutdown", "serious")
Answer = TypeVar("Answer")


class Disconnected(SharpError):
    """The phone does not answer: the cable was pulled, or the connection closed in the middle."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds, and how often to begin again.

    poll: between two looks at the app's status or at who is attached. away: for a phone that was attached. silent: for
    the app's first word. stuck: for its next one. cuts: of the connection, in one piece of work.
    """

    poll: float = 1.0
    away: float = 300.0
    silent: float = 60.0
    stuck: float = 3600.0
    cuts: int = 100


class AttachedPhone(ABC):
    """One attached phone; see the module.

    name: for people. exports, results: directories of the app on the phone, as the driver names them.
    """

    name: str
    exports: ClassVar[str]
    results: ClassVar[str]
    kind: ClassVar[str]

    @abstractmethod
    def attached(self) -> bool:
        """Whether it can be spoken to now; never `Disconnected`."""

    @abstractmethod
    def device(self) -> Device:
        """What it is, and its thermal state and battery at this moment."""

    @abstractmethod
    def prepare_app(self, package: Path | None) -> None:
        """Install the app from a package, or see that it is there; its directories exist afterwards.

        Raises:
            SharpError: it is not there, or cannot be installed.
        """

    @abstractmethod
    def start(self, exports: Sequence[str], settings: Mapping[str, int]) -> None:
        """Stop the app and start it on exports, by the names of their directories, without hands.

        Args:
            settings: of `repetitions`, `threads`, `prefill`, `decode`, those that the app shall not choose itself.
        """

    @abstractmethod
    def running(self) -> bool:
        """Whether the app's process lives."""

    @abstractmethod
    def stop(self) -> None:
        """End the app."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""

    @abstractmethod
    def sha256(self, path: str) -> str:
        """SHA-256 of a file's bytes as the phone has them now, in hexadecimal."""

    @abstractmethod
    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write bytes at an offset, a multiple of a block; the file is made where there is none."""

    @abstractmethod
    def read(self, path: str) -> str | None:
        """A small file's text; None where there is none."""

    @abstractmethod
    def list(self, directory: str) -> Sequence[str]:
        """Names in a directory; none where there is no directory."""

    @abstractmethod
    def make_directory(self, directory: str) -> None:
        """Make a directory and those above it."""

    @abstractmethod
    def rename(self, source: str, target: str) -> None:
        """Give a file another name, which no file has."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file, or a directory with all in it, if there is one."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Free bytes where the exports are."""

    @abstractmethod
    def close(self) -> None:
        """End all connections."""


def throttled(thermal: str | None) -> bool:
    """Whether a thermal state is one in which the processor is slowed down; an unknown state is not."""
    return thermal in _THROTTLED


def patiently(phone: AttachedPhone, work: Callable[[], Answer], patience: Patience) -> Answer:
    """Do some work with a phone, from its beginning again whenever the connection breaks and has come back.

    Raises:
        SharpError: the work fails otherwise; the phone stays away; or the connection breaks again and again.
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


def choose(found: Mapping[str, str], wanted: str | None, option: str, none: str) -> str:
    """The phone to use, of those that are attached.

    Args:
        found: descriptions by serial number. wanted: the number that the user gave, by `option`. none: what to say
            where nothing is attached.

    Raises:
        SharpError: none, several, or not the wanted one.
    """
    attached = ", ".join(f"{serial} ({description})" for serial, description in found.items())
    if not found:
        raise SharpError(none)
    if wanted is not None:
        if wanted not in found:
            raise SharpError(f"{option} {wanted}: no such phone; attached: {attached}")
        return wanted
    if len(found) > 1:
        raise SharpError(f"{len(found)} phones are attached: {attached}; choose one by {option}")
    return next(iter(found))
