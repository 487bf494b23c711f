"""An emulated phone with one export: every launch is a separate process, as on a phone.

    directory/ runner         a link to the program
               counter.so     a link to QEMU's plugin
               model.pte      a link to the export's
               packed.cache   XNNPACK's packed weights, which the first launch writes for later ones
               logits.bin     the logits of the last launch
               counts.json    the plugin's counts of the last launch

The program sees nothing that differs between machines: it has no environment, these names in its current directory, a
separate sysroot and fixed random bytes. So it executes the same instructions every time on every machine.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.arm64.profiles import Profile
from sharp_mobile.bench.results import InstructionCount
from sharp_mobile.bench.runner import Launch, Task, launch
from sharp_mobile.errors import SharpError
from sharp_mobile.files.fields import checked
from sharp_mobile.files.json_file import read_json

_RUNNER, _COUNTER, _MODEL = Path("runner"), Path("counter.so"), Path("model.pte")
_PACKED, _LOGITS, _COUNTS = Path("packed.cache"), Path("logits.bin"), Path("counts.json")


@dataclass(frozen=True)
class Phone:
    """An emulated phone (see the module); `emulated_phone` creates one."""

    emulator: Emulator
    profile: Profile
    directory: Path

    @property
    def packed(self) -> Path:
        """The file of XNNPACK's packed weights."""
        return self.directory / _PACKED

    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights; 0 before the first launch."""
        return self.packed.stat().st_size if self.packed.is_file() else 0

    @property
    def logits(self) -> bytes:
        """The logits of the prompt's last position in the last launch, float32."""
        return (self.directory / _LOGITS).read_bytes()

    def launch(self, task: Task) -> Launch:
        """Start the runner on one thread, with the existing packed weights.

        Raises:
            SharpError: the launch fails.
        """
        task = replace(task, threads=1, packed_cache=_PACKED, logits=_LOGITS)
        try:
            return launch(_RUNNER, _MODEL, task, self._prefix(counting=task.markers is not None))
        except SharpError as error:
            pte = (self.directory / _MODEL).resolve()
            raise SharpError(f"{pte} on the emulated {self.profile.name}: {error}") from error

    def count(self, task: Task) -> tuple[Launch, InstructionCount]:
        """Launch, and count the instructions of the task's marked part.

        Raises:
            SharpError: the launch fails, or the marked part did not run exactly once.
        """
        launched = self.launch(task)
        counts = self.directory / _COUNTS
        counted = read_json(counts, remedy="run the command again")
        regions = counted.pop("regions", 0)
        if regions != 1:
            raise SharpError(f"{task.markers}: was counted {regions} times, not once; run it once per launch")
        return launched, checked(counted, InstructionCount, counts, "run the command again")

    def _prefix(self, *, counting: bool) -> list[str]:
        sysroot = self.emulator.sysroot(self.profile)
        qemu = [self.emulator.qemu, "-L", str(sysroot), "-cpu", self.profile.qemu, "-seed", "1"]
        # A name without a directory: a comma in this machine's path would end the plugin's argument.
        plugin = ["-plugin", f"./{_COUNTER},out={_COUNTS}"] if counting else []
        return ["env", "-i", "-C", str(self.directory), *qemu, *plugin]


@contextmanager
def emulated_phone(emulator: Emulator, profile: Profile, pte: Path) -> Iterator[Phone]:
    """An emulated phone with a `.pte`, deleted with all its files when the block ends."""
    emulator.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=emulator.build, prefix="phone-") as directory:
        phone = Phone(emulator, profile, Path(directory))
        for name, file in ((_RUNNER, emulator.runner()), (_COUNTER, emulator.counter()), (_MODEL, pte.resolve())):
            (phone.directory / name).symlink_to(file)
        yield phone
