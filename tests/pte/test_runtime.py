"""A `.pte` runs without the compilers that made it."""

import subprocess
import sys
from pathlib import Path

import pytest
from project import PROJECT

from sharp_mobile.bench.exports import Export
from sharp_mobile.errors import SharpError
from sharp_mobile.pte import runtime

RUN = """
import sys
import torch
from sharp_mobile.pte.runtime import load_pte
logits = load_pte(sys.argv[1])(torch.tensor([[1, 2, 3]]), 0)
compilers = ("executorch.exir", "torch._inductor", "torch._dynamo")
print(logits.shape[0], [name for name in compilers if name in sys.modules])
"""


@pytest.mark.slow
def test_a_program_runs_without_a_compiler(shared: Export) -> None:
    command = [sys.executable, "-c", RUN, str(shared.pte)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert ended.stdout == "1 []\n", ended.stderr[-2000:]


def test_a_missing_library_of_operators_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "executorch_package", lambda: (tmp_path, "1.5.1"))
    with pytest.raises(SharpError, match="has 0 libraries of operators, not one; install executorch again"):
        runtime._attention_library()
