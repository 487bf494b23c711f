"""An iPhone: pymobiledevice3's own AFC client against a server that speaks AFC, with a cable that is pulled."""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_afc import FakeAfc, FakeServices
from reported import recorded
from tiny_phones import PATIENCE, PTE_BYTES, small_files

from sharp_mobile.bench.devices.ios import IosPhone
from sharp_mobile.bench.devices.ios_services import describe_battery
from sharp_mobile.bench.devices.push import CHUNK, push
from sharp_mobile.bench.devices.run import bench_phone
from sharp_mobile.bench.exports import Export
from sharp_mobile.bench.results import read_results
from sharp_mobile.errors import SharpError
from sharp_mobile.files.digests import sha256_of

pytestmark = pytest.mark.slow


@pytest.fixture
def services(tmp_path: Path) -> Iterator[FakeServices]:
    found = FakeServices(FakeAfc(tmp_path / "iphone"))
    yield found
    found.end()


@pytest.fixture
def iphone(services: FakeServices) -> Iterator[IosPhone]:
    """The iPhone as the driver sees it."""
    with closing(IosPhone(services)) as found:
        yield found


def bench(
    services: FakeServices, *exports: Export, settings: dict[str, str] | None = None, **options: Any
) -> list[str]:
    """Benchmark on the fake iPhone; what the user is told."""
    options = {
        "patience": PATIENCE,
        "find": lambda udid, patience: IosPhone(services),
        **options,
    }
    with recorded() as report:
        bench_phone("ios", [export.directory for export in exports], settings or {}, **options)
    return report.lines


@pytest.mark.parametrize("seed", range(20))
def test_a_push_that_is_cut_goes_on_where_it_was_cut(
    seed: int, services: FakeServices, iphone: IosPhone, export: Export
) -> None:
    server = services.server
    server.cut_at = random.Random(seed).randrange(PTE_BYTES)
    push(iphone, [export], PATIENCE)
    assert server.cuts == 1
    folder = server.root / "Documents/exports/shared"
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "model.pte", "tokenizer.json"]
    assert all(sha256_of(file) == sha256_of(export.directory / file.name) for file in folder.iterdir())
    once = PTE_BYTES + small_files(export)
    assert once <= server.received <= once + CHUNK


def test_results_lie_beside_each_export(services: FakeServices, export: Export, another: Export) -> None:
    services.behaviour = {"results": {"device": {"kind": "ios", "model": "x", "os": "y", "cpu": "z", "cores": 6}}}
    told = bench(services, export, another, settings={"repetitions": "2"})
    for each in (export, another):
        found = read_results(each.directory / "results-ios-iphone16-1.json")
        assert (found.status, found.export) == ("ok", each.identity)
        assert (found.device.kind, found.device.battery) == ("ios", "80%, charging")
    assert any(line.startswith("repetition 2 of 2: ") for line in told)


def test_an_app_that_jetsam_ends_leaves_its_journal(services: FakeServices, another: Export) -> None:
    services.behaviour = {"die": 2}
    with pytest.raises(SharpError, match="the system ended the app during repetition 2 of 3: unshared"):
        bench(services, another)
    assert read_results(another.directory / "results-ios-iphone16-1.json").status == "failed"


def test_a_stale_export_is_replaced(services: FakeServices, iphone: IosPhone, another: Export) -> None:
    folder = services.server.root / "Documents/exports/unshared"
    (folder / "packed").mkdir(parents=True)
    (folder / "packed/old.cache").touch()
    (folder / "model.pte").write_bytes(b"another")
    push(iphone, [another], PATIENCE)
    assert sha256_of(folder / "model.pte") == another.identity.sha256
    assert not (folder / "packed/old.cache").exists()


def test_too_little_room_is_told(services: FakeServices, iphone: IosPhone, another: Export) -> None:
    services.server.free = 1000
    with pytest.raises(SharpError, match="bytes must be sent, but only 1,000 are free on it; delete something there"):
        push(iphone, [another], PATIENCE)
    services.server.free, services.server.full = 1 << 40, True
    with pytest.raises(SharpError, match="its storage is full, delete something there"):
        push(iphone, [another], PATIENCE)


def test_without_the_app_it_is_said_how_to_install_it(services: FakeServices, another: Export) -> None:
    services.has_app = False
    with pytest.raises(
        SharpError,
        match=r"the app dev\.sharpmobile\.bench is not installed; build it as ios_bench/README\.md.*--bundle-id",
    ):
        bench(services, another)


def test_the_battery_as_the_registry_has_it() -> None:
    registry = {"CurrentCapacity": 80, "IsCharging": False, "Temperature": 3012, "Voltage": 4000}
    assert describe_battery(registry) == "80%, not charging, 30.1 °C"
    assert describe_battery({}) is None
