"""The options of a benchmark: their texts, and what an export has room for."""

from pathlib import Path

import pytest

from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.options import BenchOptions, parse_depths, parse_threads_sweep, thread_counts
from sharp_mobile.bench.results import Device, ExportIdentity
from sharp_mobile.errors import SharpError

IDENTITY = ExportIdentity(name="a", plan="none", sha256="ab" * 32, file_bytes=1, tensor_bytes=1, unshared_bytes=1)


def export(length: int) -> Export:
    return Export(Path("an-export"), Path("an-export/model.pte"), IDENTITY, length, (1, 2, 3), (4,))


def device(cores: int, performance_cores: int | None = None) -> Device:
    return Device(kind="host", model="m", os="o", cpu="c", cores=cores, performance_cores=performance_cores)


def test_the_defaults_are_those_of_llama_bench_where_there_is_room() -> None:
    options = BenchOptions()
    task = options.whole_task(export(2048))
    assert (task.prefill, task.decode, task.depths) == (512, 128, (512,))
    task = options.whole_task(export(96))
    assert (task.prefill, task.decode, task.depths) == (95, 93, ())


def test_a_prompt_is_repeated_to_the_tokens_of_a_prefill() -> None:
    assert BenchOptions(prefill=7).prompt_task(export(96)).prompt == (1, 2, 3, 1, 2, 3, 1)
    assert BenchOptions(prefill=2).prompt_task(export(96)).prompt == (1, 2)


def test_a_depth_without_room_is_refused() -> None:
    assert BenchOptions(decode=16, depths=(80,)).depths_of(export(96)) == (80,)
    with pytest.raises(SharpError, match=r"--depth 81: an-export has a KV cache of 96 tokens.*give at most 80"):
        BenchOptions(decode=16, depths=(16, 81)).depths_of(export(96))


@pytest.mark.parametrize(("text", "depths"), [("512,1024", (512, 1024)), (" 8 , 9", (8, 9)), ("none", ())])
def test_depths(text: str, depths: tuple[int, ...]) -> None:
    assert parse_depths(text) == depths


@pytest.mark.parametrize("text", ["", "0", "1,", "-3", "all", "1 2", "9" * 20, "٣"])
def test_depths_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(SharpError, match="give numbers of tokens such as 512,1024, or none"):
        parse_depths(text)


def test_threads_of_a_sweep_are_those_that_the_device_has_cores_for() -> None:
    requested = parse_threads_sweep("1,2,4,performance")
    assert thread_counts(requested, device(8, 3)) == [1, 2, 3, 4]
    assert thread_counts(requested, device(2)) == [1, 2]
    assert thread_counts((), device(2)) == []
    with pytest.raises(SharpError, match="--threads-sweep 1,fast: give numbers of threads such as 1,2,4,performance"):
        parse_threads_sweep("1,fast")
