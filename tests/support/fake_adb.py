"""An adb server with fake phones: it speaks adb's protocol on a socket, and runs the commands that it is given.

    driver ── adbutils ── TCP ──► FakeAdb ──► sh -c COMMAND, in a directory that is the phone
                                    │         with the programs of fake_android/ before the system's own
                                    └─ a cable: pulled after so many bytes of input, or at once

Requests are four hexadecimal digits of length and a name; answers OKAY or FAIL. Of the services those are here that the
driver uses: `host:version`, `host:devices`, `host:tport:serial:` and `shell,v2`. Paths below /sdcard and
/data/local/tmp become paths below the phone's directory. A pulled cable closes the connections and takes the phone off
the list for a while; of the input that had arrived, some is written late, as by a phone that is slow to notice.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from fake_server import FakeServer

PROGRAMS, APP = Path(__file__).parent / "fake_android", Path(__file__).parent / "fake_app.py"
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
FILES = "sdcard/Android/data/dev.sharpmobile.bench/files"
THERMAL = "IsStatusOverride: false\nThermal Status: {}\n"
BATTERY = "Current Battery Service state:\n  status: 2\n  level: 87\n  temperature: 315\n"


class FakePhone:
    """A directory that is a phone's file system, with the app installed."""

    def __init__(self, root: Path, serial: str = "A1B2", state: str = "device") -> None:
        self.root, self.serial, self.state = root, serial, state
        self.files = root / FILES
        for directory in (self.files / "exports", root / "dumpsys", root / "tmp"):
            directory.mkdir(parents=True)
        (root / "installed").touch()
        (root / "dumpsys/battery").write_text(BATTERY)
        self.set_thermal(0)
        self.behave()

    def set_thermal(self, status: int) -> None:
        (self.root / "dumpsys/thermalservice").write_text(THERMAL.format(status))

    def behave(self, **behaviour: object) -> None:
        """What the app will do; see `fake_app.py`."""
        (self.root / "behaviour.json").write_text(json.dumps(behaviour))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Run a shell command as the phone would."""
        for path, real in (("/sdcard/", f"{self.root}/sdcard/"), ("/data/local/tmp", f"{self.root}/tmp")):
            command = command.replace(path, real)
        environment = {
            "PATH": f"{PROGRAMS}:/usr/bin:/bin",
            "PHONE": str(self.root),
            "PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "APP": str(APP),
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(["sh", "-c", command], env=environment, cwd=self.root, **pipes)  # type: ignore[call-overload]

    @property
    def commands(self) -> list[str]:
        """The starts of the app and the changes of the performance mode, in order."""
        return (self.root / "commands").read_text().splitlines()

    def kill_app(self) -> None:
        with suppress(OSError, ValueError):
            os.kill(int((self.root / "pid").read_text()), signal.SIGKILL)


class FakeAdb(FakeServer):
    """The server; `received` counts the bytes of input that commands were given."""

    def __init__(self, *phones: FakePhone) -> None:
        self.phones = {phone.serial: phone for phone in phones}
        self.received = 0
        self.cuts = 0
        self.cut_at: int | None = None
        self.away = 0.1
        self._back_at = 0.0
        self._open: set[socket.socket] = set()
        super().__init__()

    def close(self) -> None:
        super().close()
        self.pull()
        for phone in self.phones.values():
            phone.kill_app()

    def pull(self) -> None:
        """Pull the cable: all connections break, and no phone is attached for a while."""
        self._back_at = time.monotonic() + self.away
        for connection in list(self._open):
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with connection, suppress(OSError, EOFError):
            phone = None
            while True:
                request = exactly(connection, int(exactly(connection, 4), 16)).decode()
                if request.startswith("shell,v2") and phone is not None:
                    connection.sendall(b"OKAY")
                    self._shell(connection, phone.start(request.partition(":")[2]))
                    break
                phone = self._answer(connection, request)
        self._open.discard(connection)

    def _answer(self, connection: socket.socket, request: str) -> FakePhone | None:
        """A request to the server itself; the phone, if it asks to be connected to one."""
        attached = self.phones if time.monotonic() > self._back_at else {}
        if request == "host:version":
            connection.sendall(b"OKAY" + block("0029"))
        elif request == "host:devices":
            connection.sendall(b"OKAY" + block("".join(f"{p.serial}\t{p.state}\n" for p in attached.values())))
        elif request.startswith("host:tport:serial:"):
            serial = request.rpartition(":")[2]
            if serial not in attached:
                connection.sendall(b"FAIL" + block(f"device '{serial}' not found"))
            elif attached[serial].state != "device":
                connection.sendall(b"FAIL" + block(f"device {attached[serial].state}"))
            else:
                connection.sendall(b"OKAY" + struct.pack("<Q", 1))
                return attached[serial]
        else:
            connection.sendall(b"FAIL" + block(f"unknown host service {request}"))
        return None

    def _shell(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        listener = threading.Thread(target=self._feed, args=(connection, process.stdin), daemon=True)
        listener.start()
        output, errors = process.stdout.read(), process.stderr.read()
        status = process.wait()
        for kind, data in ((STDOUT, output), (STDERR, errors), (EXIT, bytes([status % 256]))):
            if data:
                connection.sendall(struct.pack("<BI", kind, len(data)) + data)
        # As adbd, which closes only when the other side has read: else what is unread may be lost.
        listener.join(0.2)

    def _feed(self, connection: socket.socket, stdin) -> None:  # type: ignore[no-untyped-def]
        """Give a command its input, until that ends or the cable is pulled."""
        with suppress(OSError, EOFError, ValueError), stdin:
            while True:
                kind, length = struct.unpack("<BI", exactly(connection, 5))
                if kind == CLOSE_STDIN:
                    return
                data = b""
                while len(data) < length:
                    piece = connection.recv(length - len(data))
                    if not piece:
                        raise EOFError
                    data += piece
                    if self.cut_at is not None and self.received + len(data) >= self.cut_at:
                        self._cut(stdin, data[: self.cut_at - self.received])
                        return
                self.received += length
                stdin.write(data)
                stdin.flush()

    def _cut(self, stdin, data: bytes) -> None:  # type: ignore[no-untyped-def]
        """Pull the cable after these bytes; the second half of them is written only when the driver is back."""
        self.received += len(data)
        self.cut_at = None
        self.cuts += 1
        half = len(data) // 2
        stdin.write(data[:half])
        stdin.flush()
        self.pull()
        time.sleep(2 * self.away)
        stdin.write(data[half:])


def block(text: str) -> bytes:
    return f"{len(text):04x}{text}".encode()


def exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
