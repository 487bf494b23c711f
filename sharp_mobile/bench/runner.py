"""The host runner: compile it against the installed ExecuTorch, and start it for each launch.

    host_bench/runner.cpp ─ g++, executorch's own libraries ─► build/host_bench/<architecture>/sharp-runner
                                                                     │ one process, one launch
                                                                     ▼
                                                            JSON on standard output ─► Launch

The executorch wheel ships headers and libraries (`executorch/include`, `executorch/lib`), so nothing else is needed.
"""

import hashlib
import os
import platform
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sharp_mobile.bench.compiling import compiled
from sharp_mobile.errors import SharpError
from sharp_mobile.pte.package import executorch_package
from sharp_mobile.shipped import shipped

SOURCES = shipped("host_bench")
# In build/ of the working directory, like all files that commands store, also if sharp-mobile is installed as a wheel.
BUILD = Path("build/host_bench")

_LIBRARIES = ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool", "_etdump")
# A launch within any usable memory limit is faster; a slower one hangs.
_LONGEST_LAUNCH = 3600

Marked = Literal["load", "forward", "prefill"]


@dataclass(frozen=True)
class Task:
    """The runner's options for one launch.

    Attributes:
        threads: None for the runner's default, one.
        packed_cache: the file that stores XNNPACK's packed weights.
        prompt: token ids.
        warmups, forwards: untimed, then timed forward passes of one token after the prompt.
        prefill, decode: tokens of a run.
        depths: tokens in the KV cache before further runs of decode.
        sustain: seconds of decoding, in cycles of `decode` tokens.
        tokens: the number of tokens to generate after the prompt.
        markers: the part of the launch to put between marker instructions.
    """

    threads: int | None = None
    weight_cache: bool = True
    packed_cache: Path | None = None
    prompt: tuple[int, ...] = (1,)
    warmups: int = 1
    forwards: int = 5
    prefill: int = 0
    prefill_runs: int = 0
    decode: int = 0
    decode_runs: int = 0
    depths: tuple[int, ...] = ()
    sustain: int = 0
    tokens: int = 0
    logits: Path | None = None
    etdump: Path | None = None
    markers: Marked | None = None

    def arguments(self) -> list[str]:
        """The options as command-line arguments."""
        options: dict[str, object] = {
            "threads": self.threads,
            "prompt": _comma_list(self.prompt),
            "warmups": self.warmups,
            "forwards": self.forwards,
            "tokens": self.tokens,
            "packed-cache": self.packed_cache,
            "logits": self.logits,
            "etdump": self.etdump,
            "markers": self.markers,
        }
        if self.prefill and self.prefill_runs:
            options |= {"prefill": self.prefill, "prefill-runs": self.prefill_runs}
        if self.decode and (self.decode_runs or self.sustain):
            options |= {"decode": self.decode, "decode-runs": self.decode_runs, "sustain": self.sustain or None}
            options["depths"] = _comma_list(self.depths) or None
        arguments = [] if self.weight_cache else ["--no-weight-cache"]
        for name, value in options.items():
            if value is not None:
                arguments += [f"--{name}", str(value)]
        return arguments


class ProcessMemory(BaseModel):
    """Bytes of the process: resident anonymous memory and pages of files, the peak of their sum, PSS (0 if unknown)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anonymous: int
    file: int
    peak: int
    footprint: int


class Launch(BaseModel):
    """The runner's output for one launch; times in nanoseconds.

    first_token_ns: load, init and the prompt. decode_token_ns: of each token of all decode runs. decode_at_depth_ns:
    runs by depth. sustained: windows of a sustained run: the end since the start of the launch, tokens and time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    runtime: str
    threads: int
    weight_cache: bool
    packed_cache: str | None
    metadata: dict[str, object]
    load_ns: int
    first_token_ns: int
    forward_ns: tuple[int, ...]
    prefill_tokens: int
    prefill_ns: tuple[int, ...]
    decode_tokens: int
    decode_ns: tuple[int, ...]
    decode_token_ns: tuple[int, ...]
    decode_at_depth_ns: dict[int, tuple[int, ...]]
    sustained: tuple[tuple[int, int, int], ...]
    memory_before_load: ProcessMemory
    memory_after_load: ProcessMemory
    memory_after_forward: ProcessMemory
    peak_bytes: int
    footprint_peak_bytes: int
    likeliest: tuple[tuple[int, float], ...]
    tokens: tuple[int, ...]


class Killed(SharpError):
    """The kernel killed a launch, because its memory limit is too small."""


def build_runner(
    package: Path | None = None,
    runtime: str | None = None,
    *,
    compiler: str | None = None,
    architecture: str = platform.machine(),
    run_path: Path | None = None,
    out: Path = BUILD,
) -> Path:
    """Compile the runner, unless it exists for these sources, libraries and options.

    Args:
        package: a directory of an `executorch` package for the architecture, and `runtime` its version; by default
            the installed one.
        compiler: a GCC or Clang; by default the environment's CXX, or g++.
        run_path: the directory of the libraries at run time; by default their current directory.

    Returns:
        The program, in `out`/architecture.

    Raises:
        SharpError: there is no compiler, a library is missing, or the sources do not compile.
    """
    if package is None or runtime is None:
        package, runtime = executorch_package()
    compiler = compiler or os.environ.get("CXX", "g++")
    libraries = _libraries(package, runtime)
    options = _options(package, libraries, runtime, run_path or package / "lib")
    program = out / architecture / "sharp-runner"
    return _compiled(program, [compiler, str(SOURCES / "runner.cpp"), *options], libraries)


def build_engine(*, out: Path = BUILD) -> Path:
    """Compile the engine that other languages call (`host_bench/engine.h`), like `build_runner`.

    Returns:
        A shared library for this machine.
    """
    package, runtime = executorch_package()
    libraries = _libraries(package, runtime)
    options = _options(package, libraries, runtime, package / "lib")
    library = out / platform.machine() / "libsharp_engine.so"
    command = [os.environ.get("CXX", "g++"), "-shared", "-fPIC", str(SOURCES / "engine.cpp"), *options]
    return _compiled(library, command, libraries)


def _comma_list(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _libraries(package: Path, runtime: str) -> list[Path]:
    libraries = [package / "lib" / f"libexecutorch{name}.so" for name in _LIBRARIES]
    for library in libraries:
        if not library.is_file():
            raise SharpError(f"{library}: is missing; install executorch {runtime} again, from its wheel")
    return libraries


def _options(package: Path, libraries: Sequence[Path], runtime: str, run_path: Path) -> list[str]:
    include = package / "include"
    return [
        *("-std=c++17", "-O2", "-Wall", "-Wextra"),
        *("-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED"),
        f'-DSHARP_RUNTIME="executorch {runtime}"',
        *("-isystem", str(include), "-isystem", str(include / "executorch/runtime/core/portable_type/c10")),
        # Kernels and the backend register themselves when they are loaded, although no symbol refers to them.
        *("-Wl,--no-as-needed", *(str(library) for library in libraries), f"-Wl,-rpath,{run_path}"),
    ]


def _compiled(program: Path, command: Sequence[str], libraries: Sequence[Path]) -> Path:
    sources = sorted(SOURCES.glob("*.[ch]*"))
    source = next(Path(part) for part in command if part.endswith(".cpp"))
    return compiled(program, command, source, _fingerprint([*sources, *libraries], [*command, str(program)]))


def _fingerprint(files: Sequence[Path], command: Sequence[str]) -> str:
    """A digest of the command and of each file's path, size and time; the libraries are too large to read."""
    digest = hashlib.sha256("\0".join(command).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest() + "\n"


def launch(runner: Path, pte: Path, task: Task, prefix: Sequence[str] = ()) -> Launch:
    """Start the runner once; `prefix` is a command that starts it, such as an emulator or a memory limit.

    Raises:
        Killed: the process was killed.
        SharpError: it failed for another reason.
    """
    # Capture the log of cpuinfo and the runtime; it matters only after a failure.
    command, longest = [*prefix, str(runner), str(pte), *task.arguments()], _LONGEST_LAUNCH + task.sustain
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=longest)
    except subprocess.TimeoutExpired as error:
        raise SharpError(f"{pte}: a launch took more than {longest} s and was stopped") from error
    except OSError as error:
        raise SharpError(f"{command[0]}: cannot be started: {error.strerror}; run the command again") from error
    if done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise Killed(f"{pte}: the process was killed; it needs more memory")
    if done.returncode < 0 or done.returncode > 128:
        number = -done.returncode if done.returncode < 0 else done.returncode - 128
        raise SharpError(
            f"{pte}: crashed by signal {number} ({signal.strsignal(number)}); try sharp-mobile inspect {pte}"
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{pte}: the runner failed without a message"]
        message = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[-1])
        raise SharpError(message)
    try:
        return Launch.model_validate_json(done.stdout)
    except ValidationError as error:
        raise SharpError(
            f"{runner}: belongs to another sharp-mobile version: {error.errors()[0]['msg']}; delete it"
        ) from error
