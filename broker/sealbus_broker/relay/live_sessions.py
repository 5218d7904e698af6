"""The sessions that bots have now, and how they come to obey a new policy.

A session keeps the rights that it began with. nats-server cannot change them, so a session that has
to obey is one of these:

======= ==========================================================================================
ended   The bot is told why, by a sealed notice. Then nats-server cuts the connection (``KICK``).
renewed nats-server asks the client to move (``LDM``, its *lame duck mode* for one client). A bot of
        the client library makes a new session, and then ends the old one. It loses no message.
        A client that does not move within :data:`GRACE_S` is cut off, if it had too many rights.
======= ==========================================================================================

*Old* sessions are those that began before the door decided by the new policy. Each relay has a door
of its own, and looks after its old sessions itself. So several relays may ask one bot to move.

A login that was under way is old too, and may be in no list yet: nats-server lists a bot once it
has the door's answer. Within :data:`SETTLE_S` it is listed, or refused. So there is one more look
after that time.

Nothing is remembered between two calls. When the connection is lost, the call fails, and the caller
makes it again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Final

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.keys import Signer
from sealbus.protocol.notice import Notice, seal_notice
from sealbus.protocol.subjects import notice_subject
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import kick_subject, renew_subject
from sealbus_broker.nats.connections import Listing, LiveSession, list_sessions
from sealbus_broker.policy.succession import Succession, strangers

log = get_logger(__name__)

UNHEARD: Final = b"relay.unheard"
"""The subject of answers that nobody waits for, because the next list shows the effect. nats-server
(2.15.1) ignores an order without such a subject."""

LOOK_S: Final = 0.05
"""The pause between two looks whether old sessions are gone."""

GRACE_S: Final = 1.5
"""How long a client may take to move. One of the library waits up to half a second, and up to one
if it has just connected. With the time to read the policy that is less than two seconds."""

SETTLE_S: Final = 2.2
"""How long a login may be under way: nats-server's limit of two seconds
(``config.AUTHORIZATION_TIMEOUT_S``), and a margin."""


class LiveSessions:
    """Makes the sessions of bots obey."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        key: Signer,
        bus: str,
        now_ms: Callable[[], int],
    ) -> None:
        """Prepare; nothing is asked of NATS.

        Args:
            nc: The relay's connection.
            key: The bus key, which seals notices.
            bus: The bus's name.
            now_ms: The wall clock, in ms since 1970.
        """
        self._nc = nc
        self._key = key
        self._bus = bus
        self._now_ms = now_ms
        self.ended = 0
        """How many sessions the last change has ended."""
        self.renewed = 0
        """How many sessions it has asked to renew."""

    def begin(self) -> None:
        """Begin to count for another change."""
        self.ended = self.renewed = 0

    async def bots(self) -> frozenset[str]:
        """Return the bots that have a session.

        Raises:
            nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
        """
        return frozenset(one.bot for one in (await list_sessions(self._nc)).sessions)

    async def strangers(self, policy: Policy, now_ms: int) -> Succession:
        """Return what the sessions of an earlier relay lose by ``policy``, as far as they show it.

        Raises:
            nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
        """
        listing = await list_sessions(self._nc)
        return strangers(policy, [(one.bot, one.key) for one in listing.sessions], now_ms)

    async def obey(self, succession: Succession) -> int:
        """Have all old sessions obey, within :data:`GRACE_S`; return their greatest age (µs since
        1970, by the server's clock) for :meth:`sweep`.

        The door decides by the new policy already.

        Raises:
            nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
        """
        listing = await list_sessions(self._nc)
        until_us = listing.at_us
        lost = succession.lost_keys
        narrow = _old(listing, succession.narrow, until_us)
        ended = [one for one in narrow if (one.bot, one.key) in lost]
        narrow = [one for one in narrow if one not in ended]
        ended += _old(listing, succession.ended, until_us)
        wide = _old(listing, succession.wide, until_us)
        self._nc.write(
            [
                *self._notices(succession),
                *_tell(kick_subject(listing.server), ended),
                *_tell(renew_subject(listing.server), [*narrow, *wide]),
            ]
        )
        self.ended = len(ended)
        self.renewed = len(narrow) + len(wide)
        log.info(
            "sessions.changed",
            ended=self.ended,
            to_renew=self.renewed,
            bots=sorted({one.bot for one in (*ended, *narrow, *wide)})[:20],
        )
        loop = asyncio.get_running_loop()
        end_s = loop.time() + GRACE_S
        must_go = succession.ended | succession.narrow
        while left := _old(listing := await list_sessions(self._nc), must_go, until_us):
            late = loop.time() >= end_s
            going = [
                one
                for one in left
                if late or one.bot in succession.ended or (one.bot, one.key) in lost
            ]
            self.ended += len(going) if late else 0
            self._nc.write(_tell(kick_subject(listing.server), going))
            if late:
                log.warning(
                    "sessions.ended",
                    because="not renewed in time",
                    sessions=len(going),
                    bots=sorted({one.bot for one in going})[:20],
                )
                break
            await asyncio.sleep(LOOK_S)
        return until_us

    async def sweep(self, succession: Succession, until_us: int) -> None:
        """End the sessions of logins that were under way, :data:`SETTLE_S` after :meth:`obey`.

        Raises:
            nats.errors.Error, OSError: As :meth:`obey`.
        """
        await asyncio.sleep(SETTLE_S)
        listing = await list_sessions(self._nc)
        left = _old(listing, succession.ended | succession.narrow, until_us)
        if left:
            self._nc.write(_tell(kick_subject(listing.server), left))
            bots = sorted({one.bot for one in left})[:20]
            log.warning("sessions.ended", because="admitted late", sessions=len(left), bots=bots)

    def _notices(self, succession: Succession) -> list[bytes]:
        at_ms = self._now_ms()
        return [
            pub(
                notice_subject(bot).encode(),
                seal_notice(self._key, Notice(self._bus, bot, at_ms, loss.reason, loss.key)),
            )
            for bot, losses in succession.losses.items()
            for loss in losses
        ]


def _old(listing: Listing, bots: frozenset[str], until_us: int) -> list[LiveSession]:
    """Return the sessions of ``bots`` that began at ``until_us`` or before.

    One that begins after the list was made began before the server's clock was set back.
    """
    return [
        one
        for one in listing.sessions
        if one.bot in bots and not until_us < one.began_us <= listing.at_us
    ]


def _tell(subject: str, sessions: Iterable[LiveSession]) -> list[bytes]:
    """Return the frames that name each session on ``subject``."""
    return [
        pub(subject.encode(), json.dumps({"cid": one.number}).encode(), UNHEARD) for one in sessions
    ]
