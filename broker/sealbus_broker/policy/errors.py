"""What keeps a command from changing the bus's folder."""

from __future__ import annotations

from sealbus.errors import InvalidInput


class InTheWay(InvalidInput):
    """A file that is there already, or is wrong, stands in the way. The command was right, the folder is not ready for it."""
