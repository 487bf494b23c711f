"""What may happen to a file on its way here, as hypothesis strategies, and what a command may do about it.

Tests take them with the settings `ODD`; `make fuzz` takes them one at a time, by `drawn`.
"""

import contextlib
import hashlib
import io
import json
import struct
import unicodedata
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sharp_mobile.cli import main
from sharp_mobile.errors import SharpError

ODD = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Drawn = TypeVar("Drawn")


def drawn(strategy: st.SearchStrategy[Drawn], number: int) -> Drawn:
    """What a strategy gives for a number; the same each time."""
    found = []

    @seed(number)
    @settings(ODD, derandomize=False, database=None, max_examples=3, phases=[Phase.generate])
    @given(strategy)
    def take(value: Drawn) -> None:
        found.append(value)

    take()
    return found[-1]  # the first is the simplest that the strategy gives


# Values that JSON may hold and that no field expects.
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 10**9, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf"), -0.0]),
    st.text(max_size=8),
    st.sampled_from(["F32", "float32", "../../etc/passwd", "a\nb", "\x00", "model.safetensors", "llama", "10" * 3000]),
    st.recursive(st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)

# Text that a terminal, a Markdown table or an HTML page would obey, and names that lead elsewhere.
HOSTILE_TEXTS = [
    *("../../Makefile", "/etc/passwd", "packed/../../x", "packed", "..", "a/b", "C:\\x", "packed/a.cache"),
    *("\x1b[2J\x1b[1;31mgone", "\x9b2J", "over\rwritten", "two\nlines", "\u202etxt.exe", "\u2028", "\ud800", "\x00"),
    *("a | b", "`x`", "<script>alert(1)</script>", "![i](http://x)", "$\\frac{1}{0}$", "long " * 500, ""),
]
HOSTILE_NUMBERS = [
    *(0, -1, 1, 2**31, 2**63, 10**400, -(10**400), 1e308, -1e308, 5e-324, -0.0, 0.5),
    *(float("nan"), float("inf"), float("-inf")),
]
HOSTILE_VALUES = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.sampled_from(HOSTILE_NUMBERS),
    st.sampled_from([None, True, [], {}, [[]], {"": None}, ["x"], [1, 2, 3], {"a": {"b": 1}}]),
    ODD_VALUES,
)

# GGUF's metadata, the keys without the architecture before them.
GGUF_KEYS = [
    *("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"),
    *("attention.key_length", "context_length", "rope.freq_base", "rope.dimension_count", "rope.scaling.type"),
    *("rope.scaling.factor", "attention.sliding_window", "attention.sliding_window_pattern", "expert_count"),
    *("attention.scale", "attn_logit_softcapping", "pooling_type", "attention.causal", "nobody.knows"),
]
GGUF_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.floats(width=32),
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.lists(st.text(max_size=3), min_size=1, max_size=3),
)


@st.composite
def damaged_bytes(draw: Callable, content: bytes, begin: int = 0, end: int | None = None) -> bytes:
    """Some bytes of `content`, or of its part from `begin` to `end`, changed, put in or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        last = max(min(len(data), len(content) if end is None else end) - 1, 0)
        where = draw(st.integers(min(begin, last), last))
        match draw(st.sampled_from(["flip", "cut", "insert", "number"])):
            case "flip" if data:
                data[where] ^= draw(st.integers(1, 255))
            case "cut":
                del data[where:]
            case "insert":
                data[where:where] = draw(st.binary(min_size=1, max_size=9))
            case "number":
                data[where : where + 8] = struct.pack(
                    "<Q", draw(st.sampled_from([0, 1, 2**16, 2**32, 2**63, 2**64 - 1]))
                )
    return bytes(data)


@st.composite
def damaged_safetensors(draw: Callable, content: bytes) -> bytes:
    """A safetensors file whose header, weights or length are damaged."""
    length = int.from_bytes(content[:8], "little")
    header, weights = content[8 : 8 + length], content[8 + length :]
    match draw(st.sampled_from(["fields", "swap", "bytes", "cut", *["weights"] * 3])):
        case "fields":
            header = json.dumps(draw(damaged_data(json.loads(header)))).encode()
        case "swap":
            table = json.loads(header)
            names = sorted(name for name in table if name != "__metadata__")
            first, second = draw(st.sampled_from(names)), draw(st.sampled_from(names))
            table[first], table[second] = table[second], table[first]
            header = json.dumps(table).encode()
        case "bytes":
            return draw(damaged_bytes(content, end=8 + length))
        case "cut":
            return content[: draw(st.integers(0, len(content) - 1))]
        case "weights":
            weights = draw(damaged_floats(weights))
    return len(header).to_bytes(8, "little") + header + weights


@st.composite
def damaged_floats(draw: Callable, content: bytes) -> bytes:
    """float32 numbers of which one, several or all from one place on are values that no trained weight has."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, max(len(data) // 4 - 1, 0))) * 4
        times = draw(st.sampled_from([1, 1, 64, len(data)]))
        value = draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-45, 0.0]))
        changed = struct.pack("<f", value) * times
        data[where : where + len(changed)] = changed[: len(data) - where]
    return bytes(data)


@st.composite
def damaged_data(draw: Callable, content: Any) -> Any:
    """Parsed JSON with one to three of its fields replaced, left out, repeated or renamed."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            return content
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "replace", "replace", "drop", "repeat", "rename"])):
            case "replace":
                holder[key] = deepcopy(draw(HOSTILE_VALUES))  # a later change must not reach the next example
            case "drop":
                del holder[key]
            case "repeat" if isinstance(holder, list):
                holder.append(holder[key])
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(HOSTILE_TEXTS))] = holder.pop(key)
    return content


@st.composite
def damaged_json(draw: Callable, content: Any) -> bytes:
    """A JSON file in which fields are wrong, or that is cut, nested past all limits, or has bits flipped."""
    match draw(st.sampled_from(["fields"] * 6 + ["bytes", "bytes", "nested", "digits", "twice"])):
        case "fields":
            return json.dumps(draw(damaged_data(content))).encode()
        case "bytes":
            return draw(damaged_bytes(json.dumps(content).encode()))
        case "nested":
            depth = draw(st.sampled_from([100, 900, 5000, 100_000]))
            bracket = draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
            inner = bracket[0] * depth + "1" + bracket[1] * depth
            return _with_text(draw, content, inner)
        case "digits":
            return _with_text(draw, content, draw(st.sampled_from(["9" * 5000, "1e400", "-1e400", "NaN", "1" * 400])))
        case _:
            text = json.dumps(content)
            return f"{{{text[1:-1]}, {text[1:-1]}}}".encode()


BUDGETS = """
[tiny]
file_bytes = { at_most = 97_863, tolerance = 0.002 }
shared_bytes = { at_least = 10, tolerance = 0.0 }

[tiny.host]
resident_bytes = { at_most = 131_000_000, tolerance = 0.05 }
"""


@st.composite
def damaged_budgets(draw: Callable) -> bytes:
    """`BUDGETS` with bytes or a value changed, nested past all limits, or as they are."""
    match draw(st.sampled_from(["bytes", "value", "nested", "none"])):
        case "bytes":
            return draw(damaged_bytes(BUDGETS.encode()))
        case "value":
            old = draw(st.sampled_from(["97_863", "0.002", "{ at_least = 10, tolerance = 0.0 }", "tiny.host"]))
            odd = ["nan", "-inf", "1e400", "9" * 5000, "9" * 400, "'x'", "[]", "{}", "2020-01-01", "tiny", "-1", ""]
            return BUDGETS.replace(old, draw(st.sampled_from(odd)), 1).encode()
        case "nested":
            return ("a = " + "[" * draw(st.sampled_from([100, 5000]))).encode()
    return BUDGETS.encode()


def _with_text(draw: Callable, content: Any, text: str) -> bytes:
    """A JSON file in which one value is a text that `json` would not write."""
    content = json.loads(json.dumps(content))
    holder, key = draw(st.sampled_from(list(_places(content))))
    holder[key] = "@here@"
    return json.dumps(content).replace('"@here@"', text).encode()


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every field and element, as what holds it and its name or index."""
    if not isinstance(content, dict | list):
        return []
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    return [place for key in keys for place in [(content, key), *_places(content[key])]]


# What is done about it


def refusal(action: Callable[[], Any]) -> str:
    """What `action` says, if it raises a SharpError."""
    try:
        action()
    except SharpError as error:
        return str(error)
    return ""


def one_line_or_fine(action: Callable[[], Any]) -> None:
    """What `action` raises, if anything, is a SharpError of one line that is not long."""
    message = refusal(action)
    assert "\n" not in message
    assert len(message) < 2000


def outcome(*arguments: object) -> str:
    """Run a command in this process; it ends well, or with one line and status 1, and prints text alone.

    Returns:
        What it refuses, or nothing.
    """
    # What libraries write around click would reach the terminal, too.
    with contextlib.redirect_stderr(io.StringIO()) as beside:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{arguments} raised") from result.exception
    assert result.exit_code in (0, 1), result.output
    assert beside.getvalue() == ""
    assert_text(result.stdout)
    assert_text(result.stderr)
    if result.exit_code:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: "), result.stderr
        return lines[0].removeprefix("error: ")
    return ""


def assert_text(printed: str) -> None:
    """No character in it is one that a terminal obeys, line feeds apart."""
    for character in set(printed) - {"\n", "\u200c", "\u200d"}:
        assert character.isprintable() or unicodedata.category(character) == "Zs", repr(character)


def contents(directory: Path, *but: Path) -> dict[Path, str]:
    """Digests of all files and links below a directory, those below `but` left out."""
    return {
        path: str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if (path.is_symlink() or path.is_file()) and not any(path.is_relative_to(left) for left in but)
    }
