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
