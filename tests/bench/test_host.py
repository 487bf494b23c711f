"""Exports are measured in alternation, a process a launch, and what they say is held against their manifests."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from reported import recorded

from sharp_mobile.bench import host
from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.host import run
from sharp_mobile.bench.options import BenchOptions, thread_counts
from sharp_mobile.bench.results import ExportIdentity
from sharp_mobile.bench.runner import Launch, Task, launch
from sharp_mobile.bench.summary import summary
from sharp_mobile.bench.this_machine import this_device
from sharp_mobile.errors import SharpError

Seen = list[tuple[str, str]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Which export was launched, and what for."""
    launches: Seen = []

    def record(runner: Path, pte: Path, task: Task, prefix: tuple[str, ...]) -> Launch:
        kept = task.packed_cache is not None and task.packed_cache.is_file()
        kind = "generate" if task.tokens else "whole" if task.forwards else "load"
        launches.append((pte.parent.name, f"{kind} with packed weights" if kept else kind))
        return launch(runner, pte, task, prefix)

    monkeypatch.setattr(host, "launch", record)
    return launches


@pytest.mark.slow
def test_exports_are_launched_in_alternation(shared: Export, unshared: Export, seen: Seen, tmp_path: Path) -> None:
    plan = BenchOptions(repetitions=2, forwards=3, prefill=20)
    with recorded() as report:
        found = run([shared, unshared], plan, tmp_path)
    names = [shared.directory.name, unshared.directory.name]
    repetition = [
        (name, kind)
        for name in names
        for kind in ("load", "whole with packed weights", "load with packed weights", "load with packed weights")
    ]
    assert seen == [(name, "generate") for name in names] + 2 * repetition
    assert len(report.lines) == 4
    for results, export in zip(found, (shared, unshared), strict=True):
        assert results.export == export.identity
        assert results.tokens == export.tokens
        assert results.warnings == ()
        load = results.load
        assert load.first is not None
        assert load.later is not None
        assert load.cold is not None
        assert len(load.first.seconds) == len(load.later.seconds) == len(load.cold.seconds) == 2
        assert results.forward is not None
        assert results.prefill is not None
        assert results.decode is not None
        assert len(results.forward.seconds) == 6
        assert (results.prefill.tokens, results.decode.tokens) == (20, export.length - len(export.prompt))
        assert results.first_token.first is not None
        assert results.first_token.later is not None
        assert len(results.first_token.first.seconds) == len(results.first_token.later.seconds) == 2
        assert results.first_token.later.tokens == 20
        assert min(results.first_token.first.seconds) > min(load.first.seconds)
        assert results.token_latency is not None
        assert len(results.token_latency.seconds) == 2 * results.decode.tokens
        assert sum(results.token_latency.seconds) == pytest.approx(sum(results.decode.seconds))
        assert results.decode_at_depth == ()  # the cache of this export has no room for 512 tokens
        assert results.memory is not None
        assert results.memory.footprint is not None
        assert results.memory.footprint_peak is not None
        assert results.memory.footprint <= results.memory.footprint_peak
        assert results.idle_memory is not None
        assert results.idle_memory.resident < results.memory.resident
        assert results.conditions[0].at < results.conditions[-1].at
        assert results.settings.packed_cache
        assert any("tokens/s (20 tokens)" in line for line in summary(results))


@pytest.mark.slow
def test_depths_threads_and_a_sustained_run(shared: Export, unshared: Export, seen: Seen, tmp_path: Path) -> None:
    plan = BenchOptions(
        repetitions=2, forwards=1, prefill=16, decode=8, depths=(24, 40), threads_sweep=(1, 2, 4096), sustain=2
    )
    with recorded() as report:
        found = run([shared, unshared], plan, tmp_path)
    names = [export.identity.name for export in (shared, unshared)]
    swept = [f"{count} threads: {name}" for count in thread_counts((1, 2), this_device()) for name in names]
    assert report.lines[4:] == [*swept, *(f"sustained: {name}, 2 s" for name in names)]
    for results in found:
        deep = [(samples.depth, samples.tokens, len(samples.seconds)) for samples in results.decode_at_depth]
        assert deep == [(24, 8, 2), (40, 8, 2)]
        assert [point.threads for point in results.threads_sweep] == thread_counts((1, 2), this_device())
        for point in results.threads_sweep:
            assert (point.prefill.tokens, len(point.prefill.seconds)) == (16, 2)
            assert (point.decode.tokens, len(point.decode.seconds)) == (8, 2)
        assert all(window.seconds >= 1 and window.tokens % 8 == 0 for window in results.sustained[:-1])
        last = results.sustained[-1]
        assert results.conditions[0].at < last.at - last.seconds < last.at <= results.conditions[-1].at
    lines = "\n".join(summary(found[0]))
    for part in ("decode at 24", "1 thread ", "sustained", "one token", "first token, later", "memory before load"):
        assert part in lines


def test_a_depth_without_room_is_refused_before_anything_runs(seen: Seen, tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="--depth 90: an-export has a KV cache of 96 tokens"):
        run([stand_in((5,))], BenchOptions(decode=16, depths=(90,)), tmp_path)
    assert seen == []


@pytest.mark.slow
def test_without_the_weight_cache_every_launch_is_a_first_one(shared: Export, seen: Seen, tmp_path: Path) -> None:
    (results,) = run([shared], BenchOptions(repetitions=1, weight_cache=False), tmp_path / "packed")
    name = shared.directory.name
    assert seen == [(name, "generate"), (name, "load"), (name, "whole")]
    assert (results.load.later, results.load.cold) == (None, None)
    assert not results.settings.weight_cache
    assert not (tmp_path / "packed").exists()


@pytest.mark.slow
def test_within_a_limit_launches_are_cold_or_killed(
    limits_allowed: None, shared: Export, seen: Seen, tmp_path: Path
) -> None:
    plan = BenchOptions(repetitions=1, memory_limit=60 << 20)
    (results,) = run([shared], plan, tmp_path)
    assert results.load.later is None
    assert results.load.cold is not None
    assert results.settings.memory_limit == 60 << 20
    assert results.tokens == shared.tokens
    with pytest.raises(SharpError, match=r"does not run within 3,145,728 bytes of memory: the kernel killed it"):
        run([shared], replace(plan, memory_limit=3 << 20), tmp_path)


def stand_in(tokens: tuple[int, ...], directory: Path = Path("an-export")) -> Export:
    """An export as far as its tokens go."""
    identity = ExportIdentity(name="a", plan="none", sha256="ab" * 32, file_bytes=1, tensor_bytes=1, unshared_bytes=1)
    return Export(directory, directory / "model.pte", identity, 96, (1, 2), tokens)


def test_an_export_named_twice_is_told(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match="one, other: are the same export; name it once"):
        run([stand_in((5,), Path("one")), stand_in((5,), Path("other"))], BenchOptions(), tmp_path)


@pytest.mark.slow
def test_an_export_is_held_against_its_manifest(shared: Export, tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    shutil.copytree(shared.directory, directory)
    assert read_export(directory).identity == shared.identity
    manifest = directory / "manifest.json"
    content = manifest.read_text()
    with (directory / "model.pte").open("r+b") as file:
        file.seek(100_000)
        file.write(b"\xa5\x5a")
    with pytest.raises(SharpError, match=r"model\.pte: does not match its manifest.*export the model again"):
        read_export(directory)
    (directory / "model.pte").unlink()
    manifest.write_text(json.dumps({**json.loads(content), "sizes": {"file": 1}}))
    with pytest.raises(SharpError, match=r"manifest\.json: sizes\.tensors: Field required"):
        read_export(directory)
    manifest.write_text(content)
    with pytest.raises(SharpError, match=r"model\.pte: is missing"):
        read_export(directory)
    manifest.unlink()
    with pytest.raises(SharpError, match="copy: is not an export's directory"):
        read_export(directory)
