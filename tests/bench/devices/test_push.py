"""Bringing exports to a phone whose cable is pulled at any byte."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from fake_adb import FakeAdb, FakePhone
from reported import recorded
from tiny_exports import write_export
from tiny_phones import PATIENCE, PTE_BYTES, small_files

from sharp_mobile.bench.devices.android import AndroidPhone
from sharp_mobile.bench.devices.device import Patience
from sharp_mobile.bench.devices.push import BLOCK, CHUNK, push
from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.console import Console, reporting
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of

pytestmark = pytest.mark.slow


def assert_there(on_phone: FakePhone, export: Export) -> None:
    """The phone has the export, byte by byte, and nothing else in its folder."""
    folder = on_phone.files / "exports" / export.directory.name
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "model.pte", "tokenizer.json"]
    for file in folder.iterdir():
        assert sha256_of(file) == sha256_of(export.directory / file.name)


def test_an_export_arrives_and_is_not_sent_again(
    adb: FakeAdb, phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    push(phone, [export], PATIENCE)
    assert_there(on_phone, export)
    assert adb.received == PTE_BYTES + small_files(export)
    push(phone, [export], PATIENCE)
    assert adb.received == PTE_BYTES + small_files(export)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_push_that_is_cut_goes_on_where_it_was_cut(
    seed: int, adb: FakeAdb, phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    adb.cut_at = random.Random(seed).randrange(PTE_BYTES)
    with recorded() as report:
        push(phone, [export], PATIENCE)
    assert adb.cuts == 1
    assert sum("waiting for it" in line for line in report.lines) >= 1
    assert_there(on_phone, export)
    once = PTE_BYTES + small_files(export)
    assert once <= adb.received <= once + CHUNK


def test_a_push_that_is_cut_twenty_times_arrives(
    adb: FakeAdb, phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    places = sorted(random.Random(7).sample(range(PTE_BYTES), 20))
    adb.cut_at = places.pop(0)

    def cut_again(line: str) -> None:
        if "waiting for it" in line and adb.cut_at is None and places:
            adb.cut_at = max(places.pop(0), adb.received + 1)

    with reporting(Console(say=cut_again)):
        push(phone, [export], PATIENCE)
    assert adb.cuts == 20
    assert_there(on_phone, export)
    assert adb.received <= PTE_BYTES + small_files(export) + 20 * CHUNK


def test_a_push_that_was_given_up_goes_on_when_started_again(
    adb: FakeAdb, phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    adb.cut_at, adb.away = PTE_BYTES // 2, 0.3
    with pytest.raises(SharpError, match=r"A1B2: did not come back within 0 s; plug it in and start again"):
        push(phone, [export], Patience(poll=0.02, away=0.1))
    folder = on_phone.files / "exports" / export.directory.name
    assert not (folder / "manifest.json").exists()
    push(phone, [export], PATIENCE)
    assert_there(on_phone, export)
    assert adb.received <= PTE_BYTES + small_files(export) + CHUNK


def test_bytes_that_changed_on_the_phone_are_not_taken_for_the_file(
    adb: FakeAdb, phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    part = on_phone.files / "exports" / export.directory.name / f"model.pte.{export.identity.sha256[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(4 * BLOCK))
    with pytest.raises(SharpError, match="another file arrived on A1B2, and was deleted there; start again"):
        push(phone, [export], PATIENCE)
    assert not part.exists()
    push(phone, [export], PATIENCE)
    assert_there(on_phone, export)


def test_another_export_of_the_same_name_is_replaced(
    phone: AndroidPhone, on_phone: FakePhone, export: Export, another: Export
) -> None:
    push(phone, [another], PATIENCE)
    folder = on_phone.files / "exports" / another.directory.name
    (folder / "packed").mkdir()
    (folder / "packed" / "old.cache").touch()
    (folder / f"model.pte.{'0' * 16}.part").touch()
    renamed = export.directory.rename(another.directory.with_name("new"))
    another.directory.rename(another.directory.with_name("old"))
    renamed.rename(another.directory)
    push(phone, [another], PATIENCE)
    assert sha256_of(folder / "model.pte") == export.identity.sha256
    assert not (folder / "packed" / "old.cache").exists()
    assert not list(folder.glob("*.part"))


def test_packed_weights_are_brought_too(phone: AndroidPhone, on_phone: FakePhone, tmp_path: Path) -> None:
    directory = tmp_path / "packed-export"
    write_export(directory)
    (directory / "packed").mkdir()
    (directory / "packed" / "pixel-6.cache").write_bytes(b"packed")
    content = json.loads((directory / "manifest.json").read_text())
    key = {"profile": "pixel-6", "cpu_class": "", "runtime": "1.5.1", "pte_sha256": content["sha256"]}
    content["packed"] = [{"file": "packed/pixel-6.cache", "sha256": "", "bytes": 6, **key}]
    (directory / "manifest.json").write_text(json.dumps(content))
    push(phone, [read_export(directory)], PATIENCE)
    assert (on_phone.files / "exports/packed-export/packed/pixel-6.cache").read_bytes() == b"packed"


def test_too_little_room_is_told_before_anything_is_sent(
    adb: FakeAdb, phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    (on_phone.root / "free").write_text("1000")
    with pytest.raises(SharpError, match=r"A1B2: 8,4\d\d,\d\d\d bytes must be sent, but only 1,024,000 are free on it"):
        push(phone, [export], PATIENCE)
    assert adb.received == 0


def test_a_disk_that_fills_up_is_told(phone: AndroidPhone, on_phone: FakePhone, export: Export) -> None:
    (on_phone.root / "full").touch()
    with pytest.raises(SharpError, match=r"A1B2: dd fails: .*No space left on device"):
        push(phone, [export], PATIENCE)


def test_a_cable_that_breaks_at_once_every_time_is_given_up(adb: FakeAdb, phone: AndroidPhone, export: Export) -> None:
    adb.away = 0.0

    def cut_again(line: str) -> None:
        adb.cut_at = adb.received

    adb.cut_at = 0
    with (
        reporting(Console(say=cut_again)),
        pytest.raises(SharpError, match="the connection broke 5 times; try another cable or port"),
    ):
        push(phone, [export], replace(PATIENCE, cuts=5))


@pytest.mark.parametrize("answer", ["", "²", "9" * 5000, "-1", "nproc: not found", "8\n8"])
def test_an_answer_that_is_no_number_is_told(answer: str, phone: AndroidPhone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone, "_output", lambda command, **options: answer)
    for asked in (phone.device, phone.free_bytes):
        with pytest.raises(SharpError, match=r"A1B2: .* answers .*, which is not a number; restart the phone"):
            asked()


def test_a_name_on_the_phone_that_leads_out_of_the_folder_is_not_deleted(
    phone: AndroidPhone, on_phone: FakePhone, export: Export
) -> None:
    """`ls` shows a name with a line feed as two, of which one may be `..`."""
    push(phone, [export], PATIENCE)
    folder = on_phone.files / "exports" / "shared"
    (folder / "old\n..").write_text("x")
    (folder / "older").write_text("x")
    push(phone, [export], PATIENCE)
    assert (folder / "manifest.json").is_file()
    assert not (folder / "older").exists()
