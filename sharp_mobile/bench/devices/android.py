"""An Android phone over adb: every action is a shell command with its input, output and exit status.

    this program ── adbutils ──► adb server ── USB ──► adbd ──► sh -c 'dd of=… bs=65536 seek=7 conv=notrunc'
                    packets of (kind, length, bytes): 0 input, 4 end of input;  1, 2 output, 3 status

`adb push` starts an interrupted file again and cannot append. `dd` writes at any block, and its exit status confirms
that the bytes are in the file. Files go to the app's directory on the shared storage, which adb may write.
"""

import re
import shlex
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from adbutils import AdbClient, AdbConnection, AdbError

from sharp_mobile.bench.devices.device import APP, AttachedPhone, Disconnected, Patience, choose
from sharp_mobile.bench.devices.push import BLOCK, push_file, sending
from sharp_mobile.bench.results import Device
from sharp_mobile.errors import SharpError

_FILES = f"/sdcard/Android/data/{APP}/files"
_ACTIVITY = f"{APP}/.BenchActivity"
_APK = f"/data/local/tmp/{APP}.apk"

_NUMBER = r"[0-9]{1,15}"

# Kinds of the shell protocol's packets.
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)

# Timeouts of a command. An installation verifies the package and compiles parts of it.
_TIMEOUT, _INSTALL_TIMEOUT = 60.0, 300.0

# PowerManager's THERMAL_STATUS_*, and BatteryManager's BATTERY_STATUS_*.
_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_CHARGE = {2: "charging", 3: "discharging", 4: "not charging", 5: "full"}

_NONE = "no Android phone is attached; plug one in and turn on USB debugging, Settings > System > Developer options"
_STATES = {
    "unauthorized": "has not allowed this computer to debug it; unlock it and accept the question on its screen",
    "offline": "does not answer; unplug it, plug it in again",
}


@dataclass(frozen=True)
class _Finished:
    """The exit status and output of a command."""

    status: int
    output: str
    errors: str


class AndroidPhone(AttachedPhone):
    """An attached Android phone; see the module."""

    kind: ClassVar[str] = "android"
    exports: ClassVar[str] = f"{_FILES}/exports"
    results: ClassVar[str] = f"{_FILES}/results"

    def __init__(self, client: AdbClient, serial: str, patience: Patience) -> None:
        self.name = serial
        self._client, self._serial, self._patience = client, serial, patience
        self._adb = client.device(serial)

    def attached(self) -> bool:
        try:
            return _attached(self._client).get(self._serial) == "device"
        except SharpError:
            return False

    def device(self) -> Device:
        memory = _fields(self._output("cat /proc/meminfo")).get("MemTotal", "")
        battery = _fields(self._output("dumpsys battery"))
        return Device(
            kind="android",
            model=self._property("ro.product.model"),
            os=f"Android {self._property('ro.build.version.release')}",
            cpu=self._property("ro.soc.model") or self._property("ro.board.platform") or "unknown",
            cores=self._number("nproc", self._output("nproc")),
            memory_bytes=self._number("/proc/meminfo", memory.removesuffix("kB")) * 1024,
            thermal=_thermal(self._shell("dumpsys thermalservice").output),
            battery=_battery(battery),
        )

    def prepare_app(self, package: Path | None) -> None:
        if package is not None:
            self._install(package)
        if "package:" not in self._shell(f"pm path {APP}").output:
            raise SharpError(
                f"{self.name}: the benchmark app is not installed; build it as android_bench/README.md says, and give "
                "its package: --app app-release.apk"
            )
        # The app must create its directories; otherwise it could not read the files that adb writes there.
        if not self._is_directory(self.exports):
            self._output(f"am start -W -n {_ACTIVITY}")
            deadline = time.monotonic() + self._patience.silent
            while not self._is_directory(self.exports):
                if time.monotonic() > deadline:
                    raise SharpError(f"{self.name}: the app does not create {self.exports}; unlock the phone")
                time.sleep(self._patience.poll)

    def start(self, exports: Sequence[str], settings: Mapping[str, str]) -> None:
        directories = ",".join(f"{self.exports}/{name}" for name in exports)
        extras = [f"--es export_dir {shlex.quote(directories)}", f"--es out {self.results}"]
        extras += [f"--es {name} {shlex.quote(value)}" for name, value in settings.items()]
        self._output("input keyevent KEYCODE_WAKEUP")  # while the screen is off, an activity does not start
        output = self._output(f"am start -S -W -n {_ACTIVITY} {' '.join(extras)}")
        # `am` reports some errors with status 0.
        if error := next((line for line in output.splitlines() if line.startswith("Error")), None):
            raise SharpError(f"{self.name}: the app does not start: {error}")

    def fix_performance(self, on: bool) -> None:
        done = self._shell(f"cmd power set-fixed-performance-mode-enabled {'true' if on else 'false'}")
        if done.status or "error" in f"{done.output}{done.errors}".lower():
            raise SharpError(
                f"{self.name}: this phone has no fixed-performance mode; it needs Android 11 or later, and its maker's "
                "support; leave out --fixed-performance"
            )

    def running(self) -> bool:
        return bool(self._shell(f"pidof {APP}").output.strip())

    def stop(self) -> None:
        self._output(f"am force-stop {APP}")

    def size(self, path: str) -> int | None:
        done = self._shell(f"stat -c %s {shlex.quote(path)}")
        return self._number("stat", done.output) if done.status == 0 else None

    def sha256(self, path: str) -> str:
        return self._output(f"sha256sum {shlex.quote(path)}", timeout=_INSTALL_TIMEOUT).partition(" ")[0]

    def write(self, path: str, offset: int, data: bytes) -> None:
        self._output(f"dd of={shlex.quote(path)} bs={BLOCK} seek={offset // BLOCK} conv=notrunc", data)

    def read(self, path: str) -> str | None:
        done = self._shell(f"cat {shlex.quote(path)}")
        return done.output if done.status == 0 else None

    def list(self, directory: str) -> Sequence[str]:
        done = self._shell(f"ls {shlex.quote(directory)}")
        return done.output.splitlines() if done.status == 0 else ()

    def make_directory(self, directory: str) -> None:
        self._output(f"mkdir -p {shlex.quote(directory)}")

    def rename(self, source: str, target: str) -> None:
        self._output(f"mv {shlex.quote(source)} {shlex.quote(target)}")

    def delete(self, path: str) -> None:
        self._output(f"rm -rf {shlex.quote(path)}")

    def free_bytes(self) -> int:
        # Filesystem, 1K-blocks, Used, Available, ...
        line = self._output(f"df -k {self.exports}").rstrip().rpartition("\n")[2].split()
        return self._number("df", line[3] if len(line) > 3 else "") * 1024

    def close(self) -> None:
        """Do nothing: every command opens and closes its own connection."""

    def _install(self, package: Path) -> None:
        if not package.is_file():
            raise SharpError(f"{package}: no such file; build the app as android_bench/README.md says")
        self._shell(f"rm -f {_APK}")
        push_file(self, sending(package, _APK), self._patience)
        done = self._shell(f"pm install -r -t {_APK}", timeout=_INSTALL_TIMEOUT)
        self._shell(f"rm -f {_APK}")
        if done.status or "Success" not in done.output:
            reason = (done.errors or done.output).strip().splitlines() or ["no message"]
            raise SharpError(f"{package}: {self.name} does not install it: {reason[-1]}")

    def _is_directory(self, path: str) -> bool:
        return self._shell(f"test -d {path}").status == 0

    def _number(self, command: str, answer: str) -> int:
        """Parse the number that a command printed."""
        if not re.fullmatch(_NUMBER, answer.strip()):
            raise SharpError(
                f"{self.name}: {command} answers {answer[:100]!r}, which is not a number; restart the phone"
            )
        return int(answer)

    def _property(self, name: str) -> str:
        return self._output(f"getprop {name}").strip()

    def _output(self, command: str, stdin: bytes = b"", timeout: float = _TIMEOUT) -> str:
        """Run a command that must succeed, and return its output."""
        done = self._shell(command, stdin, timeout)
        if done.status:
            lines = (done.errors or done.output).strip().splitlines() or [f"status {done.status}"]
            raise SharpError(f"{self.name}: {command.split()[0]} fails: {lines[-1]}")
        return done.output

    def _shell(self, command: str, stdin: bytes = b"", timeout: float = _TIMEOUT) -> _Finished:
        """Run a command on the phone.

        Raises:
            Disconnected: the connection broke before the exit status arrived.
        """
        try:
            with self._adb.open_transport(timeout=timeout) as connection:
                connection.send_command(f"shell,v2,raw:{command}")
                connection.check_okay()
                for packet in _packets(stdin):
                    connection.conn.sendall(packet)
                return _listen(connection)
        except (AdbError, OSError, EOFError) as error:
            raise Disconnected(f"{self.name}: the connection broke ({error})") from error


def find_android(serial: str | None, patience: Patience, client: AdbClient | None = None) -> AndroidPhone:
    """The attached phone, or the one with this serial number.

    Raises:
        SharpError: there is no phone, there are several, the phone does not answer, or adb is missing.
    """
    client = client or AdbClient()
    phones = _attached(client)
    chosen = choose(phones, serial, "--serial", _NONE)
    if (state := phones[chosen]) != "device":
        raise SharpError(f"{chosen}: {_STATES.get(state, f'is in state {state}; start it as usual')}")
    return AndroidPhone(client, chosen, patience)


def _attached(client: AdbClient) -> dict[str, str]:
    """The states of all phones that adb knows, by serial number."""
    try:
        return {info.serial: info.state for info in client.list()}
    except (AdbError, OSError, ValueError) as error:
        raise SharpError(f"adb's server does not answer ({error}); try adb kill-server, then again") from error


def _packets(stdin: bytes) -> Iterator[bytes]:
    """The shell protocol's packets for a command's input and its end."""
    for start in range(0, len(stdin), BLOCK):
        part = stdin[start : start + BLOCK]
        yield struct.pack("<BI", _STDIN, len(part)) + part
    yield struct.pack("<BI", _CLOSE_STDIN, 0)


def _listen(connection: AdbConnection) -> _Finished:
    """Receive a command's output until it ends."""
    streams = {_STDOUT: b"", _STDERR: b""}
    while True:
        kind, length = struct.unpack("<BI", connection.read_exact(5))
        data = connection.read_exact(length)
        if kind == _EXIT:
            output, errors = (streams[kind].decode(errors="replace") for kind in (_STDOUT, _STDERR))
            return _Finished(data[0] if data else 1, output, errors)
        if kind in streams:
            streams[kind] += data


def _fields(text: str) -> dict[str, str]:
    """Parse `name: value` lines."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _thermal(text: str) -> str | None:
    """The thermal state from `dumpsys thermalservice` (Android 10 and later)."""
    status = _fields(text).get("Thermal Status", "")
    return _THERMAL[int(status)] if re.fullmatch(_NUMBER, status) and int(status) < len(_THERMAL) else None


def _battery(fields: Mapping[str, str]) -> str | None:
    """The battery's level, state and temperature (reported in tenths of a degree) from `dumpsys battery`."""
    parts = []
    if re.fullmatch(_NUMBER, fields.get("level", "")):
        parts.append(f"{fields['level']}%")
    if re.fullmatch(_NUMBER, fields.get("status", "")) and int(fields["status"]) in _CHARGE:
        parts.append(_CHARGE[int(fields["status"])])
    if re.fullmatch(_NUMBER, fields.get("temperature", "")):
        parts.append(f"{int(fields['temperature']) / 10:.1f} °C")
    return ", ".join(parts) or None
