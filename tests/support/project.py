"""Where the project lies, for tests that read its files or run its commands."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
