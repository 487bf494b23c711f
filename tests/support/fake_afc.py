"""An AFC server over a directory, and the services of an iPhone that has it; its cable can be pulled.

    IosPhone ── pymobiledevice3's AfcService ── TCP ──► FakeAfc ──► files below a directory

A packet is `CFA6LPAA`, its whole length, its length without bulk data, a number that the answer repeats, and an
operation, all of 64 bits, little-endian; then the operation's bytes. A cut drops the connection after so many bytes of
written data; what had arrived of the packet is in the file, as by a server that writes while it reads.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fake_server import FakeServer
from pymobiledevice3.lockdown_service_provider import LockdownServiceProvider
from pymobiledevice3.service_connection import ServiceConnection
from pymobiledevice3.services.afc import AfcError, AfcFopenMode, AfcOpcode, AfcService

from sharp_mobile.bench.devices.ios_services import IosServices
from sharp_mobile.bench.results import Device

HEADER = struct.Struct("<8sQQQQ")
FLAGS = {
    AfcFopenMode.RDONLY: os.O_RDONLY,
    AfcFopenMode.RW: os.O_RDWR | os.O_CREAT,
    AfcFopenMode.WRONLY: os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
}


class FakeAfc(FakeServer):
    """The server. `received` counts bytes of written data; `free` is what it says is free."""

    def __init__(self, root: Path) -> None:
        self.root, self.received, self.cuts = root, 0, 0
        self.cut_at: int | None = None
        self.free, self.full = 1 << 40, False
        (root / "Documents").mkdir(parents=True)
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        handles: set[int] = set()
        with connection, suppress(OSError, EOFError):
            while True:
                magic, whole, _, number, operation = HEADER.unpack(self._read(connection, HEADER.size))
                assert magic == b"CFA6LPAA"
                length = whole - HEADER.size
                if operation == AfcOpcode.WRITE:
                    handle = struct.unpack("<Q", self._read(connection, 8))[0]
                    kind, answer = self._write(connection, handle, length - 8)
                else:
                    kind, answer = self._answer(operation, self._read(connection, length), handles)
                size = HEADER.size + len(answer)
                connection.sendall(HEADER.pack(magic, size, size, number, kind) + answer)
        for handle in handles:
            os.close(handle)

    def _write(self, connection: socket.socket, handle: int, length: int) -> tuple[int, bytes]:
        """Put what arrives into the file as it arrives."""
        while length:
            data = connection.recv(min(length, 1 << 16))
            if not data:
                raise EOFError
            if self.cut_at is not None and self.received + len(data) >= self.cut_at:
                data, self.cut_at, self.cuts = data[: self.cut_at - self.received], None, self.cuts + 1
                self.received += len(data)
                os.write(handle, data)
                raise EOFError
            self.received += len(data)
            length -= len(data)
            os.write(handle, data)
        return status(AfcError.NO_SPACE_LEFT if self.full else AfcError.SUCCESS)

    def _answer(self, operation: int, data: bytes, handles: set[int]) -> tuple[int, bytes]:
        try:
            return self._do(operation, data, handles)
        except FileNotFoundError:
            return status(AfcError.OBJECT_NOT_FOUND)
        except OSError:
            return status(AfcError.PERM_DENIED)

    def _do(self, operation: int, data: bytes, handles: set[int]) -> tuple[int, bytes]:
        if operation == AfcOpcode.GET_DEVINFO:
            return AfcOpcode.DATA, strings("Model", "iPhone16,1", "FSFreeBytes", str(self.free))
        if operation == AfcOpcode.FILE_OPEN:
            mode = AfcFopenMode(struct.unpack("<Q", data[:8])[0])
            handles.add(handle := os.open(self._path(data[8:]), FLAGS[mode], 0o600))
            return AfcOpcode.FILE_OPEN_RES, struct.pack("<Q", handle)
        if operation in (AfcOpcode.READ, AfcOpcode.FILE_SEEK, AfcOpcode.FILE_CLOSE):
            return self._with_handle(operation, struct.unpack(f"<{len(data) // 8}q", data), handles)
        return self._with_path(operation, data)

    def _with_handle(self, operation: int, numbers: tuple[int, ...], handles: set[int]) -> tuple[int, bytes]:
        if operation == AfcOpcode.READ:
            return AfcOpcode.DATA, os.read(numbers[0], numbers[1])
        if operation == AfcOpcode.FILE_SEEK:
            os.lseek(numbers[0], numbers[2], numbers[1])
        else:
            handles.discard(numbers[0])
            os.close(numbers[0])
        return status(AfcError.SUCCESS)

    def _with_path(self, operation: int, data: bytes) -> tuple[int, bytes]:
        path = self._path(data)
        if operation == AfcOpcode.GET_FILE_INFO:
            found = path.stat()
            kind = "S_IFDIR" if path.is_dir() else "S_IFREG"
            times = ("st_mtime", str(found.st_mtime_ns), "st_birthtime", str(found.st_mtime_ns))
            sizes = ("st_size", str(found.st_size), "st_blocks", str(found.st_blocks), "st_nlink", "1")
            return AfcOpcode.DATA, strings(*sizes, "st_ifmt", kind, *times)
        if operation == AfcOpcode.READ_DIR:
            return AfcOpcode.DATA, strings(".", "..", *sorted(os.listdir(path)))
        if operation == AfcOpcode.MAKE_DIR:
            path.mkdir(parents=True, exist_ok=True)
        elif operation == AfcOpcode.REMOVE_PATH:
            path.rmdir() if path.is_dir() else path.unlink()
        elif operation == AfcOpcode.RENAME_PATH:
            path.rename(self._path(data.split(b"\0")[1]))
        else:
            return status(AfcError.OP_NOT_SUPPORTED)
        return status(AfcError.SUCCESS)

    def _path(self, data: bytes) -> Path:
        return self.root / data.split(b"\0")[0].decode().lstrip("/")

    def _read(self, connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            if not (piece := connection.recv(length - len(data))):
                raise EOFError
            data += piece
        return data


def status(error: AfcError) -> tuple[int, bytes]:
    return AfcOpcode.STATUS, struct.pack("<Q", error)


def strings(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


class _Provider(LockdownServiceProvider):
    """Where pymobiledevice3 would ask the iPhone to start a service: the server is running already."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def start_lockdown_service(self, name: str, include_escrow_bag: bool = False) -> ServiceConnection:
        return await ServiceConnection.create_using_tcp("127.0.0.1", self._port)


class FakeServices(IosServices):
    """An iPhone whose AFC is the fake server and whose app is a process here; DVT and installation are left out."""

    def __init__(self, server: FakeAfc) -> None:
        super().__init__("00008130-A1")
        self.server = server
        self.has_app, self.behaviour = True, {}  # type: tuple[bool, dict[str, object]]
        self.app: subprocess.Popen[bytes] | None = None

    async def attached(self) -> bool:
        return True

    async def afc(self) -> AfcService:
        if self._afc is None:
            self._afc = await self._open.enter_async_context(AfcService(_Provider(self.server.port)))
        return self._afc

    async def installed(self) -> bool:
        return self.has_app

    async def device(self) -> Device:
        return Device(kind="ios", model="iPhone16,1", os="iOS 18.2", cpu="t8130", cores=6, battery="80%, charging")

    async def launch(self, environment: Mapping[str, str]) -> None:
        documents = self.server.root / "Documents"
        (self.server.root / "behaviour.json").write_text(json.dumps(self.behaviour))
        program = [sys.executable, str(Path(__file__).with_name("fake_app.py")), str(self.server.root), "ios"]
        path = os.pathsep.join(part for part in sys.path if part)
        self.app = subprocess.Popen(program, cwd=documents, env={**environment, "PYTHONPATH": path})

    async def process(self) -> int:
        return self.app.pid if self.app is not None and self.app.poll() is None else 0

    async def kill(self, process: int) -> None:
        if self.app is not None:
            self.app.kill()
            self.app.wait()

    def end(self) -> None:
        """End what still runs."""
        if self.app is not None:
            self.app.kill()
            self.app.wait()
        self.server.close()
        shutil.rmtree(self.server.root, ignore_errors=True)
