import dataclasses
import re
import subprocess
from pathlib import Path

import numpy
import pytest
import torch

from sharp_mobile.bench.arm64.bench import measure
from sharp_mobile.bench.arm64.emulation import Emulator
from sharp_mobile.bench.arm64.phone import emulated_phone
from sharp_mobile.bench.arm64.profiles import read_profile
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import Results, read_results, write_results
from sharp_mobile.bench.runner import Task
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.runtime import load_pte

pytestmark = pytest.mark.slow

PROMPT = (5, 6, 7)
# They describe the runner's process, whose memory is not a phone's anyway.
PROCESS = {"/proc/self/status", "/proc/self/smaps_rollup"}


@pytest.fixture(scope="module")
def pixel(shared: Export, emulator: Emulator) -> Results:
    return measure(shared, read_profile("pixel-6"), emulator)


def test_three_runs_count_the_same(pixel: Results, shared: Export, emulator: Emulator) -> None:
    again = [measure(shared, read_profile("pixel-6"), emulator) for _ in range(2)]
    assert [results.counts for results in again] == [pixel.counts, pixel.counts]


def test_counts_do_not_depend_on_where_everything_lies(
    pixel: Results, shared: Export, emulator: Emulator, tmp_path: Path
) -> None:
    elsewhere = dataclasses.replace(emulator, build=tmp_path / "a" / "longer, other path")
    assert measure(shared, read_profile("pixel-6"), elsewhere).counts == pixel.counts


@pytest.mark.parametrize(
    ("name", "dot", "matmul"),
    [("cortex-a53", False, False), ("pixel-6", True, False), ("snapdragon-8-gen-1", True, True)],
)
def test_phones_run_the_kernels_of_their_class(
    name: str, dot: bool, matmul: bool, shared: Export, emulator: Emulator
) -> None:
    with emulated_phone(emulator, read_profile(name), shared.pte) as phone:
        task = Task(warmups=0, forwards=0, prefill=16, prefill_runs=1, markers="prefill")
        _, count = phone.count(task)
    assert (count.dot > 0, count.matmul > 0) == (dot, matmul)


def test_the_results_say_what_ran_where(pixel: Results, shared: Export, tmp_path: Path) -> None:
    assert (pixel.device.kind, pixel.device.model, pixel.device.cpu) == ("arm64", "pixel-6", "Cortex-X1")
    assert pixel.export == shared.identity
    assert len(pixel.tokens) == 8
    assert pixel.expected_tokens == shared.tokens[:8]
    assert pixel.warnings == ()
    assert pixel.forward is None
    assert pixel.load.first is None
    write_results(tmp_path / "results.json", pixel)
    assert read_results(tmp_path / "results.json") == pixel


def test_later_launches_pack_nothing(pixel: Results) -> None:
    assert pixel.counts
    assert pixel.counts.load_first
    assert pixel.counts.load_later
    assert pixel.counts.load_later.instructions < pixel.counts.load_first.instructions / 2


def test_the_phone_answers_as_this_machine_does(shared: Export, emulator: Emulator) -> None:
    with emulated_phone(emulator, read_profile("pixel-6"), shared.pte) as phone:
        phone.launch(Task(prompt=PROMPT, warmups=0, forwards=0))
        there = numpy.frombuffer(phone.logits, dtype=numpy.float32)
    here = load_pte(shared.pte)(torch.tensor([PROMPT]), 0)[0, -1].numpy()
    assert numpy.abs(there - here).max() < 1e-3


def test_no_file_that_describes_this_machine_is_read(shared: Export, emulator: Emulator) -> None:
    profile = read_profile("cortex-a76")
    with emulated_phone(emulator, profile, shared.pte) as phone:
        qemu = [emulator.qemu, "-strace", "-L", str(emulator.sysroot(profile)), "-cpu", profile.qemu]
        command = [*qemu, "./runner", "model.pte", "--prompt", "1"]
        said = subprocess.run(command, cwd=phone.directory, env={}, capture_output=True, text=True, check=True).stderr
    opened = set(re.findall(r'openat\([^"]*"(/[^"]*)"[^\n]* = \d', said))
    described = {f"/{name}" for name in profile.files()}
    assert "/proc/cpuinfo" in opened
    assert {path for path in opened if path.startswith(("/proc", "/sys"))} <= described | PROCESS
    assert not re.findall(r"getcpu|sched_getaffinity", said)


def test_a_prefill_beyond_the_cache_is_refused(shared: Export, emulator: Emulator) -> None:
    with pytest.raises(SharpError, match=r"--prefill 96: .* takes 95 tokens at a time; use fewer"):
        measure(shared, read_profile("pixel-6"), emulator, prefill=96)


def test_what_the_runner_says_is_told(shared: Export, emulator: Emulator, tmp_path: Path) -> None:
    pte = tmp_path / "cut.pte"
    pte.write_bytes(shared.pte.read_bytes()[:-4096])
    with (
        emulated_phone(emulator, read_profile("pixel-6"), pte) as phone,
        pytest.raises(SharpError, match=r"cut\.pte on the emulated pixel-6: model\.pte: is cut short"),
    ):
        phone.launch(Task())
