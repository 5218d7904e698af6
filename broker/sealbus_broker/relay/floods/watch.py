"""A relay watches for bots that flood the bus, and ends their sessions for a while (ADR 45).

nats-server has no bound on the messages of one client. A raw socket brings it hundreds of thousands
a second. It refuses most of them, but while it does, the messages of all other bots wait or are
dropped. So twenty times a second a relay asks nats-server how much all bots have sent (STATZ),
which costs it two thousandths of a core. If that is more than *one* bot may send, it asks for each
session (CONNZ). A relay also counts the worthless envelopes that it judges.

A bot that floods (:mod:`~sealbus_broker.relay.floods.meter`) meets four things at once:

1. Its pause begins (:mod:`sealbus_broker.door.pauses`), and all doors are told. They admit none of
   its sessions meanwhile.
2. It gets a sealed notice with the length of the pause.
3. nats-server ends all its sessions (KICK).
4. The log and the quarantine have it, and the health is a *warning* while the pause lasts.

A login that came with a token alone may be a stranger's. Where it floods, only such logins of its
bot end and pause, and the sessions of the bot stay.

All relays do so. A flood that two of them notice has two notices and one pause. A relay that dies
takes nothing with it.

**On a lost connection** nobody looks. nats-py connects again, and the watch goes on. A nats-server
that was started anew has nothing to compare with, so a flood is noticed one look later.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.own import FLOODING
from sealbus.protocol.keys import Signer
from sealbus.protocol.notice import Ended, Notice, seal_notice
from sealbus.protocol.subjects import notice_subject
from sealbus.supervision import Supervisor, pause
from sealbus_broker.door.admitted import ADMITTED_SUBJECT, AdmittedSessions
from sealbus_broker.door.pauses import PAUSES_SUBJECT, Pause, Pauses, bot_of, errands_of
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import TRAFFIC_SUBJECT, kick_subject
from sealbus_broker.nats.connections import NODE_S, Listing, LiveSession, list_sessions
from sealbus_broker.relay.floods.meter import (
    MOST_WORTHLESS,
    Flood,
    FloodMeter,
    Sent,
    TotalMeter,
    WorthlessMeter,
)
from sealbus_broker.relay.following.live_sessions import tell
from sealbus_broker.relay.problems import BusProblem, Level
from sealbus_broker.relay.store.quarantine import Record
from sealbus_broker.relay.store.stream_store import StreamStore

log = get_logger(__name__)

LOOK_S: Final = 0.05
"""The pause between two looks. A flood lasts for one or two of them: messages of others that are
dropped meanwhile are sent again after a second. With 0.2 s so many were dropped that the slowest
hundredth of half a minute's messages took a second."""

LIST_PAUSES: Final = 9
"""How often the time that a list of sessions takes passes before the next one. A list of a hundred
sessions takes 3 ms, and one of 3,000 takes 100 ms (measured). So a bus whose bots together send
much costs a relay a tenth of its time at most."""

ANSWER_S: Final = 0.1
"""How long a look waits for the first answer. An idle server answers within a millisecond. A later
answer counts at the next look."""

TELL_S: Final = 1.0
"""How often the pauses are told again."""

SETTLE_S: Final = 3.0
"""For how long after the beginning of a pause the sessions of its bot are looked for: longer than a
login may be under way (``live_sessions.SETTLE_S``)."""

_SAME_MS: Final = 10_000
"""Records of one bot within this time are the same one, where two relays notice a flood. The
shortest pause is six times as long."""

_NOBODY: Final = b"NATS/1.0 503"
"""Begins the headers of nats-server's word that nobody answers a request."""


class FloodWatch:
    """Looks for floods, from :meth:`run` on.

    It *rests* while all bots together send less than one may, and else *counts* each session.
    :meth:`_look` alone leads from one to the other.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        key: Signer,
        policy: Callable[[], Policy],
        relay: str,
        now_ms: Callable[[], int],
        supervisor: Supervisor,
        take_worthless: Callable[[], Mapping[str, int]] = dict,
        forget_backlog: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepare; nothing is asked of NATS.

        Args:
            nc: The relay's connection. No live messages come on it, so answers do not wait behind
                a flood of them.
            key: The bus key, which seals notices.
            policy: Gives the policy in force, with the bounds.
            relay: The relay's name, which records have.
            now_ms: The wall clock, in ms since 1970.
            supervisor: Answers for the writing of records.
            take_worthless: Gives the number of worthless envelopes since its last call, by bot.
            forget_backlog: Is told the bots that pause, after each end of their sessions.
        """
        self._nc = nc
        self._key = key
        self._policy = policy
        self._relay = relay
        self._now_ms = now_ms
        self._supervisor = supervisor
        self._take_worthless = take_worthless
        self._forget_backlog = forget_backlog
        self._pauses = Pauses()
        """Those that began here, and those of other relays."""
        self._admitted = AdmittedSessions()
        """Whose session each connection is, as the doors have told."""
        self._total = TotalMeter()
        self._meter = FloodMeter()
        self._worthless = WorthlessMeter()
        self._answered = asyncio.Event()
        """Set when a server has told its counts."""
        self._listed_us: Mapping[str, int] = {}
        """When each node made the last list of its sessions (µs since 1970, by its own clock)."""
        self._is_due = False
        """Whether a list is to be asked for. A burst that is over by the time counts too."""
        self._list_at = 0.0
        """From when on the next list may be asked for (monotonic clock)."""
        self._told_at = 0.0
        """When the pauses were told last (monotonic clock)."""
        self._sweep_until = 0.0
        """Until when the sessions of bots that pause are looked for (monotonic clock)."""
        self._is_refused = False
        """Whether the log has that nats-server does not tell its counts."""

    async def run(self, store: StreamStore, stopping: asyncio.Event) -> None:
        """Watch until ``stopping`` is set. ``store`` takes the records."""
        nc = self._nc
        inbox = nc.new_inbox()
        subscriptions = [
            await nc.subscribe_direct(inbox, self._on_traffic),
            await nc.subscribe_direct(PAUSES_SUBJECT, self._on_pauses),
            await nc.subscribe_direct(ADMITTED_SUBJECT, self._on_admitted),
        ]
        try:
            while not stopping.is_set():
                with contextlib.suppress(NatsError, OSError, TimeoutError):
                    await self._look(nc, inbox.encode(), store)
                await pause(LOOK_S, until=stopping)
        finally:
            for subscription in subscriptions:
                with contextlib.suppress(NatsError):
                    await subscription.unsubscribe()

    def problems(self) -> list[BusProblem]:
        """Return a warning for each bot that pauses."""
        now_ms = self._now_ms()
        return [
            BusProblem(
                Level.WARNING,
                f"flood of {bot}",
                f"{_shown(bot)} sent more than one bot may, {one.floods} times, and is cut off for"
                f" {(one.until_ms - now_ms) / 1000:.0f} s more",
                "find out what it does; revoke its key if it is not yours any more, or raise"
                " limits.flood_messages or limits.flood_bytes if it has to send so much; worthless"
                " envelopes come from a fault in its client, or from somebody else",
            )
            for bot, one in self._pauses.lasting(now_ms).items()
        ]

    async def _look(self, nc: HardenedClient, inbox: bytes, store: StreamStore) -> None:
        self._answered.clear()
        nc.write([pub(TRAFFIC_SUBJECT.encode(), b"", inbox)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await self._answered.wait()
        policy = self._policy()
        is_busy = self._total.is_busy(time.monotonic(), policy.limits)
        now = time.monotonic()
        for flood in self._worthless.look(self._take_worthless(), now):
            self._cut_off(nc, flood, policy, store)
        # At the first look as well: a session that begins later is new.
        self._is_due |= is_busy or not self._listed_us or now < self._sweep_until
        if self._is_due and now >= self._list_at:
            listing = await list_sessions(nc, looks_for_missing=False)
            self._is_due = False
            took_s = time.monotonic() - now
            # The wait for a node that is silent is no work, and no reason to look less often.
            if listing.silent:
                took_s = max(0.0, took_s - NODE_S)
            self._list_at = time.monotonic() + LIST_PAUSES * took_s
            sent = self._sent(listing)
            self._listed_us = {node: told.at_us for node, told in listing.nodes.items()}
            for flood in self._meter.look(sent, time.monotonic(), policy.limits):
                self._cut_off(nc, flood, policy, store)
            self._sweep(nc, listing)
        now = time.monotonic()
        if now - self._told_at >= TELL_S and self._pauses.lasting(self._now_ms()):
            self._tell(nc)

    def _cut_off(
        self, nc: HardenedClient, flood: Flood, policy: Policy, store: StreamStore
    ) -> None:
        now_ms = self._now_ms()
        if self._pauses.left_ms(flood.bot, now_ms):
            return  # its sessions end, and it sends until then
        began = self._pauses.begin(flood.bot, now_ms)
        self._begin_sweeping()
        # The doors first, so that it does not come back at once.
        self._tell(nc)
        length_ms = began.until_ms - now_ms
        bot = bot_of(flood.bot)
        # Whoever comes with a token alone may not be the bot, and the bot need not wait.
        if bot == flood.bot:
            notice = Notice(policy.bus, bot, now_ms, Ended.FLOODING, pause_ms=length_ms)
            nc.write([pub(notice_subject(bot).encode(), seal_notice(self._key, notice))])
        log.warning(
            "bot.flooding",
            bot=bot,
            by_token=bot != flood.bot,
            messages_s=round(flood.messages_s),
            bytes_s=round(flood.bytes_s),
            worthless_s=round(flood.worthless_s),
            pause_s=length_ms / 1000,
            floods=began.floods,
        )
        record = self._record(flood, began, policy, now_ms)
        place = f"{FLOODING}.{began.until_ms // _SAME_MS}"
        self._supervisor.piece("recording a flood", _store(store, record, place))

    def _begin_sweeping(self) -> None:
        """Look for the sessions of bots that pause, from now on and at once. A flood makes a list
        slow, so the pause after the last one may be long."""
        self._sweep_until = time.monotonic() + SETTLE_S
        self._list_at = 0.0

    def _sweep(self, nc: HardenedClient, listing: Listing) -> None:
        """End the sessions of all bots that pause, and have their backlog forgotten."""
        lasting = self._pauses.lasting(self._now_ms())
        # Also by the name that its messages count for, which may be another one.
        ended = [
            one
            for one in listing.sessions
            if self._who(one) in lasting or self._meter.bot(one.place) in lasting
        ]
        nc.write(tell(kick_subject, ended))
        # Not before: the flood goes on until then, and would fill the next connection as well.
        for name in lasting:
            self._forget_backlog(name)

    def _sent(self, listing: Listing) -> Sequence[Sent]:
        """Return the counts of each session."""
        return [
            Sent(
                one.place,
                self._who(one),
                self._is_new(one),
                int(one.told.get("in_msgs", 0)),
                int(one.told.get("in_bytes", 0)),
                is_told=self._admitted.name(*one.place) is not None,
            )
            for one in listing.sessions
        ]

    def _is_new(self, session: LiveSession) -> bool:
        """Whether a session began after the last list, under a name that a door has told.

        Another name may be that of a second CONNECT. So such a session counts from the next list
        on: by then a door has ended it, if the name was not its own.
        """
        if self._admitted.name(*session.place) is None:
            return False
        before_us = self._listed_us.get(session.node)
        return before_us is not None and session.began_us > before_us

    def _who(self, session: LiveSession) -> str:
        """Return the name under which a session floods and pauses. ``""``: it is nobody's."""
        name = self._admitted.name(*session.place)
        if name is not None:
            return name
        # No enrolled key in the name of a session: it is an errand.
        is_errand = session.bot and not session.key
        return errands_of(session.bot) if is_errand else session.bot

    def _tell(self, nc: HardenedClient) -> None:
        self._told_at = time.monotonic()
        nc.write([pub(PAUSES_SUBJECT.encode(), self._pauses.encode(self._now_ms()))])

    def _record(self, flood: Flood, began: Pause, policy: Policy, now_ms: int) -> Record:
        limits = policy.limits
        if flood.worthless_s:
            found = (
                f"{flood.worthless_s:.0f} worthless envelopes a second; at most {MOST_WORTHLESS}"
            )
        else:
            found = (
                f"{flood.messages_s:.0f} messages and {flood.bytes_s:.0f} bytes a second;"
                f" at most {limits.flood_messages} and {limits.flood_bytes}"
            )
        return Record(
            reason=FLOODING,
            detail=f"{found}; its sessions ended, for {(began.until_ms - now_ms) / 1000:.0f} s",
            session=bot_of(flood.bot),
            claimed=None,
            proven=None,
            subject=None,
            nonce=None,
            delivery=DeliveryClass.LIVE.value,
            position=None,
            arrived_at_ms=now_ms,
            judged_at_ms=now_ms,
            size=0,
            sha256=hashlib.sha256(b"").hexdigest(),
            policy=policy.digest.hex(),
            relay=self._relay,
        )

    def _on_traffic(self, _: bytes, __: bytes, headers: bytes, data: bytes) -> None:
        if headers.startswith(_NOBODY):
            if not self._is_refused:
                self._is_refused = True
                then = "floods are not noticed"
                hint = "start nats-server with the configuration that `sealbus prepare` writes now"
                log.warning("flood.not-watched", then=then, hint=hint)
            return
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(data)["data"]
            for account in told["account_statz"] or []:
                received = account["received"]
                self._total.take(told["server_id"], received["msgs"], received["bytes"])
            self._answered.set()

    def _on_admitted(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        with contextlib.suppress(Malformed):
            self._admitted.take(data)

    def _on_pauses(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        # Only a relay's login can publish here. Another version may say it in another way.
        with contextlib.suppress(Malformed):
            # Its live messages were spread over all relays.
            if self._pauses.take(data, self._now_ms()):
                self._begin_sweeping()


def _shown(name: str) -> str:
    """Return the words for a name that pauses."""
    bot = bot_of(name)
    return bot if bot == name else f"a login by a token of {bot}"


async def _store(store: StreamStore, record: Record, place: str) -> None:
    await store.store([record.entry(b"", place)])
