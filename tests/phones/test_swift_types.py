"""All of the iPhone app compiles against stubs of Apple's and ExecuTorch's modules, and the stubs are not too kind."""

import shutil
from pathlib import Path

import pytest
from swift_stubs import APP, APP_TESTS, build_stubs, compile_app, declarations, survivors
from swift_tools import IOS_BENCH, swift

pytestmark = pytest.mark.slow

# Without these a stub is no Swift: what property wrappers, dynamic members, option sets and literals must have.
DEMANDED = (
    "wrappedValue",
    "subscript<",
    "KeyPath<EnvironmentValues",
    "rawValue",
    "stringLiteral",
    "body",
    "buildBlock",
)


@pytest.fixture(scope="session")
def stubs(core_module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory to import the stubs from."""
    directory = tmp_path_factory.mktemp("stubs")
    build_stubs(directory)
    return directory


@pytest.mark.parametrize("version", ["5", "6"])
def test_the_app_and_its_tests_compile(core_module: Path, stubs: Path, tmp_path: Path, version: str) -> None:
    assert compile_app(core_module, stubs, tmp_path, version) == ""


def _copies(directory: Path) -> tuple[Path, Path]:
    return (
        Path(shutil.copytree(APP, directory / "App")),
        Path(shutil.copytree(APP_TESTS, directory / "AppTests")),
    )


FAULTS = [
    (
        "App/BenchView.swift",
        "await bench.refresh()",
        "bench.refresh()",
        "expression is 'async' but is not marked with 'await'",
    ),
    ("App/ExecuTorchEngine.swift", "loadMode: .mmap", "loadMode: .map", "has no member 'map'"),
    ("App/ProcessMemory.swift", "@preconcurrency import", "import", "mach_task_self_"),
    ("App/Battery.swift", "  @MainActor\n  private func read", "  private func read", "main actor"),
    (
        "AppTests/ExportPerformanceTests.swift",
        "do { try work() } catch { XCTFail(told(error)) }",
        "try work()",
        "invalid conversion from throwing function",
    ),
]


@pytest.mark.parametrize(("file", "right", "wrong", "said"), FAULTS)
def test_a_fault_in_the_app_is_found(
    core_module: Path, stubs: Path, tmp_path: Path, file: str, right: str, wrong: str, said: str
) -> None:
    app, tests = _copies(tmp_path)
    text = (tmp_path / file).read_text()
    assert right in text
    (tmp_path / file).write_text(text.replace(right, wrong))
    errors = compile_app(core_module, stubs, tmp_path, "6", app, tests)
    assert said in errors
    assert Path(file).name in errors


def test_an_initializer_that_the_core_keeps_to_itself_is_found(stubs: Path, tmp_path: Path) -> None:
    core = tmp_path / "BenchCore"
    shutil.copytree(IOS_BENCH / "BenchCore" / "Sources" / "BenchCore", core)
    text = (core / "ExportFolder.swift").read_text()
    right = "  public init() {}\n"
    assert text.count(right) == 1
    (core / "ExportFolder.swift").write_text(text.replace(right, ""))
    command = ["-emit-module", "-swift-version", "6", "-module-name", "BenchCore", "-parse-as-library"]
    swift(tmp_path, "swiftc", *command, "-o", "BenchCore.swiftmodule", *sorted(map(str, core.glob("*.swift"))))
    errors = compile_app(tmp_path, stubs, tmp_path, "5")
    assert "'FoundExports' initializer is inaccessible due to 'internal' protection level" in errors


@pytest.mark.mutants
def test_every_declaration_of_the_stubs_is_needed(core_module: Path, stubs: Path, tmp_path: Path) -> None:
    """Rename or remove each once: then the app must not compile. A minute."""
    modules_of_app = tmp_path / "app"
    modules_of_app.mkdir()
    assert compile_app(core_module, stubs, modules_of_app, "5") == ""
    for module in stubs.glob("*.swift*"):
        shutil.copy(module, modules_of_app)
    work = tmp_path / "mutants"
    work.mkdir()
    survived, senseless, count = survivors(core_module, modules_of_app, work)
    assert survived == []
    assert [text for text in senseless if not any(word in text for word in DEMANDED)] == []
    assert count > 150
    assert len(senseless) < count / 8


def test_declarations_are_found() -> None:
    source = (
        "public protocol View {\n  var a: Int { get }\n}\n@MainActor\npublic struct Text: View {\n  public init(\n"
        "    _ a: Int\n  ) {}\n  var a: Int { 1 }\n  @Attribute\n  nonisolated public func f()\n  {\n  }\n}\n"
        "public struct TheAppNamesItNowhere {}\nenum E {\n  case c\n}\n"
    )
    found = declarations("M", source)
    assert [declaration.text for declaration in found] == [
        "public protocol View {",
        "var a: Int { get }",
        "public struct Text: View {",
        "public init(",
        "nonisolated public func f()",
        "case c",
    ]
    assert "ViewGone {" in found[0].mutant(source)
    assert "struct Text: ViewGone" in found[0].mutant(source)
    assert "init" not in found[3].mutant(source)
    assert "Attribute" not in found[4].mutant(source)
    assert found[4].mutant(source).count("}") == source.count("}") - 1
    assert "case cGone" in found[5].mutant(source)
