"""The participants: relays, the honest bot and a subscriber. Each runs the product's own code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, Malformed
from sealbus.life.session import RENEW_S
from sealbus.outcomes import Refused, Unresolved
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import Message, open_delivery
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import NONCE_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_too_old_live, is_void
from sealbus.sending.burst import BurstItem
from sealbus.sending.publisher import Publisher
from sealbus.sending.sender import Sender as BurstSender
from sealbus.supervision import Supervisor
from sealbus_broker.gate.policy import (
    BotKey,
    BotRule,
    DeliveryClass,
    Limits,
    Policy,
    Rate,
    SubjectRule,
)
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.nats.streams import PARTITIONS, Partition
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Pipeline
from sealbus_broker.relay.live.worker import LiveWorker
from sealbus_broker.relay.store.ledger import Ledger
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.gate.world import BUS_KEY, BUS_KEYS, KEYS
from tests.model.loop import Clock, Process
from tests.model.server import Kept, Server, Wire

SKEW_MS: Final = 2_000
TOLERANCE_MS: Final = SKEW_MS
"""The largest difference between the clocks of two machines."""

BOT: Final = "order"
STORED, LIVE, RATED = "things.x", "pulse.x", "rated.x"
LIMITS: Final = Limits(
    ttl_ms=10_000, live_ttl_ms=5_000, clock_skew_ms=SKEW_MS, ingress_wait_ms=15_000
)


def a_policy(limits: Limits = LIMITS) -> Policy:
    """A policy with one bot, one stored subject, one live subject, and one with a rate."""
    schema = Schema.compile("number.v1", {"type": "integer"})
    key = KEYS[BOT].public.raw
    return Policy(
        bus="shop",
        digest=bytes(32),
        bus_keys=BUS_KEYS,
        bots={BOT: BotRule(BOT, {key: BotKey(key, 0)}, publish=(STORED, LIVE, RATED))},
        subjects=(
            SubjectRule(STORED, DeliveryClass.STREAM, {schema.name: schema}),
            SubjectRule(LIVE, DeliveryClass.LIVE, {schema.name: schema}),
            SubjectRule(
                RATED, DeliveryClass.STREAM, {schema.name: schema}, rate=Rate(per_second=1, burst=1)
            ),
        ),
        limits=limits,
    )


def revoked(policy: Policy, at_ms: int) -> Policy:
    """The same policy with the bot's key revoked at ``at_ms``."""
    bot = policy.bots[BOT]
    keys = {raw: replace(key, revoked_ms=at_ms) for raw, key in bot.keys.items()}
    return replace(policy, digest=bytes([1]) * 32, bots={BOT: replace(bot, keys=keys)})


class Relay:
    """One relay: the real workers on a simulated connection."""

    def __init__(self, clock: Clock, server: Server, name: str, policy: Policy) -> None:
        self.name = name
        self.process = Process(clock, name)
        self.wire = wire = Wire(self.process, name)
        self.policy = policy
        """The policy by which the relay judges. A relay reads its policy when it starts."""
        self._clock = clock
        nc = cast("Any", wire)
        with self.process.turn():
            self.stream_store = StreamStore(nc)
            self.ledgers = {
                DeliveryClass.STREAM: Ledger(nc, "ACCEPTED"),
                DeliveryClass.LIVE: Ledger(nc, "LIVE", in_memory=True),
            }
            self._read_ledgers(server)
            counters = VerdictCounters(lambda: 0.0)
            pipeline = Pipeline(
                nc=nc,
                stream_store=self.stream_store,
                ledgers=self.ledgers,
                policy=lambda: self.policy,
                key=BUS_KEY,
                relay=name,
                services=cast("Any", frozenset()),
                counters=counters,
                now_ms=self.now_ms,
                reads=(nc,),
            )
            stopping = asyncio.Event()
            supervisor = Supervisor("a relay of the model")
            self.ingress = IngressWorker(
                nc=nc,
                partition=Partition(PARTITIONS, 0),
                process=pipeline.process,
                supervisor=supervisor,
            )
            live = LiveWorker(
                nc=nc,
                process=pipeline.process,
                counters=counters,
                now_ms=self.now_ms,
                supervisor=supervisor,
            )
        self.process.start(self.stream_store.open())
        self.workers = [
            self.process.start(self.ingress.run(stopping)),
            self.process.start(live.run(stopping)),
        ]
        server.relays.append(wire)
        self.process.run()

    def now_ms(self) -> int:
        return self._clock.now_ms(self.name)

    def _read_ledgers(self, server: Server) -> None:
        for delivery, name in ((DeliveryClass.STREAM, "ACCEPTED"), (DeliveryClass.LIVE, "LIVE")):
            stream = server.streams[name]
            self.ledgers[delivery].set_state(stream.since_ms, stream.last, self.now_ms())

    def lost(self) -> None:
        """The relay's connection is lost, and the relay notices it."""
        self.wire.lose(0)
        with self.process.turn():
            for ledger in self.ledgers.values():
                ledger.invalidate()
            self.stream_store.on_lost()
        self.process.run()

    def back(self, server: Server) -> None:
        """The relay has another connection."""
        self.wire.reconnect()
        with self.process.turn():
            self._read_ledgers(server)
            self.stream_store.on_back()
            self.ingress.on_back()
        self.process.run()


@dataclass
class Told:
    """One message of the application, and the outcome that the application was told."""

    number: int
    subject: str
    outcome: str = ""
    """``accepted``, ``refused`` or ``unresolved``. It is empty while there is no outcome."""
    reason: Reason | None = None


class _Session:
    """The part of a session that a publisher needs. This session is never lost."""

    def __init__(self, wire: Wire, credentials: Credentials, now_ms: Callable[[], int]) -> None:
        self._wire = wire
        self._credentials = credentials
        self._now_ms = now_ms
        self._made_at_ms = 0
        self._key = credentials.new_session_key(0)

    async def client(self) -> Wire:
        return self._wire

    @property
    def server_changes(self) -> int:
        """How often it came back at another server, or at another start of it."""
        return self._wire.server_changes

    @property
    def key(self) -> SessionKey:
        """The session key, and another one after some minutes or when the clock was set."""
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._made_at_ms < RENEW_S * 1000:
            self._made_at_ms = now_ms
            self._key = self._credentials.new_session_key(now_ms)
        return self._key


class Sender:
    """The honest bot: the real publisher, and an application that waits for its verdicts."""

    def __init__(self, clock: Clock, server: Server) -> None:
        self.process = Process(clock, "sender")
        self.wire = wire = Wire(self.process, "sender")
        self._clock = clock
        self.told: list[Told] = []
        credentials = Credentials("shop", BOT, KEYS[BOT], ("nats://127.0.0.1",), BUS_KEYS)
        self.session = _Session(wire, credentials, self.now_ms)
        with self.process.turn():
            self.publisher = Publisher(
                sender=BurstSender(
                    credentials=credentials,
                    session=cast("Any", self.session),
                    verifier=Verifier(),
                    supervisor=Supervisor("sender"),
                ),
                supervisor=Supervisor("sender"),
            )
        self.process.start(self.publisher.run())
        self.process.start(wire.subscribe_direct(f"inbox.{BOT}.*", self._receipt))
        server.bots.setdefault(BOT, []).append(wire)
        self.process.run()

    def now_ms(self) -> int:
        """The time by the clock of the bot's machine."""
        return self._clock.now_ms("sender")

    def reconnect(self) -> None:
        """The bot's connection is lost, and the bot has another one."""
        self.wire.reconnect()
        with self.process.turn():
            self.publisher.resend()
        self.process.run()

    def _receipt(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        self.publisher.receive(data)

    def say(
        self, subject: str, timeout_s: float = 30, *, resumes: bool = False, count: int = 1
    ) -> None:
        """The application publishes its next ``count`` numbers, which share an envelope.

        With ``resumes``, it publishes each once more under the same nonce if there is no verdict.
        """
        for _ in range(count):
            told = Told(len(self.told), subject)
            self.told.append(told)
            self.process.start(self._say(told, timeout_s, resumes=resumes))
        self.process.run()

    async def _say(self, told: Told, timeout_s: float, *, resumes: bool) -> None:
        live = told.subject == LIVE
        ttl_ms = LIMITS.live_ttl_ms if live else LIMITS.ttl_ms
        header = Header("shop", BOT, told.subject, bytes(NONCE_BYTES), 0, ttl_ms)
        payload, resumed = pack_json(told.number), False
        item: BurstItem | None = None
        while True:
            try:
                if item is not None:
                    await self.publisher.resume(item, timeout_s=timeout_s)
                else:
                    await self.publisher.publish(
                        header, payload, live=live, resumed=resumed, timeout_s=timeout_s
                    )
            except Refused as refused:
                told.outcome, told.reason = "refused", refused.reason
            except Unresolved as unresolved:
                told.outcome, header = "unresolved", replace(header, nonce=unresolved.nonce)
                if resumes and not resumed:
                    resumed = True
                    # The nonce of several messages names them all, so they are resumed together.
                    again = unresolved.again
                    if isinstance(again, BurstItem) and again.burst and len(again.burst.items) > 1:
                        item = again
                    continue
            except InvalidInput:  # the nonce's life is over: the outcome stays unknown
                pass
            else:
                told.outcome = "accepted"
            return


@dataclass
class Subscriber:
    """Handlers on one machine, with the real checks of a subscriber."""

    clock: Clock
    name: str
    handled: list[tuple[Message, Kept]] = field(default_factory=list)
    _verifier: Verifier = field(default_factory=Verifier)

    def durable(self, kept: Kept) -> bool:
        """Take a delivery of a consumer. Returns whether it is handled."""
        messages = self.believes(kept)
        self.handled += [(message, kept) for message in messages]
        return bool(messages)

    def believes(self, kept: Kept) -> list[Message]:
        """The messages that a durable subscription would hand over, if any."""
        messages = self._open(kept, "accepted")
        return [message for message in messages if not is_void(message.stamp, kept.at_ms)]

    def live(self, kept: Kept) -> bool:
        """Take a delivery that passes. Returns whether it is handled."""
        opened = self._open(kept, "live" if kept.subject.startswith("live.") else "accepted")
        now_ms = self.clock.now_ms(self.name)
        messages = [message for message in opened if not is_too_old_live(message.stamp, now_ms)]
        self.handled += [(message, kept) for message in messages]
        return bool(messages)

    def _open(self, kept: Kept, prefix: str) -> list[Message]:
        try:
            name = kept.subject.removeprefix(f"{prefix}.")
            return open_delivery(
                kept.data, name, bus="shop", bus_keys=BUS_KEYS, verifier=self._verifier
            )
        except Malformed:
            return []
