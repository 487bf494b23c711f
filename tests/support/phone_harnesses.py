"""What a harness of the phones' cores must do on this computer, whatever language it is in."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sharp_mobile.bench.compare.measurements import read_columns
from sharp_mobile.bench.compare.tables import as_text, compare
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results
from sharp_mobile.bench.runner import Task, launch
from sharp_mobile.bench.this_machine import this_device

# Runs the harness with arguments of its command line.
Harness = Callable[..., "subprocess.CompletedProcess[str]"]


def check_a_real_pte_is_benched_and_answers_as_in_cpp(
    harness: Harness, name: str, runner: Path, exports: Sequence[Export], out: Path
) -> None:
    sizes = ["--repetitions", "2", "--prefill", "16", "--decode", "4"]
    done = harness(*(export.directory for export in exports), *sizes, "--out", out, "--caches", out / "caches")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        f"repetition {n} of 2: {export.directory.name}" for n in (1, 2) for export in exports
    ]
    assert json.loads((out / "status.json").read_text())["state"] == "done"
    for export in exports:
        found = read_results(out / f"results-{name}-{export.directory.name}.json")
        cpp = launch(runner, export.pte, Task(prompt=export.prompt, forwards=0, tokens=len(export.tokens)))
        assert [token for token, _ in found.likeliest] == [token for token, _ in cpp.likeliest]
        assert [logit for _, logit in found.likeliest] == pytest.approx([logit for _, logit in cpp.likeliest], rel=1e-7)
        assert found.tokens == cpp.tokens
        assert found.export == export.identity
        assert (found.settings.harness, found.settings.runtime) == (name, cpp.runtime)
        assert found.load.first is not None
        assert found.load.later is not None
        assert found.forward is not None
        assert found.prefill is not None
        assert found.decode is not None
        assert (len(found.load.first.seconds), len(found.load.later.seconds), len(found.forward.seconds)) == (2, 2, 10)
        assert (found.prefill.tokens, found.decode.tokens) == (16, 4)
        assert found.memory is not None
        assert found.memory.peak >= found.memory.resident


def check_its_results_stand_beside_those_of_other_harnesses(
    harness: Harness, name: str, exports: Sequence[Export], work: Path
) -> None:
    copies = [Path(shutil.copytree(export.directory, work / export.directory.name)) for export in exports]
    sizes = ["--repetitions", "1", "--prefill", "8", "--decode", "2"]
    done = harness(*copies, *sizes, "--caches", work / "caches")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(copy / f"results-{name}.json") for copy in copies]
    for copy in copies:
        assert read_results(copy / f"results-{name}.json").device == this_device()
    table = as_text(compare(read_columns(copies)))
    assert table.count(name) == 2
    assert "×1.000" in table


def check_all_that_a_plan_can_ask_for(harness: Harness, name: str, export: Export, out: Path) -> None:
    """Depth, the threads sweep, the sustained run, and the conditions meanwhile."""
    sizes = ["--repetitions", "2", "--prefill", "16", "--decode", "4", "--depths", "8,9999"]
    long = ["--threads-sweep", "1,performance", "--sustain", "3", "--cool-down", "1"]
    done = harness(export.directory, *sizes, *long, "--out", out, "--caches", out / "caches")
    assert done.returncode == 0, done.stderr
    found = read_results(out / f"results-{name}-{export.directory.name}.json")
    lines, counts = done.stderr.splitlines(), [sweep.threads for sweep in found.threads_sweep]
    title = export.directory.name
    repetitions = [f"repetition {n} of 2: {title}" for n in (1, 2)]
    assert lines == [*repetitions, *(f"{n} threads: {title}" for n in counts), f"sustained: {title}, 0 of 3 s"]
    assert found.status == "ok"
    assert found.warnings == ()
    assert found.first_token.first is not None
    assert found.first_token.later is not None
    assert found.load.first is not None
    for samples in (found.first_token.first, found.first_token.later):
        assert (samples.tokens, len(samples.seconds)) == (16, 2)
    pairs = zip(found.load.first.seconds, found.first_token.first.seconds, strict=True)
    assert all(load < token for load, token in pairs)
    assert found.decode is not None
    assert found.token_latency is not None
    latencies = found.token_latency.seconds
    assert found.decode.seconds == pytest.approx([sum(latencies[:4]), sum(latencies[4:])])
    # What the cache has no room for is left out.
    assert [(depth.depth, depth.tokens, len(depth.seconds)) for depth in found.decode_at_depth] == [(8, 4, 2)]
    assert counts == sorted({1, found.device.performance_cores or found.device.cores})
    for sweep in found.threads_sweep:
        assert [(s.tokens, len(s.seconds)) for s in (sweep.prefill, sweep.decode)] == [(16, 2), (4, 2)]
    assert found.sustained
    assert all(window.seconds >= 1 and window.tokens % 4 == 0 for window in found.sustained)
    times = [condition.at for condition in found.conditions]
    assert times == sorted(times)
    assert times[-1] >= found.sustained[-1].at > times[0]
    # A sample every two seconds, and one at the end.
    assert len(times) >= times[-1] / 4
    assert found.expected_tokens == export.tokens
    assert found.idle_memory is not None
    assert found.memory is not None
    assert found.idle_memory.footprint is not None
    assert found.memory.footprint is not None
    assert found.memory.footprint > found.idle_memory.footprint > 0
    assert found.memory.footprint_peak is not None
    assert found.memory.footprint_peak >= found.memory.footprint


def _without_manifest(export: Path) -> None:
    (export / "manifest.json").unlink()


def _cut_short(export: Path) -> None:
    (export / "model.pte").write_bytes((export / "model.pte").read_bytes()[:-10])


def _of_another_runtime(export: Path) -> None:
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["versions"]["executorch"] = "1.4.0"
    (export / "manifest.json").write_text(json.dumps(manifest))


SPOILED = pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without_manifest, "it has no manifest.json"),
        (_cut_short, "its manifest says"),
        (_of_another_runtime, "was exported for executorch 1.4.0"),
    ],
)


def check_a_broken_export_is_told_in_its_results(
    harness: Harness, name: str, export: Export, spoil: Callable[[Path], None], told: str, work: Path
) -> None:
    broken = Path(shutil.copytree(export.directory, work / "broken"))
    spoil(broken)
    done = harness(broken, "--out", work, "--caches", work / "caches")
    assert done.returncode == 1
    found = read_results(work / f"results-{name}-broken.json")
    assert found.status == "failed"
    assert told in (found.error or "")
    assert f"error: {found.error}" in done.stderr
