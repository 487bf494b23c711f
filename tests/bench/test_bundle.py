"""An export is built into the iPhone app only if the app could run it."""

import json
from pathlib import Path

import pytest
from tiny_exports import write_export

from sharp_mobile.bench.bundle import bundle
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.package import executorch_package


def _made_for(export: Path, version: str) -> None:
    manifest = json.loads((export / "manifest.json").read_text())
    (export / "manifest.json").write_text(json.dumps(manifest | {"versions": {"executorch": version}}))


def test_an_export_is_copied_and_replaced(tmp_path: Path) -> None:
    export, models = tmp_path / "shared", tmp_path / "Models"
    write_export(export)
    _made_for(export, executorch_package()[1])
    (export / "report.md").write_text("not for the app")
    for _ in range(2):
        assert bundle(export, models) == models / "shared"
        assert sorted(file.name for file in (models / "shared").iterdir()) == ["manifest.json", "model.pte"]
        assert (models / "shared" / "model.pte").read_bytes() == (export / "model.pte").read_bytes()


def test_what_the_app_would_refuse_is_refused(tmp_path: Path) -> None:
    export, models = tmp_path / "shared", tmp_path / "Models"
    with pytest.raises(SharpError, match="it has no manifest"):
        bundle(export, models)
    write_export(export)
    _made_for(export, "1.4.0")
    with pytest.raises(SharpError, match=r"was exported for executorch 1\.4\.0, the app has"):
        bundle(export, models)
    (export / "model.pte").write_bytes(b"another")
    with pytest.raises(SharpError, match="does not match its manifest"):
        bundle(export, models)
    assert not models.exists()


def test_an_export_in_the_app_is_not_bundled_over_itself(tmp_path: Path) -> None:
    models = tmp_path / "Models"
    write_export(models / "shared", versions={"executorch": executorch_package()[1]})
    (models / "shared" / "report.md").write_text("mine")
    with pytest.raises(SharpError, match="is the source itself"):
        bundle(models / "shared", models)
    assert (models / "shared" / "report.md").is_file()
