"""The warm-up's choices: Adam or closed form, original or sequential inputs, workers, ranks, resuming."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from project import SUPPORT
from tiny_models import tiny_model, tiny_tokens
from transformers import PreTrainedModel

from sharp_mobile.errors import SharpError
from sharp_mobile.model.modules import decoder_layers
from sharp_mobile.model.share import recovery_parameters, shared_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recovery.warmup.adam import AdamSettings
from sharp_mobile.recovery.warmup.fit import WarmupSettings
from sharp_mobile.recovery.warmup.run import WarmupReport, warm_up

PLAN = SharePlan.parse("2:3, 4:5", 6)
ADAM = AdamSettings(epochs=2, lr=1e-2, batch=64)
WINDOWS = tiny_tokens(24, batch=20)
RECOVERY = Recovery("lora", 4)


def warmed(settings: WarmupSettings, recovery: Recovery = RECOVERY, **options: Path) -> PreTrainedModel:
    model = tiny_model()
    warm_up(model, PLAN, recovery, WINDOWS, settings=settings, **options)
    return model


def report(settings: WarmupSettings, recovery: Recovery = RECOVERY, **options: Path) -> WarmupReport:
    return warm_up(tiny_model(), PLAN, recovery, WINDOWS, settings=settings, **options)


def assert_same_parameters(ours: PreTrainedModel, theirs: PreTrainedModel) -> None:
    for (name, a), (_, b) in zip(recovery_parameters(ours), recovery_parameters(theirs), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("form", "inputs"), [("lora", "sequential"), ("right", "original"), ("hadamard", "original")])
def test_every_way_betters_the_direct_share(form: str, inputs: str) -> None:
    errors = {}
    for method in ("closed_form", "adam", "closed_form_adam"):
        fits = report(WarmupSettings(method, inputs, adam=ADAM), Recovery(form, 8)).targets
        assert [(fit.layer, fit.reference) for fit in fits] == [(2, 1), (4, 3)]
        assert all(fit.error_after < fit.error_before for fit in fits)
        errors[method] = fits[0].error_after
    assert errors["closed_form_adam"] <= errors["closed_form"]


HYBRIDS = [
    Recovery("lora", (2, 2, 6)),
    Recovery("lora", 4, neurons=6),
    Recovery("lora", 4, neurons=6, bypass=4),
    Recovery("lora", (0, 0, 4), bypass=4),
    Recovery("right", 4, bypass=4),
    Recovery(neurons=6, bypass=4, reference=False),
    Recovery(bypass=4, reference=False),
]


@pytest.mark.parametrize("recovery", HYBRIDS, ids=str)
@pytest.mark.parametrize("method", ["closed_form", "adam"])
def test_every_recovery_is_fitted(recovery: Recovery, method: str) -> None:
    fits = report(WarmupSettings(method, adam=ADAM), recovery).targets
    assert all(fit.error_after < fit.error_before for fit in fits)
    assert method == "adam" or all(fit.error_after < 1 for fit in fits)


def test_more_parts_err_less() -> None:
    """Beside the same shared MLP: own neurons, then a bypass too; then nothing but these."""
    errors = [
        report(WarmupSettings(inputs="original"), recovery).targets[0].error_after
        for recovery in (Recovery("lora", 4), HYBRIDS[1], HYBRIDS[2])
    ]
    assert errors == sorted(errors, reverse=True)


def test_layers_may_differ() -> None:
    chosen = {2: Recovery("lora", 4), 4: Recovery(neurons=6, bypass=4, reference=False), 1: Recovery("lora", 2)}
    model = tiny_model()
    fits = warm_up(model, PLAN, chosen, WINDOWS).targets
    assert [fit.layer for fit in fits] == [2, 4]
    assert all(fit.error_after < 1 for fit in fits)
    assert {layer: mlp.recovery for layer, mlp in shared_layers(model).items()} == chosen
    assert not shared_layers(model)[1].down.B.any()  # an adapter is not warmed up


def test_a_direct_target_beside_others_is_passed() -> None:
    model = tiny_model()
    chosen = {2: Recovery(), 4: Recovery("lora", 4)}
    fits = warm_up(model, PLAN, chosen, WINDOWS).targets
    assert fits[0].error_after == pytest.approx(fits[0].error_before)
    assert fits[1].error_after < fits[1].error_before


def test_original_inputs_make_targets_independent() -> None:
    alone = tiny_model()
    settings = WarmupSettings(inputs="original")
    warm_up(alone, SharePlan.parse("4:5", 6), RECOVERY, WINDOWS, settings=settings)
    together = warmed(settings)
    assert_same_parameters(
        *(torch.nn.ModuleDict({"mlp": shared_layers(model)[4]}) for model in (alone, together))  # type: ignore[arg-type]
    )


def test_the_first_target_learns_alike_from_either_inputs() -> None:
    """Before the first target the streams are one, so only the arithmetic differs."""
    first, second = (report(WarmupSettings(inputs=inputs)).targets for inputs in ("sequential", "original"))
    assert first[0].error_after == pytest.approx(second[0].error_after, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["closed_form", "adam"])
def test_workers_fit_what_one_process_fits(method: str, tmp_path: Path) -> None:
    def settings(workers: int) -> WarmupSettings:
        return WarmupSettings(method, "original", adam=ADAM, workers=workers)

    alone, spread = warmed(settings(1)), warmed(settings(2), workdir=tmp_path)
    assert_same_parameters(alone, spread)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_fails_names_its_layer(tmp_path: Path) -> None:
    model = broken_model()
    settings = WarmupSettings("adam", "original", adam=ADAM, workers=2)
    with pytest.raises(SharpError, match="layer 5 "):
        warm_up(model, PLAN, RECOVERY, WINDOWS, settings=settings, workdir=tmp_path)
    assert shared_layers(model) == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "inputs"), [("closed_form", "sequential"), ("adam", "original")])
def test_a_resumed_run_ends_as_an_uninterrupted_one(method: str, inputs: str, tmp_path: Path) -> None:
    settings = WarmupSettings(method, inputs, adam=ADAM)
    whole = warmed(settings, checkpoint_dir=tmp_path)
    (saved,) = tmp_path.iterdir()
    assert sorted(path.name for path in saved.iterdir()) == ["layer-3.safetensors", "layer-5.safetensors"]
    kept = (saved / "layer-3.safetensors").stat().st_mtime_ns
    (saved / "layer-5.safetensors").write_bytes(b"damaged")
    torch.manual_seed(7)  # whatever ran before must not matter
    assert_same_parameters(whole, warmed(settings, checkpoint_dir=tmp_path))
    assert (saved / "layer-3.safetensors").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    "other",
    [
        WarmupSettings("closed_form", "original", adam=ADAM),
        WarmupSettings("adam", "sequential", adam=ADAM),
        WarmupSettings("adam", "original", weighted=False, adam=ADAM),
        WarmupSettings("adam", "original", adam=AdamSettings(epochs=1, lr=1e-2, batch=64)),
        WarmupSettings("adam", "original", adam=AdamSettings(epochs=2, lr=1e-3, batch=64)),
        WarmupSettings("adam", "original", adam=AdamSettings(epochs=2, lr=1e-2, batch=64, seed=1)),
    ],
)
def test_other_settings_take_no_old_fits(other: WarmupSettings, tmp_path: Path) -> None:
    report(WarmupSettings("adam", "original", adam=ADAM), checkpoint_dir=tmp_path)
    report(other, checkpoint_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_more_workers_take_the_old_fits(tmp_path: Path) -> None:
    report(WarmupSettings("adam", "original", adam=ADAM), checkpoint_dir=tmp_path)
    report(WarmupSettings("adam", "original", adam=ADAM, workers=2), checkpoint_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def broken_model() -> PreTrainedModel:
    """Layer 5's MLP is not finite; layer 3 is well."""
    model = tiny_model()
    with torch.no_grad():
        decoder_layers(model)[4].mlp.up_proj.weight[3, 3] = float("inf")
    return model


def test_a_target_that_fails_keeps_those_before_it(tmp_path: Path) -> None:
    settings = WarmupSettings("adam", "original", adam=ADAM)
    with pytest.raises(SharpError, match="layer 5 has activations that are not finite"):
        warm_up(broken_model(), PLAN, RECOVERY, WINDOWS, settings=settings, checkpoint_dir=tmp_path)
    (saved,) = tmp_path.iterdir()
    assert [path.name for path in saved.iterdir()] == ["layer-3.safetensors"]


def test_a_diverging_loss_names_its_layer() -> None:
    settings = WarmupSettings("adam", adam=AdamSettings(epochs=2, lr=1e30, batch=64))
    with pytest.raises(SharpError, match=r"layer 3 diverges under Adam: .* smaller warmup\.adam_lr \(now 1e\+30\)"):
        report(settings)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": "sgd"}, "warmup.method: sgd does not exist; choose one of closed_form"),
        ({"inputs": "both"}, "warmup.inputs: both does not exist"),
        ({"adam": AdamSettings(epochs=0)}, "warmup.adam_epochs: 0 is too few"),
        ({"adam": AdamSettings(batch=0)}, "warmup.adam_batch: 0 is too few"),
        ({"adam": AdamSettings(lr=float("nan"))}, "warmup.adam_lr: nan is not a learning rate"),
        ({"workers": 2}, "warmup.workers: 2 cannot share targets"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(SharpError, match=says):
        WarmupSettings(**wrong)  # type: ignore[arg-type]


RUN = """
    import sys, torch
    from pathlib import Path
    from test_warmup_ways import *
    torch.set_num_threads(1)
"""


def script(body: str) -> list[str]:
    return ["-c", textwrap.dedent(RUN) + textwrap.dedent(body)]


def environment() -> dict[str, str]:
    tests = SUPPORT
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests, tests / "recovery")))}


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["sequential", "original"])
def test_two_ranks_end_with_the_model_of_one(inputs: str, tmp_path: Path) -> None:
    program = tmp_path / "run.py"
    program.write_text(
        textwrap.dedent(RUN)
        + textwrap.dedent(f"""
            model = tiny_model()
            settings = WarmupSettings("closed_form_adam", "{inputs}", adam=ADAM)
            found = warm_up(model, PLAN, RECOVERY, WINDOWS, settings=settings)
            state = {{name: p.detach() for name, p in recovery_parameters(model)}}
            torch.save((state, found.targets), Path(sys.argv[1]) / f"rank-{{os.environ['RANK']}}.pt")
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, program, tmp_path], env=environment(), check=True, capture_output=True, timeout=300)
    model = tiny_model()
    settings = WarmupSettings("closed_form_adam", inputs, adam=ADAM)
    alone = warm_up(model, PLAN, RECOVERY, WINDOWS, settings=settings)
    for rank in range(2):
        state, targets = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=False)
        assert targets == alone.targets
        for name, parameter in recovery_parameters(model):
            torch.testing.assert_close(state[name], parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_failing_rank_ends_all(tmp_path: Path) -> None:
    program = tmp_path / "run.py"
    program.write_text(
        textwrap.dedent(RUN)
        + textwrap.dedent("""
            model = broken_model()
            settings = WarmupSettings("adam", "original", adam=ADAM)
            try:
                warm_up(model, PLAN, RECOVERY, WINDOWS, settings=settings)
            except SharpError as error:
                Path(sys.argv[1], f"rank-{os.environ['RANK']}.txt").write_text(str(error))
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, program, tmp_path], env=environment(), check=True, capture_output=True, timeout=300)
    said = [(tmp_path / f"rank-{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert "layer 5 has activations that are not finite" in said[0]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_parameters(tmp_path: Path) -> None:
    settings = 'WarmupSettings("adam", adam=AdamSettings(epochs=20, lr=1e-2, batch=4))'
    body = f"warmed({settings}, checkpoint_dir=Path(sys.argv[1]))"
    process = subprocess.Popen([sys.executable, *script(body), tmp_path], env=environment())
    try:
        while not list(tmp_path.glob("warmup-*/layer-3.safetensors")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert not list(tmp_path.glob("warmup-*/layer-5.safetensors"))
    chosen = WarmupSettings("adam", adam=AdamSettings(epochs=20, lr=1e-2, batch=4))
    assert_same_parameters(warmed(chosen), warmed(chosen, checkpoint_dir=tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["sequential", "original"])
def test_memory_does_not_grow_with_the_text(inputs: str, tmp_path: Path) -> None:
    """The activations of 100,000 tokens (3 · 25 MB) pass through a process that may take 40 MB beyond a short text's.

    RLIMIT_DATA counts a process's private memory, so not the hidden states' files that it maps.
    """
    body = f"""
        import resource
        settings = WarmupSettings("closed_form_adam", "{inputs}", adam=AdamSettings(epochs=1, batch=512))
        def run(count):
            model = tiny_model(hidden_size=64)
            warm_up(model, PLAN, RECOVERY, tiny_tokens(64, batch=count), settings=settings,
                    workdir=Path(sys.argv[1]))
        run(40)
        status = Path("/proc/self/status").read_text()
        used = int(status.split("VmData:")[1].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + 40_000_000, resource.RLIM_INFINITY))
        run(1600)
    """
    command = [sys.executable, *script(body), tmp_path]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
