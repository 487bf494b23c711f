"""An Android phone, driven over adb: everything is a shell command with its input, its output and its exit status.

    this program ── adbutils ──► adb server ── USB ──► adbd ──► sh -c 'dd of=… bs=65536 seek=7 conv=notrunc'
                    packets of (kind, length, bytes): 0 its input, 4 end of input;  1, 2 its output, 3 its status

`adb push` begins a cut file anew and appends nothing; `dd` writes at any block, and its status tells that the bytes are
in the file. Files go to the app's own directory on the shared storage, which adb may write and the app reads.
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

# Of one command. Installing verifies the package and compiles some of it.
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
class _Said:
    """What a command said, and its exit status."""

    status: int
    output: str
    errors: str


class AndroidPhone(AttachedPhone):
    """See the module."""

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
        # Only the app itself can make its directories so that it may read what adb writes into them.
        if not self._is_directory(self.exports):
            self._output(f"am start -W -n {_ACTIVITY}")
            deadline = time.monotonic() + self._patience.silent
            while not self._is_directory(self.exports):
                if time.monotonic() > deadline:
                    raise SharpError(f"{self.name}: the app does not make {self.exports}; unlock the phone")
                time.sleep(self._patience.poll)

    def start(self, exports: Sequence[str], settings: Mapping[str, int]) -> None:
        directories = ",".join(f"{self.exports}/{name}" for name in exports)
        extras = [f"--es export_dir {shlex.quote(directories)}", f"--es out {self.results}"]
        extras += [f"--ei {name} {value}" for name, value in settings.items()]
        self._output("input keyevent KEYCODE_WAKEUP")  # with the screen off an activity waits until it is on
        said = self._output(f"am start -S -W -n {_ACTIVITY} {' '.join(extras)}")
        # `am` says some errors with status 0.
        if error := next((line for line in said.splitlines() if line.startswith("Error")), None):
            raise SharpError(f"{self.name}: the app does not start: {error}")

    def running(self) -> bool:
        return bool(self._shell(f"pidof {APP}").output.strip())

    def stop(self) -> None:
        self._output(f"am force-stop {APP}")

    def size(self, path: str) -> int | None:
        said = self._shell(f"stat -c %s {shlex.quote(path)}")
        return self._number("stat", said.output) if said.status == 0 else None

    def sha256(self, path: str) -> str:
        return self._output(f"sha256sum {shlex.quote(path)}", timeout=_INSTALL_TIMEOUT).partition(" ")[0]

    def write(self, path: str, offset: int, data: bytes) -> None:
        self._output(f"dd of={shlex.quote(path)} bs={BLOCK} seek={offset // BLOCK} conv=notrunc", data)

    def read(self, path: str) -> str | None:
        said = self._shell(f"cat {shlex.quote(path)}")
        return said.output if said.status == 0 else None

    def list(self, directory: str) -> Sequence[str]:
        said = self._shell(f"ls {shlex.quote(directory)}")
        return said.output.splitlines() if said.status == 0 else ()

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
        """Nothing is open: every command has a connection of its own."""

    def _install(self, package: Path) -> None:
        if not package.is_file():
            raise SharpError(f"{package}: is not there; build the app as android_bench/README.md says")
        self._shell(f"rm -f {_APK}")
        push_file(self, sending(package, _APK), self._patience)
        said = self._shell(f"pm install -r -t {_APK}", timeout=_INSTALL_TIMEOUT)
        self._shell(f"rm -f {_APK}")
        if said.status or "Success" not in said.output:
            reason = (said.errors or said.output).strip().splitlines() or ["it said nothing"]
            raise SharpError(f"{package}: {self.name} does not install it: {reason[-1]}")

    def _is_directory(self, path: str) -> bool:
        return self._shell(f"test -d {path}").status == 0

    def _number(self, command: str, answer: str) -> int:
        """A number that a command answers with."""
        if not re.fullmatch(_NUMBER, answer.strip()):
            raise SharpError(
                f"{self.name}: {command} answers {answer[:100]!r}, which is not a number; restart the phone"
            )
        return int(answer)

    def _property(self, name: str) -> str:
        return self._output(f"getprop {name}").strip()

    def _output(self, command: str, stdin: bytes = b"", timeout: float = _TIMEOUT) -> str:
        """What a command says that must succeed."""
        said = self._shell(command, stdin, timeout)
        if said.status:
            lines = (said.errors or said.output).strip().splitlines() or [f"status {said.status}"]
            raise SharpError(f"{self.name}: {command.split()[0]} fails: {lines[-1]}")
        return said.output

    def _shell(self, command: str, stdin: bytes = b"", timeout: float = _TIMEOUT) -> _Said:
        """Run a command on the phone.

        Raises:
            Disconnected: the connection broke before its exit status came.
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
        SharpError: none, several, one that cannot be spoken to, or no adb.
    """
    client = client or AdbClient()
    found = _attached(client)
    chosen = choose(found, serial, "--serial", _NONE)
    if (state := found[chosen]) != "device":
        raise SharpError(f"{chosen}: {_STATES.get(state, f'is in state {state}; start it as usual')}")
    return AndroidPhone(client, chosen, patience)


def _attached(client: AdbClient) -> dict[str, str]:
    """States of all phones that adb knows, by their serial numbers."""
    try:
        return {info.serial: info.state for info in client.list()}
    except (AdbError, OSError, ValueError) as error:
        raise SharpError(f"adb's server does not answer ({error}); try adb kill-server, then again") from error


def _packets(stdin: bytes) -> Iterator[bytes]:
    """A command's input in the shell protocol's packets, and its end."""
    for start in range(0, len(stdin), BLOCK):
        part = stdin[start : start + BLOCK]
        yield struct.pack("<BI", _STDIN, len(part)) + part
    yield struct.pack("<BI", _CLOSE_STDIN, 0)


def _listen(connection: AdbConnection) -> _Said:
    """What a command says until it ends."""
    said = {_STDOUT: b"", _STDERR: b""}
    while True:
        kind, length = struct.unpack("<BI", connection.read_exact(5))
        data = connection.read_exact(length)
        if kind == _EXIT:
            output, errors = (said[kind].decode(errors="replace") for kind in (_STDOUT, _STDERR))
            return _Said(data[0] if data else 1, output, errors)
        if kind in said:
            said[kind] += data


def _fields(text: str) -> dict[str, str]:
    """`name: value` lines."""
    lines = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _thermal(text: str) -> str | None:
    """From `dumpsys thermalservice`, which Android 10 and later have."""
    status = _fields(text).get("Thermal Status", "")
    return _THERMAL[int(status)] if re.fullmatch(_NUMBER, status) and int(status) < len(_THERMAL) else None


def _battery(fields: Mapping[str, str]) -> str | None:
    """From `dumpsys battery`: level, what it does, and its temperature, which comes in tenths of a degree."""
    parts = []
    if re.fullmatch(_NUMBER, fields.get("level", "")):
        parts.append(f"{fields['level']}%")
    if re.fullmatch(_NUMBER, fields.get("status", "")) and int(fields["status"]) in _CHARGE:
        parts.append(_CHARGE[int(fields["status"])])
    if re.fullmatch(_NUMBER, fields.get("temperature", "")):
        parts.append(f"{int(fields['temperature']) / 10:.1f} °C")
    return ", ".join(parts) or None
