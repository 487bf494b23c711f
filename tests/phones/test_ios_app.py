"""Parts of the iPhone app that need no screen, run on this computer: the request of a launch, and the table."""

import json
from pathlib import Path

import pytest
from project import PROJECT
from swift_tools import IOS_BENCH, run, swift

pytestmark = pytest.mark.slow

FIXTURE = PROJECT / "tests" / "fixtures" / "results" / "swift.json"


@pytest.fixture(scope="session")
def app_parts(core_module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of ios_bench/typecheck/app-parts, around files of the app."""
    program = tmp_path_factory.mktemp("app-parts") / "app-parts"
    objects = sorted(map(str, (core_module.parent / "BenchCore.build").glob("*.o")))
    files = [*(IOS_BENCH / "App" / f"{name}.swift" for name in ("HandsFree", "Metric"))]
    sources = list(map(str, [*files, IOS_BENCH / "typecheck" / "app-parts" / "main.swift"]))
    swift(IOS_BENCH, "swiftc", "-swift-version", "5", "-I", str(core_module), *sources, *objects, "-o", str(program))
    return program


@pytest.mark.parametrize(
    ("environment", "exports", "out", "plan", "told"),
    [
        ({"EXPORT_DIRS": "a,c"}, "exports/a,models/c", "results", "5 1 512 128 [512] [] 0", "accepted"),
        ({"EXPORT_DIRS": "none", "OUT": "here"}, "exports/none", "here", "5 1 512 128 [512] [] 0", "accepted"),
        (
            {"EXPORT_DIRS": "a", "REPETITIONS": "2", "THREADS": "3", "PREFILL": "4", "DECODE": "6", "DEPTHS": "none"},
            *("exports/a", "results", "2 3 4 6 [] [] 0", "accepted"),
        ),
        (
            {"EXPORT_DIRS": "a", "THREADS_SWEEP": "1,performance", "SUSTAIN": "60", "EXPORT": "of a test"},
            *("exports/a", "results", "5 1 512 128 [512] [1, 0] 60", "accepted"),
        ),
        (
            {"EXPORT_DIRS": "a", "THREADS": "all"},
            *("exports/a", "results", "5 1 512 128 [512] [] 0", "threads=all: write a whole number from 1 on"),
        ),
        (
            {"EXPORT_DIRS": "a", "SPEED": "9"},
            *("exports/a", "results", "5 1 512 128 [512] [] 0", "speed=9: is no option; the options are threads,"),
        ),
    ],
)
def test_a_run_that_the_environment_asks_for(
    app_parts: Path, tmp_path: Path, environment: dict[str, str], exports: str, out: str, plan: str, told: str
) -> None:
    for directory in ("exports/a", "models/c"):
        (tmp_path / directory).mkdir(parents=True)
    given = [f"SHARP_{name}={value}" for name, value in environment.items()]
    printed = run("env", "-i", *given, app_parts, "request", tmp_path, tmp_path / "models").stdout.splitlines()
    assert printed[0].split(",") == [str(tmp_path / export) for export in exports.split(",")]
    assert printed[1:3] == [str(tmp_path / out), plan]
    assert printed[3].startswith(told)
    assert run(app_parts, "request", tmp_path, tmp_path).stdout == "no request\n"


def test_the_table(app_parts: Path, tmp_path: Path) -> None:
    first = json.loads(FIXTURE.read_text())
    second = json.loads(FIXTURE.read_text())
    second["export"]["file_bytes"] = 500
    second["decode"] = {"seconds": [0.25], "tokens": 10}
    second["sustained"] = [{"at": at, "tokens": tokens, "seconds": 1.0} for at, tokens in ((1, 40), (2, 20), (3, 30))]
    del second["decode_at_depth"], second["threads_sweep"]
    files = [tmp_path / "first.json", tmp_path / "second.json"]
    for file, content in zip(files, (first, second), strict=True):
        file.write_text(json.dumps(content))
    assert run(app_parts, "table", *files).stdout.splitlines() == [
        ".pte, MB | 0.0 | 0.0 ×0.50",
        "first load, ms | 2000.0 | 2000.0 ×1.00",
        "later load, ms | 200.0 | 200.0 ×1.00",
        "first token, first launch, ms | 2500.0 | 2500.0 ×1.00",
        "first token, later launch, ms | 625.0 | 625.0 ×1.00",
        "forward, ms | 20.00 | 20.00 ×1.00",
        "decode (tg10), tokens/s | 20.0 | 40.0 ×2.00",
        "decode p50, ms | 50.00 | 50.00 ×1.00",
        "decode p90, ms | 90.00 | 90.00 ×1.00",
        "decode at depth 4, tokens/s | 20.0 | –",
        "threads: 2, decode tokens/s | 20.0 | –",
        "sustained, tokens/s | 16.0 █ | 30.0 ×1.88 █▅▆",
        "anonymous, MB | 0.0 | 0.0 ×1.00",
        "files, MB | 0.0 | 0.0 ×1.00",
        "peak, MB | 0.0 | 0.0 ×1.00",
        "footprint, MB | 0.0 | 0.0 ×1.00",
        "footprint peak, MB | 0.0 | 0.0 ×1.00",
    ]


def test_the_readme_names_every_option(app_parts: Path) -> None:
    printed = run(
        "env", "-i", "SHARP_EXPORT_DIRS=a", "SHARP_NONE=1", app_parts, "request", "/", "/"
    ).stdout.splitlines()[3]
    options = printed.partition("the options are ")[2].split(", ")
    assert len(options) == 8
    readme = (IOS_BENCH / "README.md").read_text()
    assert [option for option in options if f"`SHARP_{option.upper()}`" not in readme] == []
