"""What others wrote is shown as text and does nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharp_mobile.files.printable import html_text, markdown, one_printable_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Pixel 8 Pro", "Pixel 8 Pro"),
        ("红米 Note – ×½\u00a0µs", "红米 Note – ×½\u00a0µs"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b2J", r"\x9b2J"),
        ("over\rwritten", r"over\rwritten"),
        ("a\nerror: b", r"a\nerror: b"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("\x00\x07", r"\x00\x07"),
    ],
)
def test_a_terminal_is_given_text_only(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_text_of_several_lines_keeps_them() -> None:
    assert printable("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    assert one_printable_line("while parsing\n  found\x1b '}'\r\n\nhere ") == r"while parsing found\x1b '}' here"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a | b", r"a \| b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("`x` *y* _z_ ~~q~~", r"\`x\` \*y\* \_z\_ \~\~q\~\~"),
        ("![i](http://x/i.png)", r"!\[i\](http://x/i.png)"),
        ("a\\|b\nc", r"a\\\|b\\nc"),
        ("1,200 ×0.833", "1,200 ×0.833"),
    ],
)
def test_a_markdown_cell_has_no_markup(text: str, cell: str) -> None:
    assert markdown(text) == cell


def test_html_has_no_markup() -> None:
    assert html_text('<b title="x">\x1b&</b>') == r"&lt;b title=&quot;x&quot;&gt;\x1b&amp;&lt;/b&gt;"


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=st.text(st.characters(), max_size=30))
def test_whatever_the_text_it_can_be_written_in_one_line(text: str) -> None:
    for shown in (printable(text), one_printable_line(text), markdown(text), html_text(text)):
        shown.encode("utf-8")
        assert len(shown.splitlines()) <= 1
        assert "\x1b" not in shown
    assert "<" not in markdown(text) + html_text(text)
