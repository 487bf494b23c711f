"""An iPhone's services in pymobiledevice3: open them, close them after a broken connection, open them again.

    usbmuxd ── lockdown ─┬─ house arrest   AFC, the app's Documents as a file system
                         ├─ installation   check and install the app
                         └─ diagnostics    the battery
    userspace tunnel ─────  DVT            start and check the app (iOS 17 and later, Developer Mode on)

This module was not run with a real iPhone; AFC is tested with a fake server (tests/support/fake_afc.py).
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from pymobiledevice3.exceptions import PyMobileDevice3Exception
from pymobiledevice3.lockdown import UsbmuxLockdownClient, create_using_usbmux
from pymobiledevice3.remote.userspace_tunnel import UserspaceRsdTunnel
from pymobiledevice3.services.afc import AfcService
from pymobiledevice3.services.diagnostics import DiagnosticsService
from pymobiledevice3.services.dvt.instruments.device_info import DeviceInfo
from pymobiledevice3.services.dvt.instruments.dvt_provider import DvtProvider
from pymobiledevice3.services.dvt.instruments.process_control import ProcessControl
from pymobiledevice3.services.house_arrest import HouseArrestService
from pymobiledevice3.services.installation_proxy import InstallationProxyService
from pymobiledevice3.usbmux import list_devices

from sharp_mobile.bench.devices.device import APP
from sharp_mobile.bench.results import Device


async def attached_iphones() -> list[str]:
    """UDIDs of the iPhones on USB."""
    return [device.serial for device in await list_devices() if device.is_usb]


class IosServices:
    """The services of one iPhone, each opened on first use."""

    def __init__(self, udid: str, bundle_id: str = APP) -> None:
        self.udid, self.bundle_id = udid, bundle_id
        self._open = AsyncExitStack()
        self._lockdown: UsbmuxLockdownClient | None = None
        self._afc: AfcService | None = None
        self._dvt: DvtProvider | None = None
        self._processes: ProcessControl | None = None

    async def close(self) -> None:
        """Close all connections; the next use opens them again."""
        opened, self._open = self._open, AsyncExitStack()
        self._lockdown = self._afc = self._dvt = self._processes = None
        with suppress(PyMobileDevice3Exception, OSError):  # they may already be broken
            await opened.aclose()

    async def attached(self) -> bool:
        """Whether the iPhone is on USB."""
        return self.udid in await attached_iphones()

    async def afc(self) -> AfcService:
        """The app's Documents, below /Documents."""
        if self._afc is None:
            self._afc = await HouseArrestService.create(await self._lock(), self.bundle_id, documents_only=True)
            await self._open.enter_async_context(self._afc)
        return self._afc

    async def installed(self) -> bool:
        """Whether the app is installed."""
        async with InstallationProxyService(await self._lock()) as installation:
            return self.bundle_id in await installation.get_apps(bundle_identifiers=[self.bundle_id])

    async def install(self, package: Path) -> None:
        """Install or replace the app; after a broken connection the installation starts again."""
        async with InstallationProxyService(await self._lock()) as installation:
            await installation.install_from_local(package, developer=True)

    async def device(self) -> Device:
        """The iPhone's hardware, system and battery. Only the app can read the thermal state."""
        lockdown = await self._lock()
        async with DiagnosticsService(lockdown) as diagnostics:
            battery = await diagnostics.get_battery() or {}
        async with DeviceInfo(await self._developer_services()) as info:
            hardware = await info.hardware_information()
        values = lockdown.all_values
        return Device(
            kind="ios",
            model=values.get("ProductType", "iPhone"),
            os=f"iOS {values.get('ProductVersion', '')}".strip(),
            cpu=values.get("HardwarePlatform", "unknown"),
            cores=int(hardware["numberOfCpus"]),
            battery=describe_battery(battery),
        )

    async def launch(self, environment: Mapping[str, str]) -> None:
        """Start the app; a running one is ended first."""
        await (await self._process_control()).launch(self.bundle_id, environment=dict(environment), kill_existing=True)

    async def process(self) -> int:
        """The app's process id; 0 if it does not run."""
        return await (await self._process_control()).process_identifier_for_bundle_identifier(self.bundle_id)

    async def kill(self, process: int) -> None:
        """End a process."""
        await (await self._process_control()).kill(process)

    async def _lock(self) -> UsbmuxLockdownClient:
        if self._lockdown is None:
            self._lockdown = await create_using_usbmux(serial=self.udid)
            self._open.push_async_callback(self._lockdown.close)
        return self._lockdown

    async def _developer_services(self) -> DvtProvider:
        if self._dvt is None:
            tunnel = await self._open.enter_async_context(UserspaceRsdTunnel(serial=self.udid))
            self._dvt = await self._open.enter_async_context(DvtProvider(tunnel))
        return self._dvt

    async def _process_control(self) -> ProcessControl:
        if self._processes is None:
            control = ProcessControl(await self._developer_services())
            self._processes = await self._open.enter_async_context(control)
        return self._processes


def describe_battery(registry: Mapping[str, object]) -> str | None:
    """The battery's level, state and temperature (in hundredths of a degree) from its entry in the registry."""
    parts = []
    if "CurrentCapacity" in registry:
        parts.append(f"{registry['CurrentCapacity']}%")
    if "IsCharging" in registry:
        parts.append("charging" if registry["IsCharging"] else "not charging")
    temperature = registry.get("Temperature")
    if isinstance(temperature, int | float):
        parts.append(f"{temperature / 100:.1f} °C")
    return ", ".join(parts) or None
