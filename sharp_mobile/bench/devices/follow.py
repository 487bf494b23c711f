"""Follow the app while it runs, through its status file.

    results/status.json   {"state": "running", "progress": "repetition 2 of 5: smollm2-135m", "error": null}

    running, the process lives   look again
    running, the process gone    the system ended the app; it has no chance to say so itself
    done, failed                 the end

The app runs by itself: a cable that is pulled in the middle interrupts nothing but the looking.
"""

import time
from functools import partial
from typing import Literal

from pydantic import BaseModel, ValidationError

from sharp_mobile.bench.devices.device import AttachedPhone, Patience, patiently
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.files.fields import Text

STATUS_JSON = "status.json"


class Status(BaseModel):
    """What the app says of itself; `error` of a run that could not be done at all."""

    state: Literal["running", "done", "failed"]
    progress: Text | None = None
    error: Text | None = None


def follow(phone: AttachedPhone, patience: Patience) -> str | None:
    """Wait for the end of a run that was started.

    Returns:
        None if the app came to its end; what is to be said if the system ended it.

    Raises:
        SharpError: the run could not be done; the app says nothing; or the phone stays away.
    """
    told, since = None, time.monotonic()
    while True:
        status, lives = patiently(phone, partial(_look, phone), patience)
        if status is not None and status.state == "failed":
            raise SharpError(f"{phone.name}: {status.error or 'the app failed and gives no reason'}")
        if status is not None and status.state == "done":
            return None
        progress = None if status is None else status.progress
        if not lives:
            return (
                f"the system ended the app{f' during {progress}' if progress else ''}, most likely for lack of memory"
            )
        if progress is not None and progress != told:
            say(progress)
            told, since = progress, time.monotonic()
        _check_silence(phone, time.monotonic() - since, patience, spoken=status is not None)
        time.sleep(patience.poll)


def _look(phone: AttachedPhone) -> tuple[Status | None, bool]:
    """The status, and whether the process lives: asked before, for an app may say that it is done and end at once."""
    lives = phone.running()
    return _status(phone), lives


def _status(phone: AttachedPhone) -> Status | None:
    text = phone.read(f"{phone.results}/{STATUS_JSON}")
    if text is None:
        return None
    try:
        return Status.model_validate_json(text)
    except ValidationError as error:
        raise SharpError(
            f"{phone.name}: the app's {STATUS_JSON} is not of this sharp-mobile version; install its app"
        ) from error


def _check_silence(phone: AttachedPhone, seconds: float, patience: Patience, *, spoken: bool) -> None:
    if not spoken and seconds > patience.silent:
        raise SharpError(f"{phone.name}: the app reports nothing; unlock the phone and look at its screen")
    if seconds > patience.stuck:
        raise SharpError(
            f"{phone.name}: the app has reported nothing new for {patience.stuck:.0f} s; end it and start again"
        )
