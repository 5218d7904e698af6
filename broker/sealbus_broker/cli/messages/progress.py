"""A status line on a terminal, for long work. It may fail, and the work goes on."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Final

import click

EVERY_S: Final = 0.1
"""Time between two drawings. Ten a second look steady, and cost nothing beside the work."""

_ERASE: Final = "\r\x1b[K"


class ProgressLine:
    """One line on stderr that is drawn again and again. It is empty if stderr is not a terminal."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._drawn = False
        self._next = time.monotonic() + EVERY_S

    def show(self, text: str) -> None:
        """Draw ``text``, unless the last drawing was a moment ago."""
        if self._on and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY_S
            self._drawn = True
            click.echo(_ERASE + text[: shutil.get_terminal_size().columns - 1], err=True, nl=False)

    def say(self, text: str) -> None:
        """Write ``text`` as a line of its own, in place of the status line."""
        self.clear()
        click.echo(text, err=True)

    def clear(self) -> None:
        """Remove the status line."""
        if self._drawn:
            self._drawn = False
            click.echo(_ERASE, err=True, nl=False)
