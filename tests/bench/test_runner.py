"""A launch of the host runner computes what ExecuTorch's Python runtime computes, or says in a line why not."""

from pathlib import Path

import pytest
import torch
from executorch.exir import to_edge
from tiny_models import tiny_model
from torch import nn

from sharp_mobile.bench import runner as runner_module
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.runner import Killed, Task, build_runner, launch
from sharp_mobile.decoder.build import build_decoder
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.program import assemble, lower_segments
from sharp_mobile.pte.runtime import greedy, load_pte
from sharp_mobile.recipe.lower_settings import LowerSettings
from sharp_mobile.verify.inspect import inspect_pte


@pytest.mark.slow
def test_a_launch_tells_all_that_it_was_asked_for(runner: Path, shared: Export) -> None:
    asked = {"forwards": 3, "prefill": 20, "prefill_runs": 2, "decode": 8, "decode_runs": 4, "tokens": 5, "sustain": 1}
    task = Task(prompt=shared.prompt, depths=(10, 30), **asked)
    found = launch(runner, shared.pte, task)
    assert found.metadata == inspect_pte(shared.pte).metadata
    assert (found.threads, found.weight_cache, found.packed_cache) == (1, True, None)
    assert found.runtime.startswith("executorch ")
    assert (len(found.forward_ns), len(found.prefill_ns), len(found.decode_ns)) == (3, 2, 4)
    assert (found.prefill_tokens, found.decode_tokens, len(found.tokens)) == (20, 8, 5)
    assert min(found.load_ns, *found.forward_ns, *found.prefill_ns, *found.decode_ns) > 0
    assert found.load_ns < found.first_token_ns
    assert {depth: len(times) for depth, times in found.decode_at_depth_ns.items()} == {10: 4, 30: 4}
    per_run = [sum(found.decode_token_ns[start : start + 8]) for start in range(0, 32, 8)]
    assert per_run == list(found.decode_ns)
    ends = [end for end, _, _ in found.sustained]
    assert ends == sorted(ends)
    assert all(tokens % 8 == 0 and time < end for end, tokens, time in found.sustained)
    before, after = found.memory_before_load, found.memory_after_forward
    assert 0 < before.footprint < after.footprint <= found.footprint_peak_bytes
    resident = found.memory_after_forward.anonymous + found.memory_after_forward.file
    assert found.peak_bytes >= resident > shared.pte.stat().st_size / 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"weight_cache": False}, {"threads": 2}], ids=["cache", "no-cache", "threads"])
def test_tokens_and_logits_are_the_python_runtimes(
    options: dict[str, int], runner: Path, shared: Export, tmp_path: Path
) -> None:
    prompt = (7, 300, 20000, 12, 5)
    task = Task(prompt=prompt, tokens=24, logits=tmp_path / "logits", **options)  # type: ignore[arg-type]
    step = load_pte(shared.pte)
    assert list(launch(runner, shared.pte, task).tokens) == greedy(step, list(prompt), 24, [2])
    logits = torch.frombuffer(bytearray((tmp_path / "logits").read_bytes()), dtype=torch.float32)
    torch.testing.assert_close(logits, step(torch.tensor([prompt]), 0)[0, -1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_program_that_ends_a_text_stops(runner: Path, tmp_path: Path) -> None:
    """Where one of get_eos_ids comes, as the Python runtime does."""
    decoder = lower_segments(
        build_decoder(tiny_model(num_hidden_layers=1), LowerSettings(max_length=32, attention="portable"))
    )[0]
    metadata = {"get_max_context_len": 32, "get_eos_ids": [256]}
    (tmp_path / "model.pte").write_bytes(assemble(decoder, metadata).buffer)
    whole = launch(runner, tmp_path / "model.pte", Task(prompt=(5, 6), tokens=12)).tokens
    assert len(whole) == 12
    (tmp_path / "ends.pte").write_bytes(assemble(decoder, {**metadata, "get_eos_ids": [256, whole[5]]}).buffer)
    ended = launch(runner, tmp_path / "ends.pte", Task(prompt=(5, 6), tokens=12)).tokens
    assert ended == whole[: whole.index(whole[5]) + 1]


@pytest.mark.slow
def test_a_missing_operator_names_the_way_out(runner: Path, tmp_path: Path) -> None:
    decoder = lower_segments(
        build_decoder(tiny_model(num_hidden_layers=1), LowerSettings(max_length=32, attention="custom_sdpa"))
    )[0]
    (tmp_path / "model.pte").write_bytes(assemble(decoder, {"get_max_context_len": 32}).buffer)
    with pytest.raises(SharpError, match=r"model\.pte: .*llama::\S+.*export with lower\.attention: portable"):
        launch(runner, tmp_path / "model.pte", Task())


@pytest.mark.slow
def test_what_goes_beyond_the_cache_is_refused_before_anything_is_timed(runner: Path, shared: Export) -> None:
    for task, option in (
        (Task(prefill=97, prefill_runs=1), "--prefill: 97 tokens"),
        (Task(decode=96, decode_runs=1), "--decode: 96 tokens"),
        (Task(prompt=(1,) * 90, tokens=8), "--tokens: 7 tokens from position 90"),
        (Task(prompt=(1,) * 97), "--prompt: 97 tokens"),
    ):
        with pytest.raises(SharpError, match=f"{option}.* do not fit in this export's cache of 96"):
            launch(runner, shared.pte, task)
    assert len(launch(runner, shared.pte, Task(prompt=(1,) * 90, tokens=7)).tokens) == 7


@pytest.mark.slow
def test_a_file_that_is_cut_short_gives_no_number(runner: Path, shared: Export, tmp_path: Path) -> None:
    content, cut = shared.pte.read_bytes(), tmp_path / "cut.pte"
    for kept in (0, 10, 40, 200, len(content) // 2, len(content) - 1):
        cut.write_bytes(content[:kept])
        with pytest.raises(SharpError, match=r"cut\.pte: (is cut short|is not an ExecuTorch program)"):
            launch(runner, cut, Task())


@pytest.mark.parametrize("module", [nn.Tanh(), nn.Linear(2, 2)], ids=["no weights", "weights"])
def test_a_program_that_is_no_language_model_is_refused(module: nn.Module, runner: Path, tmp_path: Path) -> None:
    edge = to_edge(torch.export.export(module.requires_grad_(False), (torch.randn(1, 2),)))
    (tmp_path / "other.pte").write_bytes(edge.to_executorch().buffer)
    with pytest.raises(SharpError, match=r"other\.pte: is no language model's program"):
        launch(runner, tmp_path / "other.pte", Task())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"packed_cache": Path("x"), "weight_cache": False}, "--packed-cache is the weight cache on disk"),
        ({"packed_cache": Path("x" * 300)}, "XNNPACK takes paths of 255 bytes"),
        ({"threads": 0}, "--threads 0: write a whole number from 1 on"),
        ({"prompt": ()}, "--prompt : write a whole number"),
        ({"forwards": 0, "etdump": Path("x")}, "--etdump traces the forwards; ask for some"),
        ({"markers": "load"}, "only an aarch64 program has the marker instructions"),
    ],
)
def test_a_wrong_option_is_told(arguments: dict[str, object], told: str, runner: Path, tmp_path: Path) -> None:
    pte = tmp_path / "model.pte"
    pte.write_bytes(b"\0\0\0\0ET12eh00" + b"\0" * 52)  # options are looked at before the program is
    with pytest.raises(SharpError, match=told):
        launch(runner, pte, Task(**arguments))  # type: ignore[arg-type]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_process_that_dies_gives_no_number(tmp_path: Path) -> None:
    pte = Path("some.pte")
    with pytest.raises(Killed, match=r"some\.pte: the process was killed"):
        launch(script(tmp_path / "killed", "kill -KILL $$"), pte, Task())
    with pytest.raises(SharpError, match=r"some\.pte: crashed by signal 11 \(Segmentation fault\)"):
        launch(script(tmp_path / "crashed", "kill -SEGV $$"), pte, Task())
    with pytest.raises(SharpError, match="no room"):
        launch(script(tmp_path / "failed", "echo noise >&2; echo 'error: no room' >&2; echo '{}'; exit 1"), pte, Task())
    with pytest.raises(SharpError, match="other: belongs to another sharp-mobile version: Field required; delete it"):
        launch(script(tmp_path / "other", "echo '{}'"), pte, Task())
    with pytest.raises(SharpError, match="none: cannot be started: No such file"):
        launch(tmp_path / "none", pte, Task())


def test_the_runner_is_compiled_once_and_again_when_a_source_changes(
    runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runner.stat().st_mtime_ns
    assert build_runner() == runner
    assert runner.stat().st_mtime_ns == made
    with pytest.raises(SharpError, match="no-such-compiler: no such C\\+\\+ compiler; install one"):
        build_runner(compiler="no-such-compiler")  # other options make another program
    (tmp_path / "runner.cpp").write_text("int main() { return broken; }\n")
    monkeypatch.setattr(runner_module, "SOURCES", tmp_path)
    with pytest.raises(SharpError, match=r"runner\.cpp: g\+\+ cannot compile it: .*broken"):
        build_runner(out=tmp_path / "build")
    assert not list((tmp_path / "build").rglob("sharp-runner*"))


def test_a_package_without_its_libraries_is_told(tmp_path: Path) -> None:
    with pytest.raises(SharpError, match=r"libexecutorch\.so: is missing; install executorch 9\.9 again"):
        build_runner(tmp_path, "9.9")


@pytest.mark.slow
def test_a_prompt_longer_than_a_step_goes_in_chunks(runner: Path, tmp_path: Path) -> None:
    decoder = build_decoder(
        tiny_model(num_hidden_layers=1), LowerSettings(max_length=32, attention="portable", prefill_chunk=4)
    )
    program = assemble(lower_segments(decoder)[0], {"get_max_context_len": 32, "get_max_seq_len": 4})
    (tmp_path / "model.pte").write_bytes(program.buffer)
    prompt = (9, 8, 7, 6, 5, 4, 3, 2, 1)
    found = launch(runner, tmp_path / "model.pte", Task(prompt=prompt, tokens=6, prefill=31, prefill_runs=1))
    assert list(found.tokens) == greedy(load_pte(tmp_path / "model.pte"), list(prompt), 6, [])
