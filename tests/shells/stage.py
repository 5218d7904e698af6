"""A NATS server in memory with a relay's login, and the parts of a client to try on it.

Everything that takes part is real except the server, which a test takes through its misfortunes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sealbus import Credentials
from sealbus.life.session import Session, Watchers
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.protocol.subjects import INBOX
from sealbus.supervision import Supervisor
from sealbus_broker.memory.server import MemoryNats
from tests.contract.ground import Ground, Inbox
from tests.waiting import PATIENCE_S, until


@dataclass(slots=True)
class Stage(Ground):
    """The server, and who is connected to it."""

    server: MemoryNats = field(kw_only=True)

    async def relay_is_back(self, before: int | None) -> None:
        """Wait until the relay has another connection than the one with the number ``before``."""
        relay = self.relay
        await until(lambda: relay.is_connected and relay.client_id != before, "the relay is back")

    def credentials(self, bot: str) -> Credentials:
        """A bot's credentials."""
        bus_keys = frozenset([self.secrets.bus.public.raw])
        return Credentials(self.policy.bus, bot, self.keys[bot], (self.url,), bus_keys)


class Kept:
    """A session of one bot, and everything that it tells."""

    def __init__(
        self,
        stage: Stage,
        bot: str,
        *,
        renew_s: float = 10 * PATIENCE_S,
        credentials: Credentials | None = None,
    ) -> None:
        self.attached: list[HardenedClient] = []
        self.lost: list[str] = []
        self.back: list[float] = []
        self.denied: list[str] = []
        self.on_lost: Callable[[], object] = list
        """Called when the connection is lost, before the next one is made."""
        self.subjects: list[str] = []
        """What is subscribed to on each new connection."""
        self.on_attach: Callable[[HardenedClient], Awaitable[object]] = _do_nothing
        """Called with each new connection."""
        self.session = Session(
            credentials or stage.credentials(bot),
            self._attach,
            supervisor=Supervisor("a test"),
            renew_s=renew_s,
            watchers=Watchers(self._lost, self.back.append, self.denied.append),
        )

    def _lost(self, why: str) -> None:
        self.lost.append(why)
        self.on_lost()

    async def _attach(self, client: HardenedClient) -> None:
        await self.on_attach(client)
        for subject in self.subjects:
            await client.subscribe(subject)
        self.attached.append(client)


async def _do_nothing(_: HardenedClient) -> None:
    pass


class Judge:
    """Takes what one bot sends, and gives the verdicts that a test wants."""

    def __init__(self, stage: Stage, inbox: Inbox) -> None:
        self._stage = stage
        self._inbox = inbox

    @classmethod
    async def of(cls, stage: Stage) -> Judge:
        """Listen to the envelopes that bots send."""
        return cls(stage, await Inbox(stage.relay, "send.*").open())

    async def next(self) -> Envelope:
        """The next envelope. A test sends one at a time."""
        data = (await self._inbox.next()).data
        (only,) = split_bundle(data) if is_bundle(data) else [data]
        return Envelope.decode(only)

    @property
    def is_empty(self) -> bool:
        """Whether nothing more has come."""
        return self._inbox.is_empty

    async def accept(self, envelope: Envelope) -> None:
        """Tell the sender that it is accepted."""
        await self._tell(envelope, None)

    async def refuse(self, envelope: Envelope, reason: Reason) -> None:
        """Tell the sender that it is refused."""
        await self._tell(envelope, reason)

    async def _tell(self, envelope: Envelope, reason: Reason | None) -> None:
        header = envelope.header
        stamp = Stamp(
            bus=header.bus,
            envelope=envelope.digest,
            bot=header.bot,
            subject=header.subject,
            nonce=header.nonce,
            verdict=Verdict.ACCEPTED if reason is None else Verdict.DROPPED,
            reason=reason,
            detail=None,
            policy=bytes(32),
            position=1,
            judged_at_ms=time.time_ns() // 1_000_000,
            relay="test",
            store_by_ms=2**53 - 1 if reason is None else None,
            count=len(envelope.payloads),
        )
        (sealed,) = seal_stamps(self._stage.secrets.bus, [stamp])
        subject = f"{INBOX}.{header.bot}.{header.nonce.hex()}"
        self._stage.relay.write([pub(subject.encode(), sealed)])
        await self._stage.relay.flush()


Open = Callable[..., Awaitable[Kept]]
"""The fixture ``opened``."""
