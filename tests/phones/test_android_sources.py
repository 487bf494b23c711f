"""compare-with-sources sees where ExecuTorch's Kotlin sources differ from the signatures that check the app."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kotlin_tools import ANDROID_BENCH, COMPARE

OURS = ANDROID_BENCH / "jvm" / "src" / "executorch" / "kotlin" / "org"
BELOW = "extension/android/executorch_android/src/main/java"
MODULE, TENSOR = f"{BELOW}/org/pytorch/executorch/Module.kt", f"{BELOW}/org/pytorch/executorch/Tensor.kt"
CALLBACK = f"{BELOW}/org/pytorch/executorch/extension/llm/LlmCallback.kt"
RUNNER = f"{BELOW}/org/pytorch/executorch/extension/llm/LlmModule.kt"


def compare(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, COMPARE, *arguments], capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A source tree with our own signatures, written differently and with more around them."""
    shutil.copytree(OURS, tmp_path / BELOW / "org")
    module = tmp_path / MODULE
    text = module.read_text().replace(
        "open class Module private constructor(", "@Experimental\nopen class Module\nprivate constructor(\n"
    )
    text = text.replace(
        "    open fun destroy() {", "  open fun execute(name: String): Int = 1 // }\n\n  /** { */ open fun destroy() {"
    )
    text = text.replace("        fun load(", "    fun load(\n        ").replace(
        "numThreads: Int = 0)", "numThreads: Int = 0,\n    )"
    )
    assert text.count("execute") == module.read_text().count("execute") + 1
    module.write_text(text)
    return tmp_path


def test_equal_signatures_are_equal(checkout: Path) -> None:
    done = compare(checkout)
    assert (done.returncode, done.stdout) == (0, "equal: 5 files\n")


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (MODULE, "numThreads: Int = 0", "numThreads: Int = 4", "Module.Companion.load: the sources have"),
        (MODULE, "LOAD_MODE_MMAP = 1", "LOAD_MODE_MMAP = 2", "Module.Companion.LOAD_MODE_MMAP: the sources have"),
        (MODULE, "open fun destroy()", "private fun destroy()", "Module.destroy: the sources have none"),
        (MODULE, "vararg inputs: EValue", "inputs: List<EValue>", "Module.forward: the sources have"),
        (MODULE, "): Array<EValue>", "): List<EValue>", "Module.forward: the sources have"),
        (MODULE, "@JvmOverloads", "", "Module.Companion.load: the sources have"),
        (TENSOR, "open fun getRaw", "protected open fun getRaw", "Tensor.getRawDataBuffer: the sources have"),
        (TENSOR, "abstract class Tensor", "class Tensor", "Tensor: the sources have `class Tensor`"),
        (CALLBACK, "message: String) {}", "message: String)", "LlmCallback.onError: must be implemented"),
        (CALLBACK, "Callback {", "Callback {\n    fun onMore(more: Int)", "LlmCallback.onMore: must be implemented"),
        (RUNNER, "temperature: Float)", "temperature: Double)", "LlmModule.constructor: the sources have"),
        (RUNNER, ") : Closeable", ")", "LlmModule: is no Closeable in the sources"),
    ],
)  # fmt: skip
def test_a_difference_is_reported(checkout: Path, file: str, old: str, new: str, problem: str) -> None:
    text = (checkout / file).read_text()
    assert old in text
    (checkout / file).write_text(text.replace(old, new))
    done = compare(checkout)
    assert done.returncode == 1
    assert problem in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_file_that_is_gone_is_reported(checkout: Path) -> None:
    (checkout / TENSOR).unlink()
    done = compare(checkout)
    assert done.returncode == 1
    assert done.stdout == f"Tensor.kt: {TENSOR}: is not there\n"


def test_a_commit_is_read_from_a_git_directory(checkout: Path, tmp_path: Path) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "Add"], ["tag", "equal"]):
        subprocess.run(["git", "-C", checkout, *command], check=True)
    (checkout / TENSOR).write_text("package org.pytorch.executorch\n\nclass Tensor\n")
    subprocess.run(["git", "-C", checkout, *identity, "commit", "-qam", "Change"], check=True)
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", checkout, bare], check=True)
    assert compare(bare, "equal").returncode == 0
    assert compare(bare).returncode == 1
    assert compare().returncode == 2
