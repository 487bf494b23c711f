"""A child process answers, and its crash, hang or hunger for memory becomes one line in the parent."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sharp_mobile.errors import SharpError
from sharp_mobile.system.child import Answer, Child, ChildError, Handler, serve

MEMORY = 300_000_000


def serve_examples(descriptor: int, memory: int) -> None:
    serve(descriptor, memory, _examples)


def _examples() -> Handler:
    return _handle


def _handle(request: dict[str, Any]) -> Answer:
    match request["do"]:
        case "echo":
            return request["say"], request["say"].encode()
        case "refuse":
            raise SharpError("model.pte: is damaged")
        case "fail":
            raise KeyError("first line\nsecond line")
        case "fill":
            return len("a" * 10**10), b""
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "write":
            print("not an answer", flush=True)
            Path(os.environ["TMPDIR"], "left").write_text("x")
            return os.environ["TMPDIR"], b""
    time.sleep(60)
    return None, b""


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with Child("test_child:serve_examples", memory=MEMORY) as started:
        yield started


def test_a_child_answers_again_and_again_also_after_an_error(child: Child) -> None:
    assert child.ask({"do": "echo", "say": "é"}, 10) == ("é", "é".encode())
    with pytest.raises(SharpError, match=r"^model\.pte: is damaged$"):
        child.ask({"do": "refuse"}, 10)
    with pytest.raises(ChildError, match=r"^KeyError: 'first line") as error:
        child.ask({"do": "fail"}, 10)
    assert "\n" not in str(error.value)
    with pytest.raises(ChildError, match=r"needs more than its memory limit of 0\.3 GB"):
        child.ask({"do": "fill"}, 10)
    assert child.ask({"do": "echo", "say": "still here"}, 10)[0] == "still here"


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("crash", r"ended with SIGSEGV \(its memory limit was 0\.3 GB\)"),
        ("exit", "ended with exit status 3"),
        ("hang", "gave no answer in 1 s"),
    ],
)
def test_the_end_of_a_child_is_told(child: Child, what: str, how: str) -> None:
    with pytest.raises(ChildError, match=how):
        child.ask({"do": what}, 0.5 if what == "hang" else 20)
    with pytest.raises(ChildError, match="ended with"):
        child.ask({"do": "echo", "say": "too late"}, 1)


def test_what_a_child_prints_is_no_answer_and_its_files_go_with_it(child: Child) -> None:
    scratch, _ = child.ask({"do": "write"}, 10)
    assert Path(scratch, "left").is_file()
    child.close()
    assert not Path(scratch).exists()
