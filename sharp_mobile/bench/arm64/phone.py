"""An emulated phone with one export on it: every launch is a process of its own, as on a phone.

    directory/ runner         the program, and counter.so, QEMU's plugin, by links
               model.pte      the export's, by a link
               packed.cache   XNNPACK's packed weights, which the first launch leaves for later ones
               logits.bin     of the latest launch, and counts.json what the plugin counted in it

The program is given nothing that differs between machines: no environment, these names in its current directory, a
sysroot of its own, fixed random bytes. So it executes the same instructions every time and everywhere.
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
    """See the module; `emulated_phone` makes one."""

    emulator: Emulator
    profile: Profile
    directory: Path

    @property
    def packed(self) -> Path:
        """Where XNNPACK keeps its packed weights."""
        return self.directory / _PACKED

    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights; 0 where there are none yet."""
        return self.packed.stat().st_size if self.packed.is_file() else 0

    @property
    def logits(self) -> bytes:
        """Of the prompt's last position in the latest launch, float32."""
        return (self.directory / _LOGITS).read_bytes()

    def launch(self, task: Task) -> Launch:
        """Start the runner on one thread, with the packed weights that are there.

        Raises:
            SharpError: it fails.
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
            SharpError: it fails.
        """
        launched = self.launch(task)
        counts = self.directory / _COUNTS
        counted = read_json(counts, remedy="run the command again")
        regions = counted.pop("regions", 0)
        if regions != 1:
            raise SharpError(f"{task.markers}: was counted {regions} times, not once; ask for one run of it")
        return launched, checked(counted, InstructionCount, counts, "run the command again")

    def _prefix(self, *, counting: bool) -> list[str]:
        sysroot = self.emulator.sysroot(self.profile)
        qemu = [self.emulator.qemu, "-L", str(sysroot), "-cpu", self.profile.qemu, "-seed", "1"]
        # A name without a directory: in a path of this machine there might be a comma, which would end it here.
        plugin = ["-plugin", f"./{_COUNTER},out={_COUNTS}"] if counting else []
        return ["env", "-i", "-C", str(self.directory), *qemu, *plugin]


@contextmanager
def emulated_phone(emulator: Emulator, profile: Profile, pte: Path) -> Iterator[Phone]:
    """A phone with a `.pte` on it, gone with all that was left on it when the block ends."""
    emulator.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=emulator.build, prefix="phone-") as directory:
        phone = Phone(emulator, profile, Path(directory))
        for name, file in ((_RUNNER, emulator.runner()), (_COUNTER, emulator.counter()), (_MODEL, pte.resolve())):
            (phone.directory / name).symlink_to(file)
        yield phone
