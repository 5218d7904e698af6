"""The word by which relays and doors say that they are there, and its subjects.

A relay says it on :data:`RELAY_SUBJECT`, and a door on :data:`DOOR_SUBJECT`, each
:data:`BEAT_S` seconds. :mod:`sealbus_broker.relay.partitions.peers` has its use. The subjects are
inside the account BUS, where no bot is. Nothing is stored: a word that is lost is said again at
the next beat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import Any, Final, Self

from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus_broker.nats.streams import PARTITIONS

RELAY_SUBJECT: Final = "relay.here"
"""The subject on which relays say that they are there."""

DOOR_SUBJECT: Final = "relay.door"
"""The subject on which doors do."""

HELLO_SUBJECT: Final = "relay.hello"
"""The subject on which a relay that begins asks who is there. Each relay says its word at once."""

BEAT_S: Final = 0.25
"""The pause between two words. A relay that comes has its share within a beat or two. A word has
some 300 bytes, so ten relays cost NATS 40 messages a second, each to ten receivers."""

MAX_PRESENCE_BYTES: Final = 4096
"""The largest word. One with all partitions and a name of 64 characters has less than 800 bytes."""


@dataclass(frozen=True, slots=True)
class PresenceWord:
    """The word of one relay, or of one door."""

    id: str
    """Random, of the process. Two relays may have one name."""
    name: str
    """The relay's name."""
    server: str
    """The id of the nats-server that it is connected to."""
    connection: int
    """The server's number for its connection."""
    live: tuple[str, int] | None = None
    """The same two of a relay's connection for live messages, which may be on another server."""
    number: int = PARTITIONS
    """How many partitions there are, as far as it knows. A door has no use for it."""
    holds: frozenset[int] = frozenset()
    """The partitions of this number that it asks for, or has messages of, by their indexes."""
    weights: tuple[int, ...] = ()
    """How much work it thinks that each partition brings, by its policy. Empty for a door."""
    stopping: bool = False
    """Whether it wants no partition any more."""
    enrols: bool = False
    """Whether it can enrol invited bots."""
    beat: int | None = None
    """The number of the beat. ``None``: it is said between two beats, because something changed."""

    @property
    def connections(self) -> list[tuple[str, int]]:
        """The server and the number of each of its connections, that of its words first."""
        own = (self.server, self.connection)
        return [own] if self.live is None else [own, self.live]

    def encode(self) -> bytes:
        """Return one JSON object."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps(fields | {"holds": sorted(self.holds)}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one. Raises :class:`Malformed`. Only relays can say one: no bot is in the account
        BUS."""
        if len(data) > MAX_PRESENCE_BYTES:
            raise Malformed(f"a presence of {len(data)} bytes; at most {MAX_PRESENCE_BYTES}")
        try:
            fields = json.loads(data)
            return cls(
                id=str(fields["id"]),
                name=str(fields["name"]),
                server=str(fields["server"]),
                connection=int(fields["connection"]),
                live=_place(fields["live"]),
                number=int(fields["number"]),
                holds=frozenset(map(int, fields["holds"])),
                weights=tuple(map(int, fields["weights"])),
                stopping=bool(fields["stopping"]),
                enrols=bool(fields["enrols"]),
                beat=None if fields["beat"] is None else int(fields["beat"]),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise Malformed("not the presence of a relay") from None


def _place(given: Any) -> tuple[str, int] | None:
    if given is None:
        return None
    server, connection = given
    return str(server), int(connection)


async def say_that_a_door_is_there(nc: HardenedClient, relay: str) -> None:
    """Say the word of a door until cancelled. Without a connection it is said once there is one.

    Args:
        nc: The door's connection.
        relay: The name of its relay.
    """
    own = secrets.token_hex(8)
    while True:
        word = PresenceWord(id=own, name=relay, server=nc.server_id, connection=nc.client_id or 0)
        with contextlib.suppress(NatsError, OSError):
            nc.write([pub(DOOR_SUBJECT.encode(), word.encode())])
        await asyncio.sleep(BEAT_S)
