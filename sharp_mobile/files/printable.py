"""Text that somebody else wrote, made safe to show: in a terminal, in a Markdown table, in an HTML page."""

import html
import re
import unicodedata

# The zero-width joiners belong to the writing of some languages and to emoji, and change nothing around them.
_ALLOWED = "\u200c\u200d"


def printable(text: str, *, lines: bool = False) -> str:
    r"""A text with every character that a terminal obeys written as an escape: `\x1b`, `\u202e`, `\n`.

    These are control and format characters (bidirectional ones too), line separators, and surrogates, which no file
    can be written with.

    Args:
        lines: line feeds and tabs stay, for a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(character if _harmless(character, lines) else _escaped(character) for character in text)


def one_printable_line(text: str) -> str:
    """A message of maybe several lines in one line, with the characters that a terminal obeys escaped."""
    return printable(" ".join(line for line in map(str.strip, text.splitlines()) if line))


def markdown(text: str) -> str:
    """A text as a Markdown cell or line that shows it as it is: no markup, no HTML, no end of the cell or line."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(printable(text), quote=False))


def html_text(text: str) -> str:
    """A text as part of an HTML page, in an element or in a quoted attribute."""
    return html.escape(printable(text))


def _harmless(character: str, lines: bool) -> bool:
    if character.isprintable() or character in _ALLOWED or unicodedata.category(character) == "Zs":
        return True
    return lines and character in "\n\t"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
