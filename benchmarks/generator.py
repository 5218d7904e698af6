"""Load for a relay, and the relay's cost.

Envelopes are sealed before, and published raw on ``send.<bot>``. The generator logs in with the
relay's own key to the account of the ingress stream, so that no client limits the load. Meanwhile
the relay is held. It then meets a backlog, like a relay under full load, and pulls full batches.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from nats.aio.client import Client

from benchmarks.bus import BUS, Bus
from benchmarks.crowd import Route
from benchmarks.process import cpu_seconds, held
from benchmarks.workload import orders
from sealbus.credentials import Credentials
from sealbus.life.session import RENEW_S
from sealbus.nats.client import HardenedClient
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.codec import pack_bundle, pack_json
from sealbus.protocol.envelope import Draft, Header, seal_envelopes
from sealbus.protocol.keys import Signer
from sealbus.protocol.streams import ACCEPTED, INGRESS, QUARANTINE
from sealbus.protocol.subjects import ingress_subject
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.nats.connection import connect

TTL_MS: Final = 60_000
"""The default policy's longest life of an envelope. A sealed envelope is stored in seconds."""

POLL_S: Final = 0.02
PATIENCE_S: Final = 60.0
"""If nothing progresses for this time, the measurement has failed."""


class Packet(NamedTuple):
    """One NATS message on its way in."""

    subject: str
    data: bytes


class NotAccepted(RuntimeError):
    """The relay did not accept the messages, so nothing was measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of ``messages`` for the relays."""

    messages: int
    relays_s: tuple[float, ...]
    """Processor time of each relay."""
    server_s: float
    """Processor time of nats-server in this time."""
    seconds: float
    """The time from the release of the relays until the last message was done."""

    @property
    def us(self) -> float:
        """Processor time in µs a message."""
        return sum(self.relays_s) * 1e6 / self.messages

    @property
    def server_us(self) -> float:
        """The same of nats-server."""
        return self.server_s * 1e6 / self.messages

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds


@dataclass(frozen=True, slots=True)
class Used:
    """Processor time of a bus's processes at one moment."""

    relays_s: tuple[float, ...]
    server_s: float

    @classmethod
    def so_far(cls, bus: Bus) -> Used:
        """The processor time until now."""
        return cls(
            tuple(cpu_seconds([pid]) for pid in bus.relay_pids), cpu_seconds([bus.server_pid])
        )

    def cost(self, earlier: Used, messages: int, seconds: float) -> Cost:
        """The cost of ``messages`` since ``earlier``."""
        relays_s = tuple(
            now - then for now, then in zip(self.relays_s, earlier.relays_s, strict=True)
        )
        return Cost(messages, relays_s, self.server_s - earlier.server_s, seconds)


class Generator:
    """Seals and sends for a bus's bots: ``async with Generator(bus, routes) as generator``."""

    def __init__(
        self, bus: Bus, routes: Sequence[Route], *, size: int = 1024, directly: bool = False
    ) -> None:
        """``routes`` are used in turn. ``size`` is the size of an order as JSON, in bytes.
        ``directly``: seal with the enrolled keys, without a session certificate."""
        self._bus = bus
        self._routes = itertools.cycle(routes)
        self._directly = directly
        self._keys: dict[str, SessionKey | Signer] = {}
        self._made_at: dict[str, float] = {}
        """When each of them was made, by the monotonic clock."""
        self._stack = AsyncExitStack()
        self._payloads = itertools.cycle([pack_json(order) for order in orders(size)])

    async def __aenter__(self) -> Self:
        self._nc = await self._stack.enter_async_context(login(self._bus.url, self._bus.relay_seed))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def seal(self, count: int, burst_size: int, bundle_size: int = 1) -> list[Packet]:
        """At least ``count`` new messages, one route after the other.

        ``burst_size`` messages of a route share an envelope, and ``bundle_size`` envelopes share a
        signature and a NATS message.
        """
        packets: list[Packet] = []
        now_ms = time.time_ns() // 1_000_000
        for _ in range(0, count, burst_size * bundle_size):
            route = next(self._routes)
            drafts = [
                Draft(
                    Header(BUS, route.bot, route.subject, new_nonce(now_ms), now_ms, TTL_MS),
                    [salted(next(self._payloads)) for _ in range(burst_size)],
                )
                for _ in range(bundle_size)
            ]
            items = [one.data for one in seal_envelopes(self._key(route.bot), drafts)]
            data = items[0] if bundle_size == 1 else pack_bundle(items)
            packets.append(Packet(ingress_subject(route.bot, live=False), data))
        return packets

    def _key(self, bot: str) -> SessionKey | Signer:
        """The key that seals. A session key is renewed as a bot renews it."""
        is_due = not self._directly and time.monotonic() - self._made_at.get(bot, 0.0) > RENEW_S
        if bot not in self._keys or is_due:
            credentials = Credentials.load(self._bus.credentials(bot))
            self._made_at[bot] = time.monotonic()
            self._keys[bot] = (
                credentials.key
                if self._directly
                else credentials.new_session_key(time.time_ns() // 1_000_000)
            )
        return self._keys[bot]

    async def send(self, packets: Sequence[Packet]) -> None:
        """Publish all, and return when the server has them."""
        for packet in packets:
            await self._nc.publish(packet.subject, packet.data)
        await self._nc.flush()

    async def cost(
        self,
        count: int,
        burst_size: int = 1,
        bundle_size: int = 1,
        *,
        hold: bool = True,
        meanwhile: Callable[[], None] = lambda: None,
        at_once: asyncio.Barrier | None = None,
    ) -> Cost:
        """Have the relays judge at least ``count`` new waiting messages. Returns the cost.

        With ``hold`` they begin when all is sent, and else at once. ``meanwhile`` is called every
        few hundredths of a second while they work. Buses that must work at the same time share
        ``at_once``.

        Raises :class:`NotAccepted` if a message is refused, or if nothing progresses.
        """
        packets = self.seal(count, burst_size, bundle_size)
        envelopes = len(packets) * bundle_size
        messages = envelopes * burst_size
        before = [(await self.state(stream))["last_seq"] for stream in (ACCEPTED, QUARANTINE)]
        arriving = (await self.state(INGRESS))["last_seq"] + len(packets)
        if at_once:
            await at_once.wait()
        with held(self._bus.relay_pids) if hold else nullcontext():
            used, start = Used.so_far(self._bus), time.monotonic()
            await self.send(packets)
            await self.until_arrived(arriving)
            if at_once:
                await at_once.wait()
            if hold:
                used, start = Used.so_far(self._bus), time.monotonic()
        await self.until_judged(lambda _: meanwhile())
        seconds, more = time.monotonic() - start, Used.so_far(self._bus)
        after = [(await self.state(stream))["last_seq"] for stream in (ACCEPTED, QUARANTINE)]
        accepted, refused = (now - then for now, then in zip(after, before, strict=True))
        if accepted != envelopes or refused:
            raise NotAccepted(
                f"{accepted} of {envelopes} envelopes were accepted, "
                f"and {refused} records were quarantined"
            )
        return more.cost(used, messages, seconds)

    async def until_arrived(self, sequence: int) -> None:
        """The stream stores without an answer. A message that is not stored does not wait yet."""
        async with asyncio.timeout(PATIENCE_S):
            # It happens in another process.
            while (await self.state(INGRESS))["last_seq"] < sequence:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    async def until_judged(self, meanwhile: Callable[[int], None]) -> None:
        """Wait until INGRESS is empty, and call ``meanwhile`` with the number of envelopes that
        wait. Raises :class:`NotAccepted` if nothing progresses."""
        left, since = -1, time.monotonic()
        while waiting := (await self.state(INGRESS))["messages"]:
            if waiting != left:
                left, since = waiting, time.monotonic()
            elif time.monotonic() - since > PATIENCE_S:
                raise NotAccepted(f"{waiting} messages wait, and no relay takes them")
            meanwhile(waiting)
            await asyncio.sleep(POLL_S)

    async def state(self, stream: str) -> dict[str, Any]:
        """The state of a stream in JetStream."""
        return await stream_state(self._nc, stream)


@asynccontextmanager
async def login(url: str, relay_seed: str) -> AsyncIterator[HardenedClient]:
    """A connection with the relay's rights."""

    async def ignore(_: Exception) -> None:
        pass

    client = await connect([url], relay_seed, name="generator", on_error=ignore)
    try:
        yield client
    finally:
        await client.close()


async def stream_state(nc: Client, stream: str) -> dict[str, Any]:
    """The state of a stream: ``messages``, ``bytes``, ``last_seq`` and more."""
    answer = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", PATIENCE_S)).data)
    if "error" in answer:
        raise NotAccepted(f"{stream}: {answer['error'].get('description')}")
    state: dict[str, Any] = answer["state"]
    return state
