"""The Swift and the Kotlin core are the same program: the same files, and in each the same functions in one order.

Only what one language's standard library lacks is in one of them alone.
"""

import re
from pathlib import Path

import pytest
from project import PROJECT

SWIFT = PROJECT / "ios_bench" / "BenchCore" / "Sources" / "BenchCore"
KOTLIN = PROJECT / "android_bench" / "core" / "src" / "main" / "kotlin" / "dev" / "sharpmobile" / "bench"

# SHA-256 is in the JVM and not in Foundation on Linux; JSON is in Foundation, lenient, and not in the JVM at all.
# Android and the JVM share the files of Linux, which iOS does not have.
SWIFT_ALONE, KOTLIN_ALONE = {"SHA256", "Decoding"}, {"Json", "Fields", "LinuxFiles"}
# Kotlin hands it on by delegation where Swift writes it out.
DELEGATED = {"close"}

_SWIFT_FUNCTION = re.compile(r"^(?P<indent> *)(?P<words>[a-z() ]*)\bfunc (?P<name>\w+)", re.MULTILINE)
_KOTLIN_FUNCTION = re.compile(r"^(?P<indent> *)(?P<words>[a-z ]*)\bfun (?:<[^>]*> )?(?P<name>\w+)", re.MULTILINE)


def functions(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Names of the functions that are not private, in their order."""
    found = (match["name"] for match in pattern.finditer(text) if "private" not in match["words"].split())
    return [name for name in found if name not in DELEGATED]


def sources(directory: Path, suffix: str, but: set[str]) -> dict[str, str]:
    return {path.stem: path.read_text() for path in directory.glob(f"*{suffix}") if path.stem not in but}


def kotlin() -> dict[str, str]:
    if not KOTLIN.is_dir():
        pytest.skip(f"{KOTLIN.relative_to(PROJECT)} is not here")
    return sources(KOTLIN, ".kt", KOTLIN_ALONE)


def test_the_same_files() -> None:
    assert set(kotlin()) == set(sources(SWIFT, ".swift", SWIFT_ALONE))


@pytest.mark.parametrize("name", sorted(sources(SWIFT, ".swift", SWIFT_ALONE)))
def test_the_same_functions_in_the_same_order(name: str) -> None:
    ours = functions(sources(SWIFT, ".swift", SWIFT_ALONE)[name], _SWIFT_FUNCTION)
    assert functions(kotlin()[name], _KOTLIN_FUNCTION) == ours


@pytest.mark.parametrize("word", ["SwiftUI", "UIKit", "ExecuTorchEngine", "android.", "androidx", "org.pytorch"])
def test_no_core_knows_a_screen_or_executorch(word: str) -> None:
    texts = [*sources(SWIFT, ".swift", set()).values(), *(sources(KOTLIN, ".kt", set()).values())]
    assert not [
        text.splitlines()[0] for text in texts if re.search(rf"^import .*{re.escape(word)}", text, re.MULTILINE)
    ]


def test_functions_are_found() -> None:
    swift = "  public static func run() {}\n  private func hidden() {}\nfunc free<T>(_ a: T) {}\n"
    assert functions(swift, _SWIFT_FUNCTION) == ["run", "free"]
    text = "    override fun run() {}\n    private fun hidden() {}\ninline fun <T> free(a: T) {}\n"
    assert functions(text, _KOTLIN_FUNCTION) == ["run", "free"]
