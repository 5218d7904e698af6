"""Where a command reports its findings: on stderr, or in the log of a long-running command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click

from sealbus.errors import SealbusError


def note(text: str) -> None:
    """Print a note on stderr. It stops nothing."""
    click.echo(f"{click.style('note:', fg='yellow')} {text}", err=True)


def _say(text: str) -> None:
    click.echo(text, err=True)


@dataclass(frozen=True, slots=True)
class Talk:
    """The functions that take the findings, by their kind."""

    say: Callable[[str], None] = _say
    note: Callable[[str], None] = note
    problem: Callable[[str], None] = _say


ON_STDERR: Final = Talk()


def say_error(error: SealbusError) -> None:
    """Print the error after ``error:``, and the remedy after ``hint:``."""
    click.echo(f"{click.style('error:', fg='red')} {error.what}", err=True)
    if error.hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {error.hint}", err=True)
