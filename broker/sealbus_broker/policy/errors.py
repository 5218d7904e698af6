"""Errors that keep a command from changing the folder of a bus."""

from __future__ import annotations

from sealbus.errors import InvalidInput


class InTheWay(InvalidInput):
    """An existing file prevents the command, or has a problem.

    The command was right, but the folder is not ready for it.
    """
