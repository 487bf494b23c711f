"""Phones as an emulated program sees them.

    profiles/pixel-6.yaml ─┬─► /proc/cpuinfo, /sys/devices/system/cpu/… in a sysroot    which cores
                           └─► qemu-aarch64 -cpu cortex-a76                             which instructions

XNNPACK chooses its kernels by what ExecuTorch's `cpuinfo` finds: instructions from the processor itself (HWCAP), the
kind and number of cores and their clocks from those files. With a sysroot of its own, no file of the machine that
emulates is read, and counts are the same on every machine.

A profile has one kind of core, a phone's largest. With several kinds XNNPACK asks on which one it runs, QEMU answers
with the emulating machine's core, and the count would depend on it.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sharp_mobile.errors import SharpError
from sharp_mobile.files.fields import Text, checked
from sharp_mobile.files.yaml_file import read_yaml
from sharp_mobile.shipped import shipped

PROFILES = shipped("host_bench") / "arm64" / "profiles"

# What decides how XNNPACK packs a quantized weight: fp16 arithmetic, dot product, 8-bit matrix multiplication, SME.
_PACKING_FEATURES = ("asimdhp", "asimddp", "i8mm", "sme", "sme2")

_CPU = "sys/devices/system/cpu"

_Identifier = Annotated[int, Field(ge=0, lt=1 << 16)]


class Profile(BaseModel):
    """A phone's processor.

    cpu: name of the cores. implementer, part, variant, revision: as in /proc/cpuinfo. features: the same, separated by
    spaces. qemu: what follows `-cpu`.
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
        """What two processors have in common if they can use the same packed weights."""
        found = set(self.features.split())
        return " ".join(["arm64", *(feature for feature in _PACKING_FEATURES if feature in found)])

    def files(self) -> dict[str, str]:
        """Contents of the files that describe the processor, by their path in a sysroot."""
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
    """The phones that there are profiles of."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def read_profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        SharpError: there is none of that name, or its file is not a profile.
    """
    path = PROFILES / f"{name}.yaml"
    if name not in profile_names():
        raise SharpError(f"--profile {name}: there is no such profile; choose {', '.join(profile_names())}")
    content, remedy = read_yaml(path), "correct the profile"
    if not isinstance(content, dict):
        raise SharpError(f"{path}: must hold fields such as `cpu: cortex-a76`; {remedy}")
    return checked({**content, "name": name}, Profile, path, remedy)
