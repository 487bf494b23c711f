"""Results that somebody might have measured, and the file that Python writes of them for the other languages' tests.

Each language writes the same results into `fixtures/results`, with its own name as harness, and reads the others':

    python tests/results_example.py
"""

from project import PROJECT

from sharp_mobile.bench.results import (
    Condition,
    DepthSamples,
    Device,
    ExportIdentity,
    FirstToken,
    Load,
    Memory,
    Results,
    Samples,
    Settings,
    ThreadSamples,
    TokenSamples,
    Window,
    write_results,
)

FIXTURES = PROJECT / "tests" / "fixtures" / "results"


def results() -> Results:
    return Results(
        created="2026-01-02T03:04:05Z",
        device=Device(kind="host", model="a machine", os="Linux", cpu="a CPU", cores=2, performance_cores=2),
        export=ExportIdentity(
            name="tiny", plan="2:3", sha256="ab" * 32, file_bytes=1000, tensor_bytes=990, unshared_bytes=1200
        ),
        settings=Settings(runtime="executorch 1.5.1", threads=1, weight_cache=True, packed_cache=True),
        load=Load(first=Samples(seconds=(2.0,)), later=Samples(seconds=(0.1, 0.3, 0.2))),
        forward=Samples(seconds=(0.01, 0.02, 0.03, 0.02, 0.02)),
        first_token=FirstToken(
            first=TokenSamples(seconds=(2.5,), tokens=8), later=TokenSamples(seconds=(0.5, 0.75), tokens=8)
        ),
        decode=TokenSamples(seconds=(0.5, 0.25, 1.0), tokens=10),
        token_latency=Samples(seconds=(0.05, 0.025, 0.1)),
        decode_at_depth=(DepthSamples(depth=4, seconds=(0.5,), tokens=10),),
        threads_sweep=(
            ThreadSamples(
                threads=2,
                prefill=TokenSamples(seconds=(0.25,), tokens=8),
                decode=TokenSamples(seconds=(0.5,), tokens=10),
            ),
        ),
        sustained=(Window(at=1.5, tokens=20, seconds=1.25),),
        memory=Memory(anonymous=10, file=20, peak=40, footprint=15, footprint_peak=30),
        idle_memory=Memory(anonymous=1, file=2, peak=3),
        conditions=(
            Condition(
                at=0.0,
                thermal="nominal",
                clocks_hz=(1_000_000_000, 2_000_000_000),
                charge_uah=3_000_000,
                battery_level=0.5,
                charging=False,
                battery_celsius=25.5,
            ),
        ),
        tokens=(1, 2, 3),
        expected_tokens=(1, 2, 4),
    )


def fixture(harness: str) -> Results:
    """What is in the fixture of a language: a failed run, so that every field but `counts` and `prefill` is there."""
    found = results()
    return found.model_copy(
        update={
            "settings": found.settings.model_copy(update={"harness": harness}),
            "status": "failed",
            "error": "the system took the memory away",
            "likeliest": ((7, 1.5), (9, -0.25)),
            "warnings": ("w",),
        }
    )


if __name__ == "__main__":
    write_results(FIXTURES / "python.json", fixture("python"))
