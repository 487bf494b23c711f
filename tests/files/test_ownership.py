"""Only directories that hold nothing but what sharp-mobile wrote are replaced."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_exports import write_export
from tiny_models import tiny_model, tiny_tokenizer

from sharp_mobile.checkpoint.merge import MergeDescription, merge
from sharp_mobile.checkpoint.open import open_checkpoint
from sharp_mobile.checkpoint.sharp_format import save_sharp_checkpoint
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import check_writable, replace_directory
from sharp_mobile.files.ownership import KINDS, check_ours
from sharp_mobile.model.share import share_layers
from sharp_mobile.pipeline import ExportResult
from sharp_mobile.recipe.plan import SharePlan
from sharp_mobile.recipe.recovery import Recovery
from sharp_mobile.recipe.sharp_json import SharpDescription
from sharp_mobile.verify.manifest import Manifest


@pytest.fixture
def export(tmp_path: Path) -> Path:
    write_export(tmp_path / "out")
    return tmp_path / "out"


def refused(out: Path) -> str:
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def replace() -> None:
        with replace_directory(out):
            pytest.fail("the long work began")

    with pytest.raises(SharpError) as error:
        replace()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps({"name": "My app", "icons": [], "start_url": "/"}), "it has no field expected"),
        (json.dumps({"manifest_version": 3, "name": "x"}), "was not written by sharp-mobile"),
        ("{}", "was not written by sharp-mobile"),
        ("[]", "must hold a JSON object"),
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
)
@pytest.mark.parametrize("marker", [kind.marker for kind in KINDS])
def test_a_marker_of_somebody_else_is_no_marker(marker: str, content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / marker).write_text(content)
    (tmp_path / "app" / "index.html").write_text("<html>")
    message = refused(tmp_path / "app")
    assert message.startswith(str(tmp_path / "app" / marker))
    assert "choose another" in message
    if "expected" not in told or marker == "manifest.json":
        assert told in message


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        ".git/HEAD",
        "results/phone.json",
        "packed/mine.txt",
        "compare.html",
        "model.pte.bak",
        "packed/a/b.cache",
    ],
)
def test_a_foreign_file_in_an_export_is_named_and_stays(name: str, export: Path) -> None:
    (export / name).parent.mkdir(parents=True, exist_ok=True)
    (export / name).write_text("mine")
    message = refused(export)
    assert message.startswith(str(export / Path(name).parts[0]))
    assert "move it away" in message


def test_what_the_other_verbs_leave_in_an_export_is_ours(export: Path) -> None:
    names = ["results-host.json", "results-android-pixel-6.json", "perplexity.json", "forward.etdump", "report.md"]
    names += ["packed/pixel-6.cache", "packed/pixel-6.cache.partial-0123456789ab/pixel-6.cache", ".DS_Store"]
    for name in names:
        (export / name).parent.mkdir(parents=True, exist_ok=True)
        (export / name).write_text("")
    assert check_writable(export) == export


def test_what_the_verbs_write_is_ours(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}  # goes into a directory
    model, plan = tiny_model(), SharePlan.parse("2:3", 6)
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    share_layers(model, plan, Recovery("lora", 4))
    checkpoint = open_checkpoint(tmp_path / "plain")
    sharp = save_sharp_checkpoint(model, plan, tmp_path / "sharp", tokenizer_source=checkpoint)
    assert (sharp / "additional_chat_templates").is_dir()
    for directory in (sharp, merge(sharp, tmp_path / "merged")):
        check_ours(directory)


@pytest.mark.slow
def test_an_export_is_ours(tiny_export: ExportResult, tmp_path: Path) -> None:
    shutil.copytree(tiny_export.directory, tmp_path / "out")
    check_ours(tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "model"), list(zip(KINDS, (Manifest, SharpDescription, MergeDescription), strict=True))
)
def test_the_fields_of_a_marker_are_written_always(kind: type, model: type) -> None:
    assert kind.fields <= model.model_fields.keys()
