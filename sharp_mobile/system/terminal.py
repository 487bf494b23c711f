"""A console that writes to the terminal."""

import click

from sharp_mobile.console import Console
from sharp_mobile.files.printable import one_printable_line, printable


def terminal_console(*, quiet_output: bool) -> Console:
    """A console with warnings and bars on standard error; texts of files and phones are escaped.

    Args:
        quiet_output: lines go to standard error too, and standard output stays the caller's.
    """

    def say(text: str) -> None:
        click.echo(printable(text, lines=True), err=quiet_output)

    def warn(line: str) -> None:
        click.echo(f"warning: {one_printable_line(line)}", err=True)

    return Console(say=say, warn=warn, bars=True)
