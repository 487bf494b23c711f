"""Whatever happens to a manifest, results, a sweep, a perplexity or a budget: a command ends well, or says one line.

It prints text alone, and no file outside the directory that it writes changes.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from damage import ODD, assert_text, contents, damaged_budgets, damaged_json, one_line_or_fine, outcome, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from reported import recorded
from tiny_exports import HOST, Place, write_export
from tiny_phones import PATIENCE

from sharp_mobile.bench.arm64 import prepack
from sharp_mobile.bench.arm64.profiles import read_profile
from sharp_mobile.bench.bundle import bundle
from sharp_mobile.bench.devices.device import AttachedPhone
from sharp_mobile.bench.devices.run import bench_phone
from sharp_mobile.bench.exports import read_export
from sharp_mobile.bench.results import Device, read_results
from sharp_mobile.errors import SharpError
from sharp_mobile.verify.inspect_export import described_by_manifest

FEW = settings(ODD, max_examples=15)
SOME = settings(ODD, max_examples=60)


@contextmanager
def place() -> Iterator[Place]:
    """A place of its own for each example; when the block ends, what lies outside its `out` is as it was damaged."""
    with tempfile.TemporaryDirectory() as directory:
        yield Place(Path(directory).resolve())


@contextmanager
def unchanged(found: Place, *but: Path) -> Iterator[None]:
    """Nothing outside of `out` and `but` changes."""
    before = contents(found.root, found.out, *but)
    yield
    assert contents(found.root, found.out, *but) == before


def compare_all(found: Place) -> str:
    with unchanged(found):
        return outcome("compare", found.export, "--markdown", found.out / "table.md")


@ODD
@given(data=st.data())
def test_a_manifest_that_is_compared(data: st.DataObject) -> None:
    with place() as found:
        found.damage(data.draw, "manifest.json")
        compare_all(found)
        if (found.out / "table.md").exists():
            assert_text((found.out / "table.md").read_text())


@ODD
@given(data=st.data())
def test_results_that_are_compared(data: st.DataObject) -> None:
    with place() as found:
        found.damage(data.draw, data.draw(st.sampled_from(["results-host.json", "results-arm64.json"])))
        compare_all(found)
        if (found.out / "table.md").exists():
            table = (found.out / "table.md").read_text()
            assert_text(table)
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines() if line.startswith("|")}) == 1


@FEW
@given(data=st.data())
def test_results_and_sweeps_that_are_drawn(data: st.DataObject) -> None:
    with place() as found:
        found.damage(data.draw, data.draw(st.sampled_from(["results-host.json", "../../sweep.json"])))
        page = found.out / "page.html"
        with unchanged(found):
            outcome("compare", found.export, "--sweep", found.root / "sweep.json", "--html", page)
        if page.exists():
            assert "<script" not in page.read_text()
            assert_text(page.read_text())


@SOME
@given(data=st.data())
def test_a_perplexity_that_is_compared(data: st.DataObject) -> None:
    with place() as found:
        found.damage(data.draw, "perplexity.json")
        compare_all(found)


@SOME
@given(data=st.data())
def test_budgets_that_are_checked_and_updated(data: st.DataObject) -> None:
    with place() as found:
        budgets = found.out / "budgets.toml"
        content = data.draw(st.none() | damaged_budgets())
        if content is not None:
            budgets.write_bytes(content)
        if data.draw(st.booleans()):
            found.damage(data.draw, "results-host.json")
        update = ["--update"] if data.draw(st.booleans()) else []
        with unchanged(found):
            outcome("check", found.export, "--budgets", budgets, *update)


@SOME
@given(data=st.data())
def test_a_manifest_that_is_bundled(data: st.DataObject) -> None:
    with place() as found:
        found.damage(data.draw, "manifest.json")
        with unchanged(found):
            one_line_or_fine(lambda: bundle(found.export, found.out))
        assert {path.name for path in found.out.iterdir()} <= {"tiny"}


@SOME
@given(data=st.data())
def test_a_manifest_that_is_prepacked(data: st.DataObject) -> None:
    """What comes before and after the emulated launches; no launch."""
    with place() as found:
        found.damage(data.draw, "manifest.json")

        def pack() -> None:
            export, profile = read_export(found.export), read_profile("pixel-6")
            prepack.packed_for(export, profile)
            for packed in export.packed:
                prepack._add_to_manifest(found.export / "manifest.json", packed)

        with unchanged(found, found.export / "manifest.json"):
            message = refusal(pack)
        assert "\n" not in message
        if not message:
            read_export(found.export)


@FEW
@given(data=st.data())
def test_a_manifest_that_is_benchmarked(data: st.DataObject) -> None:
    """Up to the first launch: there is no compiler."""
    with place() as found, pytest.MonkeyPatch.context() as patch:
        found.damage(data.draw, "manifest.json")

        def no_compiler() -> Path:
            raise SharpError("no compiler")

        patch.setattr("sharp_mobile.bench.host.build_runner", no_compiler)
        with unchanged(found):
            assert outcome("bench", found.export, "--out", found.out / "results.json") != ""


@SOME
@given(data=st.data())
def test_what_a_manifest_says_of_a_program(data: st.DataObject) -> None:
    """As `inspect`, `generate` and `evaluate` read it."""
    with place() as found:
        found.damage(data.draw, "manifest.json")
        one_line_or_fine(lambda: described_by_manifest(found.export / "model.pte"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"sha256": ', '{"sha256": 3}'])
def test_a_damaged_manifest_has_one_way_out_in_every_command(text: str, tmp_path: Path) -> None:
    found = Place(tmp_path)
    found.write("manifest.json", text)
    messages = [outcome(verb, found.export) for verb in ("inspect", "compare", "check")]
    for told in (*messages, refusal(lambda: bundle(found.export, found.out))):
        assert "manifest.json: " in told
        assert told.endswith(("export the model again", "export it again"))


# A phone


class MemoryPhone(AttachedPhone):
    """A phone that says whatever it is told to say, and keeps its files in memory."""

    name, kind, exports, results = "A1B2", "android", "/app/exports", "/app/results"

    def __init__(self, device: Device, answers: Mapping[str, bytes]) -> None:
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self._device, self._answers = device, answers

    def attached(self) -> bool:
        return True

    def device(self) -> Device:
        return self._device

    def prepare_app(self, package: Path | None) -> None: ...

    def start(self, exports: Sequence[str], settings: Mapping[str, int]) -> None:
        for name, answer in self._answers.items():
            self.files[f"{self.results}/{name}"] = answer

    def running(self) -> bool:
        return False

    def stop(self) -> None: ...

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()

    def write(self, path: str, offset: int, data: bytes) -> None:
        self.files[path] = self.files.get(path, b"")[:offset].ljust(offset, b"\0") + data

    def read(self, path: str) -> str | None:
        return self.files[path].decode(errors="replace") if path in self.files else None

    def list(self, directory: str) -> Sequence[str]:
        return ["..", "a/../../b", "old\x1b", "old"]

    def make_directory(self, directory: str) -> None: ...

    def rename(self, source: str, target: str) -> None:
        self.files[target] = self.files.pop(source)

    def delete(self, path: str) -> None:
        self.deleted.append(path)
        self.files.pop(path, None)

    def free_bytes(self) -> int:
        return 10**9

    def close(self) -> None: ...


def on_phone(found: Place, phone: MemoryPhone) -> tuple[str, list[str]]:
    """Benchmark on the phone: what is refused, and what is said."""

    def bench() -> None:
        patience = replace(PATIENCE, silent=0.0)
        bench_phone("android", [found.export], {}, patience=patience, find=lambda *_: phone)

    with recorded() as report:
        return refusal(bench), report.lines


DONE = b'{"state": "done"}'


@SOME
@given(data=st.data())
def test_what_a_phone_answers(data: st.DataObject) -> None:
    with place() as found:
        whole = json.loads((found.export / "results-host.json").read_text())
        status = {"state": "done", "progress": "decode", "error": None}
        answers = {"results-android-tiny.json": json.dumps(whole).encode(), "status.json": DONE}
        if data.draw(st.booleans()):
            answers["results-android-tiny.json"] = data.draw(damaged_json(whole))
        else:
            answers["status.json"] = data.draw(damaged_json(status))
        phone = MemoryPhone(HOST, answers)
        message, said = on_phone(found, phone)
        assert_text("".join(said))
        written = found.export / "results-android-a-machine.json"
        assert {path.name for path in found.export.glob("results-android*")} <= {written.name}
        assert message or written.exists()
        assert not [path for path in phone.deleted if ".." in path]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("../../x", "results-android-x.json"),
        ("a/b", "results-android-a-b.json"),
        ("小米", "results-android-phone.json"),
        ("\x1b[2J|" * 99, "results-android-x1b-2j-"),
    ],
)
def test_the_name_of_a_phone_is_no_path(model: str, name: str, tmp_path: Path) -> None:
    found = Place(tmp_path)
    device = HOST.model_validate({**HOST.model_dump(), "kind": "android", "model": model})
    answers = {"results-android-tiny.json": (found.export / "results-host.json").read_bytes(), "status.json": DONE}
    message, said = on_phone(found, MemoryPhone(device, answers))
    assert message == ""
    assert_text("".join(said))
    (written,) = found.export.glob("results-android*")
    assert written.name.startswith(name)
    assert len(written.name) < 100
    assert read_results(written).status == "ok"


# Paths out of an export


def packed_as(found: Place, name: Any) -> None:
    manifest = json.loads((found.export / "manifest.json").read_text())
    manifest["packed"][0]["file"] = name
    found.write("manifest.json", json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    [
        "../../Makefile",
        "/etc/passwd",
        "packed/../../../Makefile",
        "model.pte",
        "packed",
        "packed/a/b",
        "packed/\x1b",
        3,
    ],
)
def test_packed_weights_of_another_place_are_refused_everywhere(name: str, tmp_path: Path) -> None:
    found = Place(tmp_path)
    packed_as(found, name)
    phone = MemoryPhone(HOST, {})
    with unchanged(found):
        told = [
            refusal(lambda: bundle(found.export, found.out)),
            on_phone(found, phone)[0],
            outcome("compare", found.export),
            outcome("prepack", found.export),
        ]
    for message in told:
        assert "manifest.json: packed.0.file: " in message
    assert phone.files == {}
    assert list(found.out.iterdir()) == []


def test_packed_weights_that_are_a_link_out_of_the_export_are_refused(tmp_path: Path) -> None:
    found = Place(tmp_path)
    cache = found.export / "packed" / "pixel-6.cache"
    cache.unlink()
    cache.symlink_to(found.root / "Makefile")
    phone = MemoryPhone(HOST, {})
    for message in (refusal(lambda: bundle(found.export, found.out)), on_phone(found, phone)[0]):
        assert "names the file 'packed/pixel-6.cache', which is not inside" in message
    with pytest.raises(SharpError, match="which is not inside"):
        prepack.packed_for(read_export(found.export), read_profile("pixel-6"))
    assert phone.files == {}
    cache.unlink()
    assert "pixel-6.cache: is missing" in refusal(lambda: bundle(found.export, found.out))
    assert list(found.out.iterdir()) == []


def test_a_tokenizer_that_is_a_link_out_of_the_export_is_not_sent(tmp_path: Path) -> None:
    found = Place(tmp_path)
    (found.export / "tokenizer.json").symlink_to(found.root / "Makefile")
    phone = MemoryPhone(HOST, {})
    assert "names the file 'tokenizer.json', which is not inside" in on_phone(found, phone)[0]
    assert phone.files == {}


# Values


def with_field(content: Any, path: str, value: Any) -> bytes:
    *parents, last = path.split(".")
    holder = content
    for name in parents:
        holder = holder[int(name) if name.isdigit() else name]
    holder[last] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("results-host.json", "decode.seconds", [0.0]),
        ("results-host.json", "decode.seconds", [5e-324]),
        ("results-host.json", "forward.seconds", []),
        ("results-host.json", "forward.seconds", [float("nan")]),
        ("results-host.json", "decode.tokens", 10**400),
        ("results-host.json", "memory.peak", -1),
        ("results-host.json", "export.file_bytes", 0),
        ("results-host.json", "device.cores", 0),
        ("results-host.json", "likeliest", [[1, float("inf")]]),
        ("manifest.json", "sizes.file", 0),
        ("manifest.json", "sizes.recovery", 10**6),
        ("manifest.json", "divergence", float("nan")),
        ("manifest.json", "metadata", {}),
        ("manifest.json", "metadata.get_max_context_len", "64"),
        ("manifest.json", "metadata.get_max_context_len", 1),
        ("manifest.json", "expected.tokens", [-1]),
        ("perplexity.json", "perplexity", float("inf")),
        ("perplexity.json", "perplexity", 0.5),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, path: str, value: Any, tmp_path: Path) -> None:
    found = Place(tmp_path)
    found.write(name, with_field(json.loads((found.export / name).read_text()), path, value))
    message = compare_all(found)
    assert name in message
    assert path.split(".")[-1] in message
    assert "again" in message


@pytest.mark.parametrize("text", ['{"schema_version": 1e400}', "9" * 5000, "[" * 100_000, '{"a": 1, "a": 2}', "\xff"])
@pytest.mark.parametrize("name", ["results-host.json", "manifest.json", "perplexity.json"])
def test_a_text_that_is_no_json_is_named(name: str, text: str, tmp_path: Path) -> None:
    found = Place(tmp_path)
    found.write(name, text.encode("latin-1"))
    assert name in compare_all(found)


@pytest.mark.parametrize("name", ["results-host.json", "manifest.json", "perplexity.json"])
def test_something_that_is_no_file_is_named(name: str, tmp_path: Path) -> None:
    found = Place(tmp_path)
    path = found.export / name
    path.unlink()
    path.mkdir()
    assert f"{path}: cannot be read: Is a directory" in outcome("compare", found.export)
    path.rmdir()
    path.symlink_to(path)
    assert f"{path}: cannot be read: Too many levels of symbolic links" in outcome("compare", found.export)
    assert "cannot be read" in outcome("compare", path)
    assert "cannot be read: File name too long" in outcome("compare", "x" * 5000)


# What is printed


def test_names_in_a_table_are_text(tmp_path: Path) -> None:
    found = Place(tmp_path)
    content = json.loads((found.export / "results-host.json").read_text())
    content["device"]["model"] = "\x1b[2J<script>alert(1)</script> | `x`\n| forged | row |"
    content["device"]["cpu"] = "\u202eUPC\r"
    content["status"], content["error"] = "failed", "killed\nerror: forged"
    found.write("results-host.json", json.dumps(content))
    page, table = found.out / "page.html", found.out / "table.md"
    assert outcome("compare", found.export, "--markdown", table, "--html", page) == ""
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    assert "<script" not in table.read_text()
    assert r"\\x1b\[2J&lt;script&gt;alert(1)&lt;/script&gt; \| \`x\`\\n\| forged \| row \|" in table.read_text()
    assert_text(page.read_text() + table.read_text())


def test_an_error_that_names_a_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\nerror: forged.json"
    path.write_text("{")
    assert r"a\x1b[31m error: forged.json: is not valid JSON" in outcome("compare", path)
    directory = tmp_path / "\u202eexport"
    write_export(directory)
    assert outcome("compare", directory) == ""
