"""The tools that run ARM64 programs on this machine: a cross compiler, QEMU, and the runtime's ARM64 libraries.

aarch64-linux-gnu-g++ ── runner.cpp, executorch's aarch64 wheel ──► build/host_bench/arm64/aarch64/sharp-runner
cc ───────────────────── arm64/counter.c ─────────────────────────► build/host_bench/arm64/counter.so
a phone's profile, the compiler's libraries, the wheel's ─────────► build/host_bench/arm64/sysroots/pixel-6-…

qemu-aarch64 -L sysroots/pixel-6-… -plugin counter.so sharp-runner model.pte

python -m sharp_mobile.bench.arm64.emulation     fetches the wheel, the only step with a network, and compiles
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sharp_mobile.bench.arm64.profiles import Profile
from sharp_mobile.bench.compiling import compiled
from sharp_mobile.bench.runner import BUILD as HOST_BUILD
from sharp_mobile.bench.runner import SOURCES, build_runner
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import create_directory
from sharp_mobile.files.printable import one_printable_line
from sharp_mobile.pte.package import executorch_package

BUILD = HOST_BUILD / "arm64"
COUNTER = SOURCES / "arm64" / "counter.c"

_QEMU, _CROSS_COMPILER, _C_COMPILER = "qemu-aarch64", "aarch64-linux-gnu-g++", "cc"
_PACKAGES = {_QEMU: "qemu-user", _CROSS_COMPILER: "g++-aarch64-linux-gnu", _C_COMPILER: "gcc"}

_FETCH = "python -m sharp_mobile.bench.arm64.emulation"

# QEMU 9 has a different plugin interface.
_NEWEST_QEMU = (8, 2)
# The runtime's directory in a sysroot: a fixed one, so that counts do not depend on the project's directory.
_RUNTIME = Path("/executorch")


@dataclass(frozen=True)
class Emulator:
    """The tools, and the directory of their outputs.

    Attributes:
        qemu, cross_compiler, c_compiler: programs.
        package: the executorch package of the aarch64 wheel.
        build: the directory of the compiled programs and sysroots.
    """

    qemu: str
    cross_compiler: str
    c_compiler: str
    package: Path
    build: Path

    @cached_property
    def qemu_version(self) -> tuple[int, int]:
        """The version of the installed QEMU, such as (7, 2)."""
        match = re.search(r"version (\d+)\.(\d+)", _output(self.qemu, "--version"))
        if match is None:
            raise SharpError(f"{self.qemu}: does not report its version; install Debian's or Ubuntu's qemu-user")
        return int(match[1]), int(match[2])

    def runner(self) -> Path:
        """Compile the runner as an ARM64 program.

        Raises:
            SharpError: it does not compile.
        """
        _, runtime = executorch_package()
        return build_runner(
            self.package,
            runtime,
            compiler=self.cross_compiler,
            architecture="aarch64",
            run_path=_RUNTIME / "lib",
            out=self.build,
        )

    def counter(self) -> Path:
        """Compile the QEMU plugin that counts instructions.

        Raises:
            SharpError: it does not compile.
        """
        command = [self.c_compiler, "-std=c11", "-O2", "-shared", "-fPIC", str(COUNTER)]
        digest = hashlib.sha256("\0".join([*command, COUNTER.read_text(encoding="utf-8")]).encode()).hexdigest()
        return compiled(self.build / "counter.so", command, COUNTER, digest)

    def sysroot(self, profile: Profile) -> Path:
        """The root directory that a program sees: files about the phone's processor, and the ARM64 libraries.

        Raises:
            SharpError: it cannot be written.
        """
        libraries = Path(_output(self.cross_compiler, "-print-file-name=libc.so.6").strip()).resolve().parent
        # The machine's library cache is for another processor; the loader ignores an empty one.
        files = {**profile.files(), "etc/ld.so.cache": ""}
        links = {"lib": libraries, _RUNTIME.name: self.package}
        key = hashlib.sha256(repr((files, links)).encode()).hexdigest()
        root = self.build / "sysroots" / f"{profile.name}-{key[:16]}"
        if not root.is_dir():
            with _new_directory(root) as partial:
                for name, content in files.items():
                    path = partial / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(content, encoding="utf-8")
                for name, target in links.items():
                    (partial / name).symlink_to(target)
        return root


def find_emulator() -> Emulator:
    """Find the installed tools and the downloaded wheel.

    Raises:
        SharpError: something is missing; the message says how to get it.
    """
    found = {tool: shutil.which(tool) for tool in _PACKAGES}
    missing = [tool for tool, path in found.items() if path is None]
    if missing:
        packages = " ".join(_PACKAGES[tool] for tool in missing)
        raise SharpError(
            f"{', '.join(missing)} not found; run sudo apt-get install {packages}, or in a checkout make arm64-tools"
        )
    wheel = _wheel()
    if not wheel.is_dir():
        raise SharpError(f"{wheel}: the runtime's ARM64 libraries are missing; run {_FETCH}")
    package, build = wheel.resolve() / "executorch", BUILD.resolve()
    emulator = Emulator(str(found[_QEMU]), _CROSS_COMPILER, _C_COMPILER, package, build)
    # Debian 13's qemu-user is linked statically, without plugins.
    if emulator.qemu_version > _NEWEST_QEMU or "-plugin" not in _output(emulator.qemu, "-h"):
        major, minor = emulator.qemu_version
        raise SharpError(
            f"{emulator.qemu}: is QEMU {major}.{minor}; counting needs one with plugins and not newer than "
            f"{_NEWEST_QEMU[0]}.{_NEWEST_QEMU[1]}, such as Debian 12's"
        )
    return emulator


def fetch_wheel() -> Path:
    """Download and unpack the aarch64 wheel of the installed ExecuTorch, unless it exists.

    Its libraries are the same for all versions of Python; there is a wheel for 3.11.

    Raises:
        SharpError: pip cannot download it, or it cannot be written.
    """
    wheel, (_, version) = _wheel(), executorch_package()
    if wheel.is_dir():
        return wheel
    with _new_directory(wheel) as partial, tempfile.TemporaryDirectory(prefix="executorch-") as directory:
        platform = ["--platform=manylinux_2_28_aarch64", "--python-version=3.11", "--only-binary=:all:", "--no-deps"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *platform, f"--dest={directory}"]
        done = subprocess.run([*command, f"executorch=={version}"], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SharpError(f"pip cannot download executorch {version} for aarch64: {last}")
        (archive,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(archive) as file:
            file.extractall(partial)
    return wheel


def _wheel() -> Path:
    return BUILD / f"executorch-{executorch_package()[1]}-aarch64"


@contextmanager
def _new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory, renamed to `target` when the block ends, unless another process has created that."""
    try:
        with create_directory(target) as partial:
            yield partial
    except OSError as error:
        raise SharpError(f"{target}: cannot be written: {error.strerror}; make room, or see who owns build/") from error


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    try:
        fetch_wheel()
        emulator = find_emulator()
        print(f"{emulator.runner()}\n{emulator.counter()}")
    except SharpError as error:
        sys.exit(f"error: {one_printable_line(str(error))}")
