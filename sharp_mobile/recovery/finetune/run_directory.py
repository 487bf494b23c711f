"""A fine-tuning run on disk: what it is, its checkpoints, its log.

    run/
      run.json              what the run depends on; a resume with anything else is refused
      log.jsonl             a line every few steps
      checkpoint-100/       recovery parameters, optimizer, schedule, random state, and sealed.json: a digest of each
      checkpoint-200/       file, without which, or with another, a checkpoint is damaged and the one before is taken
      partial/              a checkpoint being written; renamed when it is whole
      best.safetensors      the recovery parameters of the lowest validation loss, if they are kept

A process may be killed at any moment, the moments of writing, renaming and deleting included.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from sharp_mobile.errors import SharpError
from sharp_mobile.files.json_file import read_json
from sharp_mobile.files.outputs import replace_text
from sharp_mobile.files.paths import inside

RUN_JSON = "run.json"
LOG = "log.jsonl"
SEAL = "sealed.json"
PARTIAL = "partial"
_PREFIX = "checkpoint-"


class RunDirectory:
    """The directory of a run; created by `start`."""

    def __init__(self, path: str | Path, keep: int) -> None:
        self.path = Path(path)
        self.keep = keep

    @property
    def partial(self) -> Path:
        """Where a checkpoint is written before it is sealed."""
        return self.path / PARTIAL

    def start(self, identity: Mapping[str, object]) -> None:
        """Begin a run, or make sure that the one that is here is the same.

        Raises:
            SharpError: a run with another `identity`, or something else, is here, or the directory cannot be written.
        """
        shown = json.loads(json.dumps(identity))  # as it will be read back
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.partial, ignore_errors=True)
            if (self.path / RUN_JSON).is_file():
                self._check_same(shown)
            elif any(self.path.iterdir()):
                raise SharpError(f"{self.path}: is not empty and holds no run; delete it, or choose another directory")
            else:
                replace_text(self.path / RUN_JSON, json.dumps(shown, indent=1) + "\n")
        except OSError as error:
            raise SharpError(f"{self.path}: cannot be written: {error.strerror}; choose another directory") from error

    def _check_same(self, identity: Mapping[str, object]) -> None:
        before = read_json(self.path / RUN_JSON, remedy=f"delete {self.path} to start over")
        different = [name for name in sorted({*before, *identity}) if before.get(name) != identity.get(name)]
        if different:
            changes = "; ".join(f"{name} was {before.get(name)}, now {identity.get(name)}" for name in different)
            raise SharpError(
                f"{self.path}: holds a run that cannot be resumed as this one: {changes}; "
                "set it back, choose another directory, or delete this one to start over"
            )

    def seal(self, step: int) -> None:
        """Make what is in `partial/checkpoint-<step>` the checkpoint of that step; delete those beyond `keep`."""
        written, final = self.partial / f"{_PREFIX}{step}", self._checkpoint(step)
        digests = {file.name: _digest(file) for file in sorted(written.iterdir())}
        (written / SEAL).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        written.rename(final)
        self._delete(self.steps()[: -self.keep])

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, damaged or not, ascending."""
        names = (path.name.removeprefix(_PREFIX) for path in self.path.glob(f"{_PREFIX}*"))
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,14}", name))

    def last_good(self) -> tuple[Path | None, tuple[str, ...]]:
        """The newest checkpoint that is whole, and a warning for each newer one that is not."""
        warnings: list[str] = []
        for step in reversed(self.steps()):
            checkpoint = self._checkpoint(step)
            if _is_whole(checkpoint):
                return checkpoint, tuple(warnings)
            warnings.append(f"{checkpoint} is damaged; skipping it")
        return None, tuple(warnings)

    def discard_after(self, checkpoint: Path | None) -> None:
        """Delete the damaged checkpoints after the one that a run is resumed from."""
        good = -1 if checkpoint is None else int(checkpoint.name.removeprefix(_PREFIX))
        self._delete([step for step in self.steps() if step > good])

    def _delete(self, steps: list[int]) -> None:
        # Renamed first: a half deleted checkpoint must not look like one.
        self.partial.mkdir(exist_ok=True)
        for step in steps:
            self._checkpoint(step).rename(self.partial / f"deleted-{step}")
        shutil.rmtree(self.partial, ignore_errors=True)

    def _checkpoint(self, step: int) -> Path:
        return self.path / f"{_PREFIX}{step}"


def _is_whole(checkpoint: Path) -> bool:
    try:
        digests = read_json(checkpoint / SEAL)
        files = {inside(checkpoint, name, checkpoint / SEAL): digest for name, digest in digests.items()}
        return bool(files) and all(_digest(file) == digest for file, digest in files.items())
    except (OSError, SharpError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
