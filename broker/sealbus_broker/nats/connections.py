"""The list of the sessions that bots have, as nats-server tells it (``CONNZ`` of BOTS)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus_broker.nats.config import CONNECTIONS_SUBJECT
from sealbus_broker.nats.jetstream import Json, time_us
from sealbus_broker.nats.session_name import Certified, read_session_name

ASK_S: Final = 2.0
"""How long nats-server may take for one page of its list. The seven pages of 3,000 sessions took 60
to 140 ms, most of it to read them."""

PAGE: Final = 512
"""How many sessions are asked for at once. Most have some 500 bytes. A client chooses its language
and its version, of which the door allows 64 characters each, and JSON writes some characters as six
bytes. So a session has 2 KiB at most, and an answer 1 MiB."""

OVERLAP: Final = 32
"""How many sessions of a page the next one repeats. A page begins at a position in the list, so
sessions that end between two questions move the rest forward."""


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One session of a bot."""

    number: int
    """The server's number for the connection."""
    bot: str
    key: str
    """The bot's enrolled key (``U…``) that answers for it."""
    certified: Certified | None
    """Its session key, and from when to when that is certified. ``None``: it has none, because the
    bot may do without."""
    began_us: int
    """When the client connected (µs since 1970, by the server's clock). A bot that is asked to move
    may connect again within a millisecond."""
    told: Json
    """All that nats-server tells of it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions on a server at one time."""

    server: str
    """The server's id."""
    at_us: int
    """The time of the first answer, by the server's clock (µs since 1970)."""
    sessions: tuple[LiveSession, ...]


async def list_sessions(nc: Client, *, timeout_s: float = ASK_S) -> Listing:
    """Ask for the sessions of bots.

    Args:
        nc: A connection that is logged in as the relay.
        timeout_s: How long nats-server may take for one page.

    Raises:
        nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
    """
    found: dict[int, LiveSession] = {}
    offset = 0
    first: dict[str, Any] | None = None
    while True:
        # Without "auth": it would tell the certificates of each client, of any size.
        ask = json.dumps({"limit": PAGE, "offset": offset}).encode()
        answer = await nc.request(CONNECTIONS_SUBJECT, ask, timeout_s)
        try:
            data = json.loads(answer.data)["data"]
            page = data["connections"] or []  # nats-server writes null where there is none
            found |= {int(one["cid"]): _session(one) for one in page}
            # The time of the first page: a session that begins during the others is no old one.
            first = first or data
            if len(page) < PAGE:
                return Listing(first["server_id"], time_us(first["now"]), tuple(found.values()))
        except (ValueError, KeyError, TypeError):
            raise NatsError("nats-server does not say who is connected") from None
        offset += PAGE - OVERLAP


def _session(told: Json) -> LiveSession:
    name = read_session_name(told["name"])
    began_us = time_us(told["start"])
    return LiveSession(int(told["cid"]), name.bot, name.key, name.certified, began_us, told)
