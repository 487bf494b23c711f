"""Escape untrusted text for a terminal, a Markdown table or an HTML page."""

import html
import re
import unicodedata

# Some scripts and emoji need the zero-width joiners; they do not change the text around them.
_ALLOWED = "\u200c\u200d"


def printable(text: str, *, lines: bool = False) -> str:
    r"""Escape every character that controls a terminal: `\x1b`, `\u202e`, `\n`.

    These are control and format characters (also bidirectional ones), line separators, and surrogates, which UTF-8
    cannot encode.

    Args:
        lines: leave line feeds and tabs unescaped, for a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(character if _harmless(character, lines) else _escaped(character) for character in text)


def one_printable_line(text: str) -> str:
    """Join the lines of a message, with terminal control characters escaped."""
    return printable(" ".join(line for line in map(str.strip, text.splitlines()) if line))


def markdown(text: str) -> str:
    """Escape a text for a Markdown cell or line: no markup, no HTML, no break of the cell or line."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(printable(text), quote=False))


def html_text(text: str) -> str:
    """Escape a text for an HTML element or a quoted attribute."""
    return html.escape(printable(text))


def _harmless(character: str, lines: bool) -> bool:
    if character.isprintable() or character in _ALLOWED or unicodedata.category(character) == "Zs":
        return True
    return lines and character in "\n\t"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
