"""A question to a person, before a command does work that cannot be undone."""

from __future__ import annotations

import sys

import click

from sealbus_broker.cli.shared.errors import Declined


def confirm(question: str, *, yes: bool, otherwise: str = "give --yes") -> None:
    """Ask the person at the terminal. Return only if the answer is yes.

    Args:
        question: The question, with its question mark.
        yes: Whether the answer was given before, by an option. Nothing is asked then.
        otherwise: The remedy where nobody can be asked.

    Raises:
        click.UsageError: Standard input is no terminal.
        Declined: The answer is no.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():  # it is None if the parent closed it
        raise click.UsageError(f"nobody can confirm this without a terminal: {otherwise}")
    if not click.confirm(question, err=True):
        raise Declined("the answer was no, so nothing was done")
