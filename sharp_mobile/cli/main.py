"""The command group: its console, and how it ends on an error or an interrupt."""

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from sharp_mobile import __version__
from sharp_mobile.cli import exports, measurements, models, paper
from sharp_mobile.console import reporting
from sharp_mobile.errors import SharpError
from sharp_mobile.files.printable import one_printable_line
from sharp_mobile.system.libraries import silence_libraries
from sharp_mobile.system.terminal import terminal_console


class _Group(click.Group):
    """Prints a `SharpError` as one line, and cleans up on Ctrl-C and SIGTERM."""

    def invoke(self, ctx: click.Context) -> object:
        received: list[int] = []

        def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
            received.append(signum)
            raise KeyboardInterrupt

        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, interrupt)
        silence_libraries()
        try:
            with reporting(terminal_console(lines_to_stderr=False)):
                return super().invoke(ctx)
        except BaseException as error:
            # Check the signal first: a library may have turned the interrupt into another exception.
            if received:
                click.echo("error: interrupted; existing files are unchanged", err=True)
                # If an interrupt hits code that runs from a string (dataclasses are generated so), `python -m` always
                # ends as if killed by SIGINT. Running another string resets that state.
                exec("pass")
                sys.exit(128 + received[0])
            if isinstance(error, SharpError):
                click.echo(f"error: {one_printable_line(str(error))}", err=True)
                sys.exit(1)
            raise


@click.group(cls=_Group, context_settings={"max_content_width": 110})
@click.version_option(__version__)
def main() -> None:
    """Share MLP layers of a language model, recover the loss, export it for phones, and measure it."""


for command in (*models.COMMANDS, *exports.COMMANDS, *measurements.COMMANDS, *paper.COMMANDS):
    main.add_command(command)
