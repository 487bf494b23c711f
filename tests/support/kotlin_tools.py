"""Kotlin on this computer, from what `make phone-tools-kotlin` puts into build/phones.

core, its tests, executorch, jvm, stubs, app ── kotlinc ──► build/phones/<name>.jar ── java ──► what it prints
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from project import PROJECT

from sharp_mobile.bench.compiling import compiled
from sharp_mobile.bench.runner import build_engine

ANDROID_BENCH = PROJECT / "android_bench"
APP_ENGINE = ANDROID_BENCH / "app/src/main/kotlin/dev/sharpmobile/bench/app/ExecuTorchEngine.kt"
COMPARE = ANDROID_BENCH / "typecheck" / "compare-with-sources"
TOOLS = PROJECT / "build" / "phones"
FIXTURES = PROJECT / "tests" / "fixtures" / "results"

_LIBRARY = TOOLS / "kotlin" / "lib"
COMPILER = [_LIBRARY / f"{name}.jar" for name in ("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime")]
COMPILER += [_LIBRARY / f"{name}.jar" for name in ("kotlin-reflect", "kotlinx-coroutines-core-jvm", "annotations-13.0")]
OPTIONS = ["-no-reflect", "-jvm-target", "17", "-Werror"]
STDLIB = _LIBRARY / "kotlin-stdlib.jar"
JUNIT = [TOOLS / "junit4.jar", TOOLS / "hamcrest.jar"]
KOTLIN_TEST = [_LIBRARY / "kotlin-test.jar", _LIBRARY / "kotlin-test-junit.jar", *JUNIT]
ANDROID_JAR = TOOLS / "android.jar"


def require_kotlin() -> None:
    """Skip without the tools, or fail where SHARP_MOBILE_REQUIRE_KOTLIN is 1."""
    if shutil.which("javac") and all(path.exists() for path in (*COMPILER, *KOTLIN_TEST, ANDROID_JAR)):
        return
    problem = "NO KOTLIN: nothing of android_bench was compiled; run make phone-tools-kotlin"
    if os.environ.get("SHARP_MOBILE_REQUIRE_KOTLIN") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


def core_jar() -> Path:
    require_kotlin()
    return kotlinc("core", [ANDROID_BENCH / "core" / "src" / "main"], [])


def executorch_jar() -> Path:
    """What the app calls of ExecuTorch's Kotlin API, around the engine's C interface."""
    return kotlinc("executorch", [ANDROID_BENCH / "jvm" / "src" / "executorch"], [core_jar()])


def kotlinc(name: str, sources: Sequence[Path], classpath: Sequence[Path], *options: str) -> Path:
    """Compile files, and all below directories, into build/phones/`name`.jar unless they were; fails on a warning."""
    jar = TOOLS / f"{name}.jar"
    with (TOOLS / f"{name}.lock").open("w") as lock:  # test processes share the jar
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_of, key = _digest([*kotlin_files(sources), *classpath]), jar.with_suffix(".key")
        if jar.exists() and key.exists() and key.read_text() == made_of:
            return jar
        key.unlink(missing_ok=True)
        arguments = [
            *("-kotlin-home", TOOLS / "kotlin"),
            *("-d", jar),
            *("-cp", path_of(classpath)),
            *OPTIONS,
            *options,
            *sources,
        ]
        done = java(COMPILER, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", *arguments)
        assert done.returncode == 0, done.stderr[-4000:]
        key.write_text(made_of)
    return jar


def kotlin_files(sources: Sequence[Path]) -> list[Path]:
    return sorted(file for source in sources for file in ([source] if source.is_file() else source.rglob("*.kt")))


def kotlinc_many(compilations: Sequence[Sequence[str | Path]], work: Path) -> list[tuple[bool, str]]:
    """Whether each compilation succeeds, and what the compiler says; all in one process."""
    files = [work / f"arguments-{index}" for index in range(len(compilations))]
    common = ["-kotlin-home", TOOLS / "kotlin", *OPTIONS]
    for file, arguments in zip(files, compilations, strict=True):
        file.write_text("\n".join(map(str, [*common, *arguments])))
    program = PROJECT / "tests" / "support" / "CompileMany.java"
    done = java(COMPILER, "-Dkotlin.environment.keepalive=true", program, given="\n".join(map(str, files)))
    assert done.returncode == 0, done.stderr[-4000:]
    said = re.split(r"^@@ (\w+)\n", done.stdout, flags=re.MULTILINE)
    return [(code == "OK", text) for text, code in zip(said[0::2], said[1::2], strict=False)]


def java(
    classpath: Sequence[Path], *arguments: str | Path, given: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a class. One thread of the compiler's and of the collector's: the machine has other work."""
    options = ["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path_of(classpath)]
    command = ["java", *options, *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, cwd=PROJECT)


def jni_library() -> Path:
    """The engine's C interface as the JVM calls it."""
    javac = shutil.which("javac")
    assert javac
    include = Path(javac).resolve().parents[1] / "include"
    engine, source = build_engine().resolve(), ANDROID_BENCH / "jvm" / "engine_jni.cpp"
    command = [os.environ.get("CXX", "g++"), "-shared", "-fPIC", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror"]
    command += ["-isystem", str(include), "-isystem", str(include / "linux"), str(source)]
    command += [f"-L{engine.parent}", f"-l:{engine.name}", f"-Wl,-rpath,{engine.parent}"]
    made_of = _digest([source, PROJECT / "host_bench" / "engine.h"]) + " ".join(command)
    return compiled(TOOLS / "libsharp_jni.so", command, source, made_of)


def declared(text: str) -> set[str]:
    """Names of the declarations of a Kotlin file that others see."""
    loader = SourceFileLoader("compare_with_sources", str(COMPARE))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = sys.modules[loader.name] = module_from_spec(spec)  # dataclasses look their module up
    loader.exec_module(module)
    return {one.name for one in module.Parser(text).file() if not one.hidden}


def path_of(jars: Sequence[Path]) -> str:
    return os.pathsep.join(map(str, jars))


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        # Jars of ours change with their sources; the size of the tools' is enough.
        digest.update(f"{file}\0".encode())
        digest.update(
            file.read_bytes() if file.suffix != ".jar" or file.parent == TOOLS else b"%d" % file.stat().st_size
        )
    return digest.hexdigest()
