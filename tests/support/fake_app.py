"""The benchmark app of a fake phone: keeps what the driver and the real apps have agreed on, and measures nothing.

    python fake_app.py PHONE start -S -W -n ACTIVITY --es export_dir A,B --es out DIRECTORY --ei repetitions 3
    SHARP_EXPORT_DIRS=A,B SHARP_OUT=DIRECTORY SHARP_REPETITIONS=3 python fake_app.py PHONE ios   (in its Documents)

Without an export it only makes its directory. What goes wrong is in PHONE/behaviour.json: `die` (killed in this
repetition), `silent` (no journal before that), `mute` (no status either), `state` (what it says instead of
its state), `fail` (the run as a whole), `results` (changes of what is measured).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.results import Device, Results, Samples, Settings, write_results
from sharp_mobile.verify.manifest import read_manifest

RUNTIME = "1.5.1"
STEP = 0.05


def measured(export: Export, /, **changes: Any) -> Results:
    """What this app would have measured."""
    common = {
        "created": "2026-01-02T03:04:05Z",
        "device": Device(kind="android", model="Pixel 8 Pro", os="Android 15", cpu="Tensor G3", cores=9),
        "export": export.identity,
        "settings": Settings(
            harness="a fake app", runtime=f"executorch {RUNTIME}", threads=1, weight_cache=True, packed_cache=False
        ),
        "forward": Samples(seconds=(0.25,)),
        "tokens": export.tokens,
    }
    return Results.model_validate({**common, **changes})


def failed(export: Export, error: str) -> Results:
    return measured(export, status="failed", error=error, forward=None, tokens=())


class Run:
    """One run over several exports."""

    def __init__(self, out: Path, behaviour: dict[str, Any], kind: str) -> None:
        self.out, self.behaviour, self.kind = out, behaviour, kind

    def status(self, state: str, progress: str | None = None, error: str | None = None) -> None:
        state = self.behaviour.get("state", state)
        partial = self.out / "status.partial"
        partial.write_text(json.dumps({"state": state, "progress": progress, "error": error}))
        partial.replace(self.out / "status.json")

    def write(self, export: Export, results: Results) -> None:
        write_results(self.out / f"results-{self.kind}-{export.directory.name}.json", results)

    def __call__(self, directories: list[Path], repetitions: int) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if self.behaviour.get("mute"):
            time.sleep(60)
        if error := self.behaviour.get("fail"):
            self.status("failed", error=error)
            return
        exports = [read_export(directory) for directory in directories]
        for repetition in range(1, repetitions + 1):
            for export in exports:
                stage = f"repetition {repetition} of {repetitions}: {export.directory.name}"
                self.status("running", stage)
                if not self.behaviour.get("silent"):
                    self.write(export, failed(export, f"the system ended the app during {stage}"))
                time.sleep(STEP)
                if self.behaviour.get("die") == repetition:
                    os.kill(os.getpid(), signal.SIGKILL)
        for export in exports:
            self.write(export, self.results(export))
        self.status("done")
        time.sleep(2 * STEP)

    def results(self, export: Export) -> Results:
        wanted = read_manifest(export.directory).versions["executorch"]
        if wanted != RUNTIME:
            return failed(export, f"{export.identity.name} is for executorch {wanted}, this app has {RUNTIME}")
        return measured(export, **self.behaviour.get("results", {}))


def extras(arguments: list[str]) -> dict[str, str]:
    """An intent's extras."""
    return {
        name: value
        for option, name, value in zip(arguments, arguments[1:], arguments[2:], strict=False)
        if option in ("--es", "--ei")
    }


def main() -> None:
    phone, given = Path(sys.argv[1]), extras(sys.argv[2:])
    behaviour = json.loads((phone / "behaviour.json").read_text())
    (phone / "extras.json").write_text(json.dumps(given))
    if "export_dir" in given:
        directories = [Path(directory) for directory in given["export_dir"].split(",")]
        Run(Path(given["out"]), behaviour, "android")(directories, int(given.get("repetitions", 3)))
    elif sys.argv[2] == "ios":
        directories = [Path("exports", name) for name in os.environ["SHARP_EXPORT_DIRS"].split(",")]
        Run(Path(os.environ["SHARP_OUT"]), behaviour, "ios")(directories, int(os.environ.get("SHARP_REPETITIONS", 3)))
    elif not behaviour.get("locked"):
        (phone / "sdcard/Android/data/dev.sharpmobile.bench/files/exports").mkdir(parents=True)


if __name__ == "__main__":
    main()
