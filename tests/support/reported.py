"""What the project reports while a test runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sharp_mobile.console import Console, reporting


@dataclass(frozen=True)
class Reported:
    """Lines and warnings, in their order."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@contextmanager
def recorded() -> Iterator[Reported]:
    """Record what is reported within the block."""
    report = Reported()
    with reporting(Console(report.lines.append, report.warnings.append)):
        yield report
