"""Verbs that only read configurations, files and results import neither PyTorch nor what imports it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from project import PROJECT
from tiny_exports import results, write_export
from tiny_gguf import write_gguf
from tiny_models import tiny_config, tiny_model
from torch import nn

from sharp_mobile.bench.exports import identity
from sharp_mobile.bench.results import write_results
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.files.digests import sha256_of
from sharp_mobile.model.share import share_layers
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery

HEAVY = ("torch", "torchao", "executorch", "transformers", "accelerate", "datasets", "matplotlib")
# Runs a command in an interpreter of its own, and prints which of the heavy packages it has imported at the end.
RUN = """
import sys
from sharp_mobile.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print(f"imported: {[name for name in %r if name in sys.modules]}, status {code}", file=sys.stderr)
"""


def imports(*arguments: object, **environment: str) -> str:
    """What a command prints last, on standard error."""
    command = [sys.executable, "-c", RUN % (HEAVY,), *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    ended = subprocess.run(command, capture_output=True, text=True, env=variables)
    return ended.stderr.strip()


NOTHING = "imported: [], status 0"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Everything that a model comes as: what the command is given, by its kind."""
    root = tmp_path_factory.mktemp("models")
    (root / "directory").mkdir()
    tiny_config().to_json_file(root / "directory" / "config.json")
    model, plan = tiny_model(), SharePlan.parse("2:3", 6)
    write_gguf(model, root / "tiny.gguf")
    share_layers(model, plan, Recovery("lora", 4))
    save_sharp_checkpoint(model, plan, root / "sharp")
    repository = root / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(root / "directory", repository / "snapshots" / ("0" * 40))
    return {
        "directory": str(root / "directory"),
        "GGUF file": str(root / "tiny.gguf"),
        "SHARP checkpoint": str(root / "sharp"),
        "architecture": f"random:{root / 'directory' / 'config.json'}",
        "hub repository": "org/name",
        "cache": str(root / "hub"),
    }


@pytest.mark.parametrize("verb", ["plan", "size"])
@pytest.mark.parametrize("kind", ["directory", "GGUF file", "SHARP checkpoint", "architecture", "hub repository"])
def test_a_plan_and_sizes_need_a_configuration_alone(kind: str, verb: str, models: dict[str, str]) -> None:
    plan = () if kind == "SHARP checkpoint" else ("--plan", "t_next", "--rank", "32")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": models["cache"]}
    assert imports(verb, models[kind], *plan, **offline) == NOTHING


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.pte` of one linear, for XNNPACK."""
    path = tmp_path_factory.mktemp("programs") / "model.pte"
    exported = torch.export.export(nn.Linear(8, 8).requires_grad_(False), (torch.randn(2, 8),), strict=False)
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path.write_bytes(edge.to_executorch().buffer)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("described", [True, False])
def test_a_program_is_inspected_without_its_runtime(described: bool, program: Path, tmp_path: Path) -> None:
    shutil.copy(program, tmp_path / "model.pte")
    if described:
        (tmp_path / "manifest.json").write_text(json.dumps({"sha256": sha256_of(program), "names": {}}))
    assert imports("inspect", tmp_path) == NOTHING


def test_exports_and_results_are_compared_and_checked_as_files(tmp_path: Path) -> None:
    manifest = write_export(tmp_path / "tiny")
    write_results(tmp_path / "tiny" / "results-host.json", results(identity(manifest)))
    budgets = tmp_path / "budgets.toml"
    budgets.write_text("[tiny]\nfile_bytes = { at_most = 1_000, tolerance = 0.0 }\n")
    assert imports("compare", tmp_path / "tiny", "--markdown", tmp_path / "table.md") == NOTHING
    assert imports("check", tmp_path / "tiny", "--budgets", budgets) == NOTHING


def test_the_help_and_the_package_import_nothing_of_it() -> None:
    assert imports("--help") == NOTHING
    heavy = [*HEAVY, "numpy", "pydantic", "click"]
    code = f"import sys, sharp_mobile; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert found.stdout.strip() == "[]"


def test_a_page_with_pictures_is_what_draws(tmp_path: Path) -> None:
    """So the test would see an import."""
    write_export(tmp_path / "tiny")
    ended = imports("compare", tmp_path / "tiny", "--html", tmp_path / "page.html")
    assert ended == "imported: ['matplotlib'], status 0"
