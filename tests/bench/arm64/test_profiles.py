from pathlib import Path

import pytest

from sharp_mobile.bench.arm64 import profiles
from sharp_mobile.bench.arm64.profiles import profile_names, read_profile
from sharp_mobile.errors import SharpError


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_describes_each_of_its_cores(name: str) -> None:
    profile = read_profile(name)
    files = profile.files()
    assert files["proc/cpuinfo"].count("processor\t: ") == profile.cores
    assert f"CPU part\t: {profile.part:#x}\n" in files["proc/cpuinfo"]
    assert f"sys/devices/system/cpu/cpu{profile.cores - 1}/cpufreq/cpuinfo_max_freq" in files
    assert f"sys/devices/system/cpu/cpu{profile.cores}/cpufreq/cpuinfo_max_freq" not in files


def test_phones_are_of_one_class_if_they_have_the_same_instructions() -> None:
    assert read_profile("pixel-6").cpu_class == read_profile("cortex-a76").cpu_class == "arm64 asimdhp asimddp"
    assert read_profile("cortex-a53").cpu_class == "arm64"
    assert read_profile("snapdragon-8-gen-1").cpu_class == "arm64 asimdhp asimddp i8mm"


@pytest.mark.parametrize("name", ["list", "pixel-99", "../profiles/pixel-6", ""])
def test_an_unknown_profile_is_told_with_those_that_there_are(name: str) -> None:
    with pytest.raises(SharpError, match="choose cortex-a53, cortex-a76, pixel-6, snapdragon-8-gen-1"):
        read_profile(name)


@pytest.mark.parametrize(
    "content", ["", "cpu: X", "- 1", "cpu: [", "cores: 0", "[" * 3000, "a: " + "1" * 5000, "cpu: 1\ncpu: 2"]
)
def test_a_damaged_profile_is_named(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(SharpError, match=r"mine\.yaml: .*; correct (the profile|the YAML|it)$"):
        read_profile("mine")
