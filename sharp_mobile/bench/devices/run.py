"""The command `bench` on a phone.

    find the phone ─► check the app and the temperature ─► push the exports ─► start the app ─► follow it
                                                                                                 │
    results-android-pixel-8.json in each export  ◄─ compare with the export ◄─ fetch the results ◄┘

Every export gets a results file. If the app could not finish it, its status is `failed`, with the reason. The app
writes such a file before every stage and replaces it afterwards, so that it exists if the system ends the app. If the
app left no file, the driver writes it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from sharp_mobile.bench.devices.device import AttachedPhone, Patience, patiently
from sharp_mobile.bench.devices.follow import STATUS_JSON, follow
from sharp_mobile.bench.devices.push import push
from sharp_mobile.bench.exports import Export, read_export
from sharp_mobile.bench.options import BenchOptions, parse_depths, parse_threads_sweep
from sharp_mobile.bench.results import Device, Results, Settings, now, parse_results, write_results
from sharp_mobile.bench.run import results_places
from sharp_mobile.bench.summary import summary
from sharp_mobile.bench.verdict import throttled, throttling_warnings
from sharp_mobile.console import say
from sharp_mobile.errors import SharpError
from sharp_mobile.files.paths import file_part
from sharp_mobile.verify.manifest import read_manifest

Find = Callable[[str | None, Patience], AttachedPhone]

# The app receives the folders' names as a comma-separated list, through a shell.
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def bench_phone(
    place: str,
    directories: Sequence[Path],
    settings: Mapping[str, str],
    *,
    identifier: str | None = None,
    bundle_id: str | None = None,
    app: Path | None = None,
    allow_throttled: bool = False,
    fixed_performance: bool = False,
    out: Path | None = None,
    patience: Patience | None = None,
    find: Find | None = None,
) -> None:
    """Benchmark exports on an attached phone and write their results.

    Args:
        place: `android` or `ios`.
        settings: options for the app, which has defaults for missing ones; see `AttachedPhone.start`.
        identifier: the phone's serial number or UDID, if several are attached.
        bundle_id: the bundle identifier of an iPhone's app, if it is not the project's.
        app: a package of the app to install.
        fixed_performance: switch Android's fixed-performance mode on during the run.
        out: as for `bench_host`.
        find: the function that finds the phone.

    Raises:
        SharpError: an export, the phone or the app is missing; the storage is full; the phone is throttled or does not
            come back; or a benchmark failed, after all results were written.
    """
    patience = patience or Patience()
    exports = [read_export(directory) for directory in directories]
    names = _names(exports)
    _check_settings(settings, exports)
    results_places(exports, "results.json", out)  # refuse a wrong --out before the long work
    with closing((find or _find(place, bundle_id))(identifier, patience)) as phone:
        patiently(phone, partial(phone.prepare_app, app), patience)
        device = patiently(phone, phone.device, patience)
        say(_described(device))
        if not allow_throttled:
            _check_cool(phone, device)
        push(phone, exports, patience)
        with _fixed_performance(phone, patience) if fixed_performance else nullcontext():
            ended = _run(phone, names, settings, patience)
        measured = []
        for name, export in zip(names, exports, strict=True):
            text = patiently(phone, partial(phone.read, _results_path(phone, name)), patience)
            results = _results(phone, export, device, settings, text, ended)
            if fixed_performance:
                changed = results.settings.model_copy(update={"fixed_performance": True})
                results = results.model_copy(update={"settings": changed})
            measured.append(results)
        if not allow_throttled:
            _check_stayed_cool(phone, measured)
    places = results_places(exports, f"results-{place}-{file_part(device.model, 'phone')}.json", out)
    for path, results in zip(places, measured, strict=True):
        write_results(path, results)
        say("\n".join([*summary(results), f"  {path}"]))
    if failed := [f"{path}: {results.error}" for path, results in zip(places, measured, strict=True) if results.error]:
        raise SharpError("; ".join(failed))


def _find(place: str, bundle_id: str | None) -> Find:
    if place == "android":
        from sharp_mobile.bench.devices.android import find_android

        return find_android
    from sharp_mobile.bench.devices.ios import find_ios  # its error for a missing package has the install command

    return partial(find_ios, bundle_id=bundle_id) if bundle_id else find_ios


def _check_settings(settings: Mapping[str, str], exports: Sequence[Export]) -> None:
    """Refuse settings before anything is sent to the phone."""
    parse_threads_sweep(settings.get("threads_sweep", "1"))
    if "depths" in settings:
        decode = int(settings["decode"]) if "decode" in settings else None
        for export in exports:
            BenchOptions(decode=decode, depths=parse_depths(settings["depths"])).depths_of(export)


@contextmanager
def _fixed_performance(phone: AttachedPhone, patience: Patience) -> Iterator[None]:
    """The phone's fixed-performance mode, switched off at the end."""
    patiently(phone, partial(phone.fix_performance, True), patience)
    try:
        yield
    finally:
        patiently(phone, partial(phone.fix_performance, False), patience)


def _names(exports: Sequence[Export]) -> list[str]:
    """The names of the exports' folders on the phone."""
    names = [export.directory.resolve().name for export in exports]
    for name in names:
        if not _NAME.fullmatch(name):
            raise SharpError(f"{name}: the phone cannot use this directory name; rename it to letters, digits and -_.")
        if names.count(name) > 1:
            raise SharpError(
                f"{name}: two exports have this directory's name and would be one on the phone; rename one"
            )
    return names


def _check_cool(phone: AttachedPhone, device: Device) -> None:
    if throttled(device.thermal):
        raise SharpError(
            f"{phone.name}: its thermal state is {device.thermal}, so it does not run at full speed; let it cool down, "
            "or use --allow-throttled"
        )


def _check_stayed_cool(phone: AttachedPhone, measured: Sequence[Results]) -> None:
    """Refuse results if the phone or the app reports that it was throttled during the measurement."""
    for results in measured:
        if warnings := throttling_warnings(results):
            raise SharpError(
                f"{phone.name}: the phone was too warm while {results.export.name} was measured ({warnings[0]}); no "
                "results were written; use --cool-down or fewer --repetitions, or --allow-throttled"
            )


def _run(phone: AttachedPhone, names: Sequence[str], settings: Mapping[str, str], patience: Patience) -> str | None:
    """Run the app; returns an error text if the system ended it."""
    patiently(phone, partial(_start, phone, names, settings), patience)
    try:
        return follow(phone, patience)
    except KeyboardInterrupt:
        with suppress(SharpError):
            phone.stop()
        raise


def _start(phone: AttachedPhone, names: Sequence[str], settings: Mapping[str, str]) -> None:
    """Delete the files of an earlier run, which could be mistaken for this run's, and start the app."""
    phone.stop()
    for path in (f"{phone.results}/{STATUS_JSON}", *(_results_path(phone, name) for name in names)):
        phone.delete(path)
    phone.start(names, settings)


def _results_path(phone: AttachedPhone, name: str) -> str:
    return f"{phone.results}/results-{phone.kind}-{name}.json"


def _results(
    phone: AttachedPhone,
    export: Export,
    device: Device,
    settings: Mapping[str, str],
    text: str | None,
    ended: str | None,
) -> Results:
    """The results of an export, checked against it, with fields that only the driver knows."""
    if text is None:
        return _unfinished(export, device, settings, ended or "the app left no results")
    source = f"{phone.name}, results of {export.identity.name}"
    results = parse_results(text, source)
    if results.export.sha256 != export.identity.sha256:
        raise SharpError(f"{source}: belong to another .pte; start again")
    reported = results.device
    return results.model_copy(
        update={
            "device": reported.model_copy(
                update={"thermal": reported.thermal or device.thermal, "battery": reported.battery or device.battery}
            ),
            "expected_tokens": results.expected_tokens or export.tokens,
        }
    )


def _unfinished(export: Export, device: Device, settings: Mapping[str, str], error: str) -> Results:
    """The results of an export for which the app left no file."""
    runtime = read_manifest(export.directory).versions.get("executorch", "unknown")
    return Results(
        created=now(),
        status="failed",
        error=error,
        device=device,
        export=export.identity,
        settings=Settings(
            harness="sharp-mobile",
            runtime=f"executorch {runtime}",
            threads=int(settings.get("threads", 1)),
            weight_cache=False,
            packed_cache=False,
        ),
    )


def _described(device: Device) -> str:
    state = [f"thermal state {device.thermal or 'unknown'}", f"battery {device.battery or 'unknown'}"]
    return f"{device.model}, {device.os}, {', '.join(state)}"
