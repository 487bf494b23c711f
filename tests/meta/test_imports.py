"""Who may import whom; the contracts stand in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from project import PROJECT


def test_no_import_runs_up_and_no_rooms_import_each_other_in_a_circle(tmp_path: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    command = [linter, "--config", PROJECT / "pyproject.toml", "--cache-dir", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 0, result.stdout
    assert "3 kept, 0 broken" in result.stdout
