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
has the door's answer. Within :data:`SETTLE_S` it is listed, or refused. One that is listed while
the others move is asked to move as well. After that time there is one more look, which ends it.

**On a cluster** each session is told by its own node, and is old by the clock of that node. A node
that does not answer is asked again until it does, or until all its old sessions have ended by their
time. Meanwhile no message of such a session is accepted, because relays judge by the new policy. A
session on a node that is cut off receives nothing new, because the streams are with the others.

Nothing is remembered between two calls. When the connection is lost, the call fails, and the caller
makes it again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Mapping
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
if it has just connected. Meanwhile its requests for messages end, the last one after 0.1 s. With
the time to read the policy that is less than two seconds."""

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
        self.unheard: tuple[str, ...] = ()
        """The names of the nodes that did not answer the last list."""

    def begin(self) -> None:
        """Begin to count for another change."""
        self.ended = self.renewed = 0
        self.unheard = ()

    async def bots(self) -> frozenset[str]:
        """Return the bots that have a session.

        Raises:
            nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
        """
        return frozenset(one.bot for one in (await self._list()).sessions)

    async def strangers(self, policy: Policy, now_ms: int) -> Succession:
        """Return what the sessions of an earlier relay lose by ``policy``, as far as they show it.

        Raises:
            nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
        """
        listing = await self._list()
        return strangers(policy, [(one.bot, one.key) for one in listing.sessions], now_ms)

    async def obey(self, succession: Succession) -> Heard:
        """Have all old sessions obey, within :data:`GRACE_S`; return their greatest age for
        :meth:`sweep`.

        The door decides by the new policy already.

        Raises:
            nats.errors.Error, OSError: The connection is lost, or nats-server does not answer.
        """
        listing = await self._list()
        heard = Heard()
        heard.hear(listing)
        lost = succession.lost_keys
        must_go = heard.must_go(listing, succession, lost)
        ended = [one for one in must_go if _ends_at_once(one, succession, lost)]
        narrow = [one for one in must_go if not _ends_at_once(one, succession, lost)]
        wide = heard.old(listing, succession.wide)
        self._nc.write(
            [
                *self._notices(succession),
                *tell(kick_subject, ended),
                *tell(renew_subject, [*narrow, *wide]),
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
        asked = {one.place for one in narrow}
        while left := heard.must_go(await self._list(), succession, lost):
            late = loop.time() >= end_s
            going = [one for one in left if late or _ends_at_once(one, succession, lost)]
            # Their logins were under way, for example because a bot was renewing its session.
            unasked = [one for one in left if one not in going and one.place not in asked]
            asked |= {one.place for one in unasked}
            self.ended += len(going) if late else 0
            self.renewed += len(unasked)
            self._nc.write([*tell(kick_subject, going), *tell(renew_subject, unasked)])
            if late:
                log.warning(
                    "sessions.ended",
                    because="not renewed in time",
                    sessions=len(going),
                    bots=sorted({one.bot for one in going})[:20],
                )
                break
            await asyncio.sleep(LOOK_S)
        if heard.unheard:
            log.warning("nodes.unheard", nodes=list(heard.unheard), then="they are asked again")
        return heard

    async def sweep(
        self, changes: Iterable[tuple[Succession, Heard]], bots: Collection[str]
    ) -> bool:
        """End the sessions of ``changes`` that are left; return whether all nodes have answered.

        Call it :data:`SETTLE_S` after :meth:`obey`, for logins that were under way, and again until
        all nodes have answered.

        Args:
            changes: For each change, what :meth:`obey` had, and its result.
            bots: The bots of the policy in force. Old sessions of all others end too. A relay that
                has just started cannot name the bots that only a silent node has.

        Raises:
            nats.errors.Error, OSError: As :meth:`obey`.
        """
        listing = await self._list()
        gone = frozenset(one.bot for one in listing.sessions if one.bot not in bots)
        left: dict[tuple[str, int], LiveSession] = {}
        for succession, heard in changes:
            must_go = heard.must_go(listing, succession, succession.lost_keys)
            left |= {one.place: one for one in (*must_go, *heard.old(listing, gone))}
        if left:
            self._nc.write(tell(kick_subject, left.values()))
            bots = sorted({one.bot for one in left.values()})[:20]
            log.warning("sessions.ended", because="admitted late", sessions=len(left), bots=bots)
        return not listing.unheard

    async def _list(self) -> Listing:
        listing = await list_sessions(self._nc)
        self.unheard = listing.unheard
        return listing

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


class Heard:
    """When each node answered for the first time since a change, by its own clock: the greatest age
    of an old session on it."""

    def __init__(self) -> None:
        self._until_us: dict[str, int] = {}
        self.unheard: tuple[str, ...] = ()
        """The names of the nodes that did not answer the last list of this change."""

    def hear(self, listing: Listing) -> None:
        """Note the nodes that have answered. The first time of each stays."""
        self.unheard = listing.unheard
        for node, told in listing.nodes.items():
            self._until_us.setdefault(node, told.at_us)

    def must_go(
        self, listing: Listing, succession: Succession, lost: Mapping[tuple[str, str], float]
    ) -> list[LiveSession]:
        """Return the old sessions that may not stay as they are. ``lost``: its lost keys."""
        concerned = succession.ended | succession.narrow | succession.void
        return [
            one
            for one in self.old(listing, concerned)
            if one.bot not in succession.void or _ends_at_once(one, succession, lost)
        ]

    def old(self, listing: Listing, bots: frozenset[str]) -> list[LiveSession]:
        """Return the sessions of ``bots`` that began before their node was heard.

        One that begins after the list was made began before its node's clock was set back. On a
        node that is heard only now, all sessions are old: one too many is made anew, and none stays
        that must go.
        """
        self.hear(listing)
        return [
            one
            for one in listing.sessions
            if one.bot in bots
            and not self._until_us[one.node] < one.began_us <= listing.nodes[one.node].until_us
        ]


def _ends_at_once(
    session: LiveSession, succession: Succession, lost: Mapping[tuple[str, str], float]
) -> bool:
    """Whether nobody waits for a session of ``succession`` to move. ``lost``: its lost keys."""
    if session.bot in succession.ended:
        return True
    since_ms = lost.get((session.bot, session.key))
    if since_ms is None:
        return False
    # A bot may have made a new session key already, because relays refuse the old one.
    return session.certified is None or session.certified.not_before_ms < since_ms


def tell(subject_of: Callable[[str], str], sessions: Iterable[LiveSession]) -> list[bytes]:
    """Return the frames that name each session on the subject of its node."""
    return [
        pub(subject_of(one.node).encode(), json.dumps({"cid": one.number}).encode(), UNHEARD)
        for one in sessions
    ]
