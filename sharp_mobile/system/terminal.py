"""A console that writes to the terminal."""

import click

from sharp_mobile.console import Console
from sharp_mobile.files.printable import one_printable_line, printable


def terminal_console(*, lines_to_stderr: bool) -> Console:
    """A console with warnings and bars on standard error; texts of files and phones are escaped.

    Args:
        lines_to_stderr: leave standard output to the caller.
    """

    def say(text: str) -> None:
        click.echo(printable(text, lines=True), err=lines_to_stderr)

    def warn(line: str) -> None:
        click.echo(f"warning: {one_printable_line(line)}", err=True)

    return Console(say=say, warn=warn, bars=True)
