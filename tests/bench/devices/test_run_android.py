"""`bench --on android` from the export to the results, on a fake phone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adbutils import AdbClient
from fake_adb import FakeAdb, FakePhone
from tiny_phones import PATIENCE, an_export

from sharp_mobile.bench.devices.android import find_android
from sharp_mobile.bench.devices.device import Patience
from sharp_mobile.bench.devices.run import bench_phone
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import Results, read_results
from sharp_mobile.console import Console, reporting
from sharp_mobile.errors import SharpError

pytestmark = pytest.mark.slow

RESULTS = "results-android-pixel-8-pro.json"


def bench(adb: FakeAdb, *exports: Export, settings: dict[str, str] | None = None, **options: Any) -> list[str]:
    """Benchmark on the fake phones; what the user is told."""
    told: list[str] = []
    client = AdbClient("127.0.0.1", adb.port)

    def find(serial: str | None, patience: Patience) -> Any:
        return find_android(serial, patience, client)

    def tell(line: str) -> None:
        told.append(line)
        also(line)

    also = options.pop("also", list[str]().append)
    options = {"patience": PATIENCE, "find": find, **options}
    with reporting(Console(say=tell)):
        bench_phone("android", [export.directory for export in exports], settings or {}, **options)
    return told


def results(export: Export) -> Results:
    return read_results(export.directory / RESULTS)


def test_results_of_each_export_lie_beside_it(adb: FakeAdb, export: Export, another: Export) -> None:
    told = bench(adb, export, another, settings={"repetitions": "2"})
    for each in (export, another):
        found = results(each)
        assert found.status == "ok"
        assert found.export == each.identity
        assert found.warnings == ()
        assert (found.device.thermal, found.device.battery) == ("none", "87%, charging, 31.5 °C")
    assert "Pixel 8 Pro, Android 15, thermal state none, battery 87%, charging, 31.5 °C" in told
    assert any(line.startswith("repetition 2 of 2: ") for line in told)


def test_only_settings_that_were_given_reach_the_app(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    settings = {"threads": "4", "prefill": "16", "decode": "4", "threads_sweep": "1,2,performance", "depths": "8,16"}
    bench(adb, another, settings=settings)
    extras = (on_phone.root / "extras.json").read_text()
    assert '"threads": "4"' in extras
    assert '"prefill": "16"' in extras
    assert '"threads_sweep": "1,2,performance"' in extras
    assert '"depths": "8,16"' in extras
    assert "sustain" not in extras
    assert "repetitions" not in extras


def test_other_tokens_than_the_manifests_are_a_warning(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    on_phone.behave(results={"tokens": [5, 0, 7]})
    told = bench(adb, another)
    assert results(another).expected_tokens == another.tokens
    assert "  warning: greedy tokens differ from the export's at position 1 of 3" in "\n".join(told)


def test_results_of_another_pte_are_refused(adb: FakeAdb, on_phone: FakePhone, export: Export, another: Export) -> None:
    on_phone.behave(results={"export": export.identity.model_dump()})
    with pytest.raises(SharpError, match=r"results of unshared: belong to another \.pte"):
        bench(adb, another)
    assert not (another.directory / RESULTS).exists()


def test_a_cable_that_is_pulled_in_the_middle_of_a_run_stops_nothing(adb: FakeAdb, another: Export) -> None:
    adb.away = 1.0

    pulled: list[str] = []

    def pull(line: str) -> None:
        if line.startswith("repetition") and not pulled:  # a busy machine may miss the first ones
            pulled.append(line)
            adb.pull()

    told = bench(adb, another, settings={"repetitions": "20"}, also=pull)
    assert pulled
    assert sum("waiting for it" in line for line in told) >= 1
    assert results(another).status == "ok"


def test_an_app_that_the_system_ends_leaves_its_journal(
    adb: FakeAdb, on_phone: FakePhone, export: Export, another: Export
) -> None:
    on_phone.behave(die=2)
    with pytest.raises(SharpError, match=f"{RESULTS}: the system ended the app during repetition 2 of 3: shared"):
        bench(adb, export, another)
    assert results(export).error == "the system ended the app during repetition 2 of 3: shared"
    assert results(another).error == "the system ended the app during repetition 1 of 3: unshared"


def test_an_app_that_is_ended_without_a_journal_has_results_all_the_same(
    adb: FakeAdb, on_phone: FakePhone, another: Export
) -> None:
    on_phone.behave(die=1, silent=True)
    with pytest.raises(SharpError, match="the system ended the app during repetition 1 of 3: unshared, most likely"):
        bench(adb, another)
    found = results(another)
    assert (found.status, found.forward, found.settings.harness) == ("failed", None, "sharp-mobile")
    assert found.device.model == "Pixel 8 Pro"


def test_a_results_file_of_an_earlier_run_is_not_taken(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    bench(adb, another)
    on_phone.behave(die=1, silent=True)
    with pytest.raises(SharpError, match="the system ended the app"):
        bench(adb, another)
    assert results(another).status == "failed"


def test_an_export_of_another_runtime_is_told_and_the_others_go_on(
    adb: FakeAdb, another: Export, tmp_path: Path
) -> None:
    old = an_export(tmp_path / "exports" / "old", size=1000, executorch="1.4.0")
    with pytest.raises(SharpError, match=r"old is for executorch 1\.4\.0, this app has 1\.5\.1"):
        bench(adb, old, another)
    assert results(old).status == "failed"
    assert results(another).status == "ok"


def test_a_run_that_cannot_be_done_is_told(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    on_phone.behave(fail="no memory is left")
    with pytest.raises(SharpError, match="A1B2: no memory is left"):
        bench(adb, another)


def test_an_app_that_says_nothing_is_told(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    on_phone.behave(mute=True)
    with pytest.raises(SharpError, match="A1B2: the app reports nothing; unlock the phone"):
        bench(adb, another, patience=replace(PATIENCE, silent=0.3))


def test_an_app_that_says_nothing_new_is_told(adb: FakeAdb, another: Export) -> None:
    with pytest.raises(SharpError, match="A1B2: the app has reported nothing new for 0 s; end it and start again"):
        bench(adb, another, patience=replace(PATIENCE, stuck=0.0))


def test_a_status_of_another_kind_of_app_is_told(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    on_phone.behave(state="dreaming")
    with pytest.raises(SharpError, match=r"status\.json is from another sharp-mobile version; install"):
        bench(adb, another)


@pytest.mark.parametrize(("status", "state"), [(2, "moderate"), (3, "severe"), (5, "emergency")])
def test_a_phone_that_is_too_warm_is_refused(
    status: int, state: str, adb: FakeAdb, on_phone: FakePhone, another: Export
) -> None:
    on_phone.set_thermal(status)
    with pytest.raises(SharpError, match=f"thermal state is {state}, .* let it cool down, or use --allow-throttled"):
        bench(adb, another)
    assert adb.received == 0


def test_a_phone_that_is_too_warm_is_measured_when_told(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    on_phone.set_thermal(3)
    bench(adb, another, allow_throttled=True)
    assert results(another).device.thermal == "severe"


def test_numbers_of_a_phone_that_became_too_warm_are_refused(
    adb: FakeAdb, on_phone: FakePhone, another: Export
) -> None:
    on_phone.behave(results={"conditions": [{"at": 0.0, "thermal": "none"}, {"at": 2.0, "thermal": "severe"}]})
    with pytest.raises(SharpError, match=r"too warm while unshared was measured .*severe.* no results were written"):
        bench(adb, another)
    assert not (another.directory / RESULTS).exists()
    bench(adb, another, allow_throttled=True)
    assert [condition.thermal for condition in results(another).conditions] == ["none", "severe"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"threads_sweep": "1,fast"}, "--threads-sweep 1,fast: give numbers of threads"),
        ({"depths": "512"}, "--depth 512: .* has a KV cache of 64 tokens, which has no room for 64 more"),
        ({"depths": "60", "decode": "8"}, "--depth 60: .* no room for 8 more; give at most 56"),
    ],
)
def test_settings_that_no_phone_can_run_are_refused_before_the_push(
    adb: FakeAdb, another: Export, settings: dict[str, str], problem: str
) -> None:
    with pytest.raises(SharpError, match=problem):
        bench(adb, another, settings=settings)
    assert adb.received == 0


def test_fixed_performance_mode_lasts_as_long_as_the_run(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    bench(adb, another, fixed_performance=True)
    assert results(another).settings.fixed_performance is True
    modes = [command for command in on_phone.commands if "fixed-performance" in command]
    assert [command.rpartition(" ")[2] for command in modes] == ["true", "false"]
    started = next(index for index, command in enumerate(on_phone.commands) if "export_dir" in command)
    assert on_phone.commands.index(modes[0]) < started < on_phone.commands.index(modes[1])


def test_a_phone_without_fixed_performance_mode_is_not_measured(
    adb: FakeAdb, on_phone: FakePhone, another: Export
) -> None:
    (on_phone.root / "no-fixed-performance").touch()
    with pytest.raises(SharpError, match="this phone has no fixed-performance mode; it needs Android 11 or later"):
        bench(adb, another, fixed_performance=True)
    assert not (another.directory / RESULTS).exists()


def test_without_the_app_it_is_said_how_to_install_it(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    (on_phone.root / "installed").unlink()
    with pytest.raises(SharpError, match=r"the benchmark app is not installed; build it as android_bench/README\.md"):
        bench(adb, another)


def test_the_app_is_installed_over_a_cable_that_is_pulled(
    adb: FakeAdb, on_phone: FakePhone, another: Export, tmp_path: Path
) -> None:
    (on_phone.root / "installed").unlink()
    (tmp_path / "app.apk").write_bytes(b"APK" + bytes(100_000))
    adb.cut_at = 50_000
    bench(adb, another, app=tmp_path / "app.apk")
    assert results(another).status == "ok"
    assert not list((on_phone.root / "tmp").iterdir())
    (tmp_path / "app.apk").write_bytes(b"nothing")
    with pytest.raises(SharpError, match=r"does not install it: Failure .INSTALL_PARSE_FAILED_NOT_APK"):
        bench(adb, another, app=tmp_path / "app.apk")
    with pytest.raises(SharpError, match=r"none\.apk: no such file"):
        bench(adb, another, app=tmp_path / "none.apk")


def test_the_app_makes_its_own_directory_before_anything_is_written(
    adb: FakeAdb, on_phone: FakePhone, another: Export
) -> None:
    (on_phone.files / "exports").rmdir()
    on_phone.behave(locked=True)
    with pytest.raises(SharpError, match=r"the app does not create .*files/exports; unlock the phone"):
        bench(adb, another, patience=Patience(poll=0.02, silent=0.1))
    on_phone.behave()
    bench(adb, another)
    assert results(another).status == "ok"


def test_an_app_without_the_activity_is_told(adb: FakeAdb, on_phone: FakePhone, another: Export) -> None:
    (on_phone.root / "no-activity").touch()
    with pytest.raises(SharpError, match="A1B2: the app does not start: Error"):
        bench(adb, another)


@pytest.mark.parametrize(
    ("phones", "serial", "told"),
    [
        ({}, None, "no Android phone is attached; plug one in and turn on USB debugging"),
        (
            {"A": "device", "B": "device"},
            None,
            r"2 phones are attached: A \(device\), B \(device\); choose one with --serial",
        ),
        ({"A": "device"}, "C", r"--serial C: no such phone; attached: A \(device\)"),
        (
            {"A": "unauthorized"},
            None,
            "A: has not allowed this computer to debug it; unlock it and accept the question",
        ),
        ({"A": "device", "B": "offline"}, "B", "B: does not answer; unplug it, plug it in again"),
        ({"A": "recovery"}, None, "A: is in state recovery; start it as usual"),
    ],
)
def test_which_phone(phones: dict[str, str], serial: str | None, told: str, another: Export, tmp_path: Path) -> None:
    adb = FakeAdb(*(FakePhone(tmp_path / name, name, state) for name, state in phones.items()))
    with pytest.raises(SharpError, match=told):
        bench(adb, another, identifier=serial)
    adb.close()


def test_one_of_several_phones_is_chosen(another: Export, tmp_path: Path) -> None:
    adb = FakeAdb(*(FakePhone(tmp_path / name, name) for name in ("A", "B")))
    bench(adb, another, identifier="B")
    adb.close()
    assert (adb.phones["B"].files / "exports" / "unshared" / "model.pte").is_file()
    assert not (adb.phones["A"].files / "exports" / "unshared").exists()


def test_what_is_no_export_is_told_before_a_phone_is_looked_for(adb: FakeAdb, another: Export, tmp_path: Path) -> None:
    (another.directory / "manifest.json").unlink()
    with pytest.raises(SharpError, match="unshared: is not an export's directory: it has no manifest"):
        bench(adb, another)
    named = an_export(tmp_path / "exports" / "of me", size=1000)
    with pytest.raises(SharpError, match="of me: the phone cannot use this directory name; rename it"):
        bench(adb, named)
    twin = an_export(tmp_path / "more" / "twin", size=1000), an_export(tmp_path / "less" / "twin", size=1000)
    with pytest.raises(SharpError, match="twin: two exports have this directory's name"):
        bench(adb, *twin)
