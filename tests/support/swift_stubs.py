"""The iPhone app compiled on this computer against stubs of Apple's and ExecuTorch's modules: ios_bench/typecheck.

    declarations ──► mutants, each without one of them ──► a mutant that the app still compiles with has survived

Stubs declare only what the app uses, so each mutant must break the app.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from swift_tools import IOS_BENCH, run

STUBS = IOS_BENCH / "typecheck"
APP, APP_TESTS = IOS_BENCH / "App", IOS_BENCH / "AppTests"
# Foundation is the real one; every file gets what Apple's has more.
_IMPORTED = ["-import-module", "AppleFoundation"]
_STUB = ["-parse-as-library", "-swift-version", "5", "-enable-library-evolution", "-suppress-warnings"]
_STRICT = ["-parse-as-library", "-strict-concurrency=complete", "-warnings-as-errors"]

_MODIFIERS = r"(?:@\w+(?:\([^)]*\))?\s+|(?:public|open|nonisolated|final|static|class|override)\s+)*"
_LEAF = re.compile(rf"^\s*{_MODIFIERS}(?P<kind>func|init|var|let|case|subscript)\b")
_TYPE = re.compile(rf"^\s*{_MODIFIERS}(?P<kind>struct|class|enum|protocol|typealias) (?!var\b|func\b)(?P<name>\w+)")


def modules() -> list[str]:
    return sorted(path.stem for path in STUBS.glob("*.swift"))


def build_stubs(out: Path) -> None:
    """Compile each stub to a module."""
    for name in modules():
        command = ["swiftc", "-emit-module", "-module-name", name, *_STUB, "-o", out / f"{name}.swiftmodule"]
        done = run(*command, STUBS / f"{name}.swift")
        assert done.returncode == 0, done.stderr


def compile_app(core: Path, stubs: Path, out: Path, version: str, app: Path = APP, tests: Path = APP_TESTS) -> str:
    """Compile the app and its tests, warnings as errors, in a version of the language; the errors.

    The objects are thrown away: Apple's systems are not behind the stubs.
    """
    imports = ["-I", core, "-I", stubs, "-I", out]
    implicit = [word for flag in _IMPORTED for word in ("-Xfrontend", flag)]
    common = ["swiftc", "-c", "-wmo", "-o", out / "app.o", "-swift-version", version, *_STRICT, *implicit, *imports]
    header = ["-disable-bridging-pch", "-import-objc-header", app / "SharpBench-Bridging-Header.h"]
    module = ["-emit-module", "-emit-module-path", out / "SharpBench.swiftmodule", "-enable-testing"]
    done = run(*common, "-module-name", "SharpBench", *module, *header, *sorted(app.glob("*.swift")))
    if done.returncode == 0:
        done = run(*common, "-module-name", "SharpBenchTests", *sorted(tests.glob("*.swift")))
    return done.stderr if done.returncode else ""


@dataclass(frozen=True)
class Declaration:
    """A declaration of a stub: the lines that it takes, with its attributes; the name of a type or a case."""

    module: str
    first: int
    last: int
    text: str
    name: str | None

    def mutant(self, source: str) -> str:
        """The stub with the type or case renamed, or without the declaration."""
        if self.name is not None:
            return re.sub(rf"\b{self.name}\b", f"{self.name}Gone", source)
        lines = source.splitlines()
        return "\n".join(lines[: self.first] + lines[self.last + 1 :]) + "\n"


def _end(lines: list[str], first: int) -> int:
    """The last line of the declaration that starts at a line: where its brackets are closed."""
    depth = 0
    for index in range(first, len(lines)):
        depth += sum(lines[index].count(bracket) for bracket in "({[") - sum(map(lines[index].count, ")}]"))
        opens = index + 1 < len(lines) and lines[index + 1].strip() == "{"
        if depth == 0 and not opens:
            return index
    raise AssertionError(f"{lines[first]}: is not closed")


def declarations(module: str, source: str) -> list[Declaration]:
    """What a stub offers: public declarations, requirements of protocols, and cases.

    Types that the app does not name are left out: they stand in the signatures of others.
    """
    app = "\n".join(path.read_text() for directory in (APP, APP_TESTS) for path in directory.glob("*.swift"))
    found, lines, attributes = [], source.splitlines(), 0
    protocol_end = -1
    for index, line in enumerate(lines):
        if re.match(r"\s*(@\w+(\([^)]*\))?|///.*)$", line):
            attributes += 1
            continue
        first, attributes = index - attributes, 0
        offered = re.match(r"\s*(\S.* )?(public|open) ", line) is not None
        if match := _TYPE.match(line):
            if match["kind"] == "protocol":
                protocol_end = _end(lines, index)
            nested = line.startswith(" ")
            if offered and re.search(rf"{'[.]' if nested else ''}\b{match['name']}\b", app):
                found.append(Declaration(module, first, index, line.strip(), match["name"]))
        elif (match := _LEAF.match(line)) and (offered or index <= protocol_end or match["kind"] == "case"):
            name = line.split()[1] if match["kind"] == "case" else None
            found.append(Declaration(module, first, _end(lines, index), line.strip(), name))
    return found


def _check(module: str, mutant: Path, core: Path, stubs: Path) -> str:
    """A shell command that type-checks what imports a module, with a mutant of it: faster than to compile."""
    tested = module == "XCTest"
    sources = sorted((APP_TESTS if tested else APP).glob("*.swift"))
    imported = "" if module == "AppleFoundation" else rf"import {module}$"
    primary = [path for path in sources if re.search(imported, path.read_text(), re.MULTILINE)]
    assert primary, f"{module}: nothing imports it"
    files = [word for path in primary for word in ("-primary-file", str(path))]
    files += [str(path) for path in sources if path not in primary]
    header = ["-import-objc-header", str(APP / "SharpBench-Bridging-Header.h")]
    name = ["-module-name", "SharpBenchTests" if tested else "SharpBench"]
    imports = ["-I", str(mutant), "-I", str(core), "-I", str(stubs)]
    options = [*_STRICT, "-swift-version", "5", *_IMPORTED, *imports]
    return " ".join(["swiftc -frontend -typecheck", *name, *options, *([] if tested else header), *files])


def survivors(core: Path, stubs: Path, work: Path) -> tuple[list[str], list[str], int]:
    """Mutants that the app compiles with, those that are no Swift by themselves, and how many there are.

    `stubs`: the modules without a mutation, with the app's own.
    """
    script, mutants = ["cd /"], {}
    for module in modules():
        source = (STUBS / f"{module}.swift").read_text()
        for declaration in declarations(module, source):
            mutant = work / str(len(mutants))
            mutant.mkdir()
            mutants[mutant.name] = f"{module}: {declaration.text}"
            (mutant / f"{module}.swift").write_text(declaration.mutant(source))
            build = ["swiftc -frontend -emit-module -module-name", module, *_STUB, f"{mutant}/{module}.swift"]
            build += ["-o", f"{mutant}/{module}.swiftmodule"]
            script += [
                f"if ! {' '.join(build)} 2>/dev/null; then echo senseless {mutant.name}",
                f"elif {_check(module, mutant, core, stubs)} 2>/dev/null; then echo survived {mutant.name}; fi",
            ]
    (work / "all.sh").write_text("\n".join(script) + "\necho all\n")
    lines = run("sh", work / "all.sh").stdout.splitlines()
    assert lines[-1:] == ["all"]
    survived, senseless = (
        [mutants[line.split()[1]] for line in lines if line.startswith(word)] for word in ("survived", "senseless")
    )
    return survived, senseless, len(mutants)
