"""Whose session each connection is, as the doors tell the relays. Pure.

nats-server tells a name for each connection, and the door admits no name but the right one. But a
client may send a second CONNECT. nats-server (2.15.1) then tells the new name for some
milliseconds, before it asks a door, which refuses it if it is not the right one. A relay that
counts messages must not count them for another bot meanwhile. So a door tells of each login on
:data:`ADMITTED_SUBJECT`, before it answers the login.

A relay that starts later has not heard of the sessions that are there. Nor has a relay that was
without a connection during a login. It takes the names of nats-server for such sessions, and counts
nothing in the first list that has one. A name in no right form is nobody's. On a lost connection
nothing is forgotten. Nothing is stored.
"""

from __future__ import annotations

import json
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.subjects import is_name
from sealbus_broker.door.pauses import bot_of

ADMITTED_SUBJECT: Final = "relay.admitted"
"""A subject inside the account BUS, where no bot is. Doors publish, and relays listen."""

MOST: Final = 16_384
"""How many connections are remembered: twice as many as one nats-server takes. Beyond that the
oldest is forgotten."""


def encode(server: str, number: int, name: str) -> bytes:
    """Return the word of a door about one login.

    Args:
        server: The server's id.
        number: The server's number for the connection.
        name: The bot, or :func:`~sealbus_broker.door.pauses.errands_of` it.
    """
    return json.dumps([server, number, name]).encode()


class AdmittedSessions:
    """The logins that this process has heard of."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], str] = {}
        """By the server and its number for the connection, the latest login last."""

    def take(self, data: bytes) -> None:
        """Take the word of a door. Raises :class:`Malformed`."""
        try:
            server, number, name = json.loads(data)
            place = str(server), int(number)
            is_one = is_name(bot_of(name))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise Malformed("not the word of a door about a login") from None
        if not is_one:
            raise Malformed("a login of nobody")
        self._names.pop(place, None)
        self._names[place] = name
        if len(self._names) > MOST:
            del self._names[next(iter(self._names))]

    def name(self, server: str, number: int) -> str | None:
        """Return the name of a connection's login. ``None``: it is not known here."""
        return self._names.get((server, number))
