"""Profiles of phones for the emulator.

    profiles/pixel-6.yaml ─┬─► /proc/cpuinfo, /sys/devices/system/cpu/… in a sysroot    the cores
                           └─► qemu-aarch64 -cpu cortex-a76                             the instruction set

XNNPACK chooses its kernels by ExecuTorch's `cpuinfo`. That reads the instruction set from the processor (HWCAP), and
the kind, number and clocks of the cores from these files. With a separate sysroot the program reads no file of the
emulating machine, so counts are the same on every machine.

A profile has one kind of core, the phone's largest. With several kinds XNNPACK would query the current core; QEMU
returns the emulating machine's core, so the count would depend on that machine.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sharp_mobile.errors import SharpError
from sharp_mobile.files.fields import Text, checked
from sharp_mobile.files.yaml_file import read_yaml
from sharp_mobile.shipped import shipped

PROFILES = shipped("host_bench") / "arm64" / "profiles"

# These features decide how XNNPACK packs a quantized weight: fp16 arithmetic, dot product, 8-bit matmul, SME.
_PACKING_FEATURES = ("asimdhp", "asimddp", "i8mm", "sme", "sme2")

_CPU = "sys/devices/system/cpu"

_Identifier = Annotated[int, Field(ge=0, lt=1 << 16)]


class Profile(BaseModel):
    """A phone's processor.

    Attributes:
        cpu: name of the cores.
        implementer, part, variant, revision: as in /proc/cpuinfo.
        features: as in /proc/cpuinfo, separated by spaces.
        qemu: the value of QEMU's `-cpu`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Text
    cpu: Text
    cores: Annotated[int, Field(gt=0, le=1024)]
    megahertz: Annotated[int, Field(gt=0, le=100_000)]
    implementer: _Identifier
    part: _Identifier
    variant: _Identifier
    revision: _Identifier
    features: Text
    qemu: Text

    @property
    def cpu_class(self) -> str:
        """The class of processors that can use the same packed weights."""
        features = set(self.features.split())
        return " ".join(["arm64", *(feature for feature in _PACKING_FEATURES if feature in features)])

    def files(self) -> dict[str, str]:
        """Contents of the files that describe the processor, by path in a sysroot."""
        cores = range(self.cores)
        every = f"0-{self.cores - 1}\n" if self.cores > 1 else "0\n"
        files = {
            "proc/cpuinfo": "\n".join(self._cpuinfo(core) for core in cores),
            f"{_CPU}/kernel_max": f"{self.cores - 1}\n",
            **{f"{_CPU}/{name}": every for name in ("possible", "present", "online")},
        }
        for core in cores:
            files |= {
                f"{_CPU}/cpu{core}/cpufreq/cpuinfo_min_freq": f"{self.megahertz * 1000}\n",
                f"{_CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": f"{self.megahertz * 1000}\n",
                f"{_CPU}/cpu{core}/topology/physical_package_id": "0\n",
                f"{_CPU}/cpu{core}/topology/cluster_cpus_list": every,
                f"{_CPU}/cpu{core}/topology/core_siblings_list": every,
            }
        return files

    def _cpuinfo(self, core: int) -> str:
        return (
            f"processor\t: {core}\n"
            f"BogoMIPS\t: 49.15\n"
            f"Features\t: {self.features}\n"
            f"CPU implementer\t: {self.implementer:#04x}\n"
            f"CPU architecture: 8\n"
            f"CPU variant\t: {self.variant:#x}\n"
            f"CPU part\t: {self.part:#05x}\n"
            f"CPU revision\t: {self.revision}\n"
        )


def profile_names() -> list[str]:
    """The names of all profiles, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def read_profile(name: str) -> Profile:
    """Read the profile of this name.

    Raises:
        SharpError: there is no such profile, or its file is wrong.
    """
    path = PROFILES / f"{name}.yaml"
    if name not in profile_names():
        raise SharpError(f"--profile {name}: there is no such profile; choose {', '.join(profile_names())}")
    content, remedy = read_yaml(path), "correct the profile"
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold fields such as `cpu: cortex-a76`; {remedy}")
    return checked({**content, "name": name}, Profile, path, remedy)
