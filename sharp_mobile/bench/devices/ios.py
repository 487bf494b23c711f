"""An iPhone over USB by pymobiledevice3: files by AFC, the app by Apple's developer services.

    write   AFC: open r+ (without truncation), seek to the offset, write, close; the answer confirms the write
    sha256  AFC documents no hash: the file is read back, and the app hashes it again before it runs
    start   DVT, with the run's options in the environment: SHARP_EXPORT_DIRS, SHARP_OUT, SHARP_REPETITIONS, ...

pymobiledevice3 is asynchronous; each call here runs one coroutine to its end on the phone's event loop.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from sharp_mobile.bench.devices.device import APP, AttachedPhone, Disconnected, Patience, choose
from sharp_mobile.bench.results import Device
from sharp_mobile.errors import SharpError

try:
    from pymobiledevice3.exceptions import (
        AfcException,
        AfcFileNotFoundError,
        ConnectionTerminatedError,
        DeviceNotFoundError,
        MuxException,
        NoDeviceConnectedError,
        PyMobileDevice3Exception,
    )
    from pymobiledevice3.services.afc import AfcError, AfcService

    from sharp_mobile.bench.devices.ios_services import IosServices, attached_iphones
except ImportError as error:
    raise SharpError("iPhones need pymobiledevice3; install it: pip install 'sharp_mobile[ios]'") from error

Answer = TypeVar("Answer")

_READ = 1 << 22
_TIMEOUT, _INSTALL_TIMEOUT = 60.0, 600.0
_GONE = (ConnectionTerminatedError, DeviceNotFoundError, NoDeviceConnectedError, MuxException)
_NONE = "no iPhone is attached; plug one in, unlock it and trust this computer"


class IosPhone(AttachedPhone):
    """An attached iPhone; see the module."""

    kind: ClassVar[str] = "ios"
    exports: ClassVar[str] = "/Documents/exports"
    results: ClassVar[str] = "/Documents/results"

    def __init__(self, services: IosServices) -> None:
        self.name = services.udid
        self._services = services
        self._loop = asyncio.new_event_loop()

    def attached(self) -> bool:
        try:
            return self._run(self._services.attached)
        except SharpError:
            return False

    def device(self) -> Device:
        return self._run(self._services.device)

    def prepare_app(self, package: Path | None) -> None:
        if package is not None:
            if not package.exists():
                raise SharpError(f"{package}: no such file; build the app as ios_bench/README.md says")
            self._run(lambda: self._services.install(package), _INSTALL_TIMEOUT)
        if not self._run(self._services.installed):
            raise SharpError(
                f"{self.name}: the app {self._services.bundle_id} is not installed; build it as ios_bench/README.md "
                "says and give its package (--app SharpBench.ipa), or name the one that you installed (--bundle-id)"
            )
        for directory in (self.exports, self.results):
            self.make_directory(directory)

    def start(self, exports: Sequence[str], settings: Mapping[str, str]) -> None:
        environment = {"SHARP_EXPORT_DIRS": ",".join(exports), "SHARP_OUT": "results"}
        environment |= {f"SHARP_{name.upper()}": value for name, value in settings.items()}
        self._run(lambda: self._services.launch(environment))

    def running(self) -> bool:
        return self._run(self._services.process) != 0

    def stop(self) -> None:
        if process := self._run(self._services.process):
            self._run(lambda: self._services.kill(process))

    def size(self, path: str) -> int | None:
        async def size(afc: AfcService) -> int | None:
            try:
                return int((await afc.stat(path))["st_size"])
            except AfcFileNotFoundError:
                return None

        return self._files(size)

    def sha256(self, path: str) -> str:
        async def digest(afc: AfcService) -> str:
            sha256, left = hashlib.sha256(), int((await afc.stat(path))["st_size"])
            handle = await afc.fopen(path)
            try:
                while left > 0 and (block := await afc.fread(handle, min(_READ, left))):
                    sha256.update(block)
                    left -= len(block)
            finally:
                await afc.fclose(handle)
            return sha256.hexdigest()

        return self._files(digest, _INSTALL_TIMEOUT)

    def write(self, path: str, offset: int, data: bytes) -> None:
        async def write(afc: AfcService) -> None:
            handle = await afc.fopen(path, "r+")
            await afc.fseek(handle, offset)
            await afc.fwrite(handle, data)
            await afc.fclose(handle)

        self._files(write)

    def read(self, path: str) -> str | None:
        async def read(afc: AfcService) -> str | None:
            # Read the open file once: the app could replace it between a query of its size and the read.
            try:
                handle = await afc.fopen(path)
            except AfcFileNotFoundError:
                return None
            try:
                return (await afc.fread(handle, _READ)).decode(errors="replace")
            finally:
                await afc.fclose(handle)

        return self._files(read)

    def list(self, directory: str) -> Sequence[str]:
        async def names(afc: AfcService) -> Sequence[str]:
            return await afc.listdir(directory) if await afc.exists(directory) else ()

        return self._files(names)

    def make_directory(self, directory: str) -> None:
        self._files(lambda afc: afc.makedirs(directory))

    def rename(self, source: str, target: str) -> None:
        self._files(lambda afc: afc.rename(source, target))

    def delete(self, path: str) -> None:
        async def delete(afc: AfcService) -> None:
            if await afc.exists(path):
                await afc.rm(path)

        self._files(delete)

    def free_bytes(self) -> int:
        async def free(afc: AfcService) -> int:
            return int((await afc.get_device_info())["FSFreeBytes"])

        return self._files(free)

    def close(self) -> None:
        self._loop.run_until_complete(self._services.close())
        self._loop.close()

    def _files(self, work: Callable[[AfcService], Awaitable[Answer]], timeout: float = _TIMEOUT) -> Answer:
        """Run work with the app's files."""

        async def opened() -> Answer:
            return await work(await self._services.afc())

        return self._run(opened, timeout)

    def _run(self, work: Callable[[], Awaitable[Answer]], timeout: float = _TIMEOUT) -> Answer:
        """Run a coroutine to its end.

        Raises:
            Disconnected: the phone does not answer; all connections are closed.
            SharpError: the phone refuses.
        """

        async def within() -> Answer:
            return await asyncio.wait_for(work(), timeout)

        try:
            return self._loop.run_until_complete(within())
        except AfcException as error:  # before OSError, of which it is a subclass
            full = "; its storage is full, delete something there" if error.status == AfcError.NO_SPACE_LEFT else ""
            raise SharpError(f"{self.name}: {error}{full}") from error
        except (*_GONE, OSError, asyncio.TimeoutError) as error:
            self._loop.run_until_complete(self._services.close())
            raise Disconnected(f"{self.name}: the connection broke ({error or type(error).__name__})") from error
        except (LookupError, TypeError, ValueError) as error:
            raise SharpError(
                f"{self.name}: gives an unknown answer ({type(error).__name__}: {error}); restart the phone"
            ) from error
        except PyMobileDevice3Exception as error:
            raise SharpError(
                f"{self.name}: {type(error).__name__}: {error}; is it unlocked, does it trust this computer, and is "
                "Developer Mode on?"
            ) from error


def find_ios(udid: str | None, patience: Patience, *, bundle_id: str = APP) -> IosPhone:
    """The attached iPhone, or the one with this UDID; the app on it has this bundle identifier.

    Raises:
        SharpError: there is no iPhone, or there are several.
    """
    try:
        attached = asyncio.run(attached_iphones())
    except (PyMobileDevice3Exception, OSError) as error:
        raise SharpError(f"usbmuxd does not answer ({error}); on Linux install it: apt-get install usbmuxd") from error
    return IosPhone(IosServices(choose(dict.fromkeys(attached, "USB"), udid, "--udid", _NONE), bundle_id))
