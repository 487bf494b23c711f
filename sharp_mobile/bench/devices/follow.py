"""Follow the app while it runs, through its status file.

    results/status.json   {"state": "running", "progress": "repetition 2 of 5: smollm2-135m", "error": null}

    running, process running     check again
    running, process gone        the system ended the app, which could not report it
    done, failed                 the end

The app runs on its own: unplugging the cable interrupts only these checks.
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
    """The app's status; `error` is set if the run could not start."""

    state: Literal["running", "done", "failed"]
    progress: Text | None = None
    error: Text | None = None


def follow(phone: AttachedPhone, patience: Patience) -> str | None:
    """Wait for the end of a run.

    Returns:
        None if the app finished; an error text if the system ended the app.

    Raises:
        SharpError: the run could not start; the app reports nothing; or the phone does not come back.
    """
    reported, since = None, time.monotonic()
    while True:
        status, running = patiently(phone, partial(_poll, phone), patience)
        if status is not None and status.state == "failed":
            raise SharpError(f"{phone.name}: {status.error or 'the app failed and gives no reason'}")
        if status is not None and status.state == "done":
            return None
        progress = None if status is None else status.progress
        if not running:
            return (
                f"the system ended the app{f' during {progress}' if progress else ''}, most likely for lack of memory"
            )
        if progress is not None and progress != reported:
            say(progress)
            reported, since = progress, time.monotonic()
        _check_silence(phone, time.monotonic() - since, patience, has_status=status is not None)
        time.sleep(patience.poll)


def _poll(phone: AttachedPhone) -> tuple[Status | None, bool]:
    """The status, and whether the process runs: checked first, because an app may report its end and exit at once."""
    running = phone.running()
    return _status(phone), running


def _status(phone: AttachedPhone) -> Status | None:
    text = phone.read(f"{phone.results}/{STATUS_JSON}")
    if text is None:
        return None
    try:
        return Status.model_validate_json(text)
    except ValidationError as error:
        raise SharpError(
            f"{phone.name}: the app's {STATUS_JSON} is from another sharp-mobile version; install this version's app"
        ) from error


def _check_silence(phone: AttachedPhone, seconds: float, patience: Patience, *, has_status: bool) -> None:
    if not has_status and seconds > patience.silent:
        raise SharpError(f"{phone.name}: the app reports nothing; unlock the phone and look at its screen")
    if seconds > patience.stuck:
        raise SharpError(
            f"{phone.name}: the app has reported nothing new for {patience.stuck:.0f} s; end it and start again"
        )
