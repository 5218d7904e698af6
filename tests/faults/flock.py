"""Bots that publish to a cluster at a steady rate, one that receives, and what each of them saw.

Half of the bots are *patient*: each waits for the verdicts on a burst before it sends the next, so
its messages have an order. The others send by the clock. A burst may be one message. Each message
has to be stored once, and to come once if it was accepted. None may come that was refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Final

from sealbus import Bot, Message, Refused, SealbusError
from sealbus.nats.client import HardenedClient
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.stamp import open_stamp
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from tests.asking import answered
from tests.e2e.nodes import ClusterShop
from tests.e2e.stalls import Stalls
from tests.faults.yard import SCHEMA
from tests.waiting import PATIENCE_S, until

POLICY: Final = """\
version: 1
bus: shop
limits:
  clock_skew: 1s
roles:
  member:
    publish: [work.*]
bots:
  reader:
    subscribe: [work.*]
{bots}
subjects:
  work.*:
    schema: work.v1
"""

TIMEOUT_S: Final = 110.0
"""How long a publish may take. After two minutes nobody can find out its outcome."""

MOST_UNDER_WAY: Final = 100
"""How many bursts a bot has under way at most. A bot that sends by the clock waits then. More
would measure the backlog, and not the fault."""

READS: Final = 32
"""How many stored messages are asked for at once."""


def names(count: int) -> list[str]:
    """The names of the publishing bots."""
    return [f"m{number}" for number in range(count)]


@dataclass
class Record:
    """What all bots saw."""

    accepted: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    unresolved: dict[str, str] = field(default_factory=dict)
    delivered: list[str] = field(default_factory=list)
    verdicts: Stalls = field(default_factory=Stalls)
    """The times between two acceptances."""
    took_s: list[float] = field(default_factory=list)
    """How long each publish took since the last :meth:`take`."""

    def take(self) -> tuple[float, list[float]]:
        """Return the longest time without a verdict, and how long each publish took, since the last
        call."""
        took, self.took_s = sorted(self.took_s), []
        return self.verdicts.take(), took


class Publisher:
    """One bot that publishes ``{"id": "<bot>-<number>"}``."""

    def __init__(
        self, bot: Bot, name: str, record: Record, *, rate: float, burst: int, patient: bool
    ) -> None:
        self.bot = bot
        self.name = name
        self._record = record
        self._burst = burst
        self._pause_s = burst / rate
        self._patient = patient
        self.sent = 0
        self.under_way: set[asyncio.Task[None]] = set()

    async def run(self, ending: asyncio.Event) -> None:
        """Publish until ``ending`` is set, and wait for all verdicts."""
        due = time.monotonic()
        while not ending.is_set():
            sending = asyncio.create_task(self._send_burst())
            self.under_way.add(sending)
            sending.add_done_callback(self.under_way.discard)
            due = max(due + self._pause_s, time.monotonic() - 1)
            if self._patient or len(self.under_way) >= MOST_UNDER_WAY:
                await asyncio.wait(self.under_way, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        while self.under_way:
            await asyncio.wait(self.under_way)

    async def _send_burst(self) -> None:
        # The client joins messages that are published in one turn of the event loop.
        await asyncio.gather(*(self._send() for _ in range(self._burst)))

    async def _send(self) -> None:
        name = f"{self.name}-{self.sent}"
        self.sent += 1
        began = time.monotonic()
        try:
            await self.bot.publish(f"work.{self.name}", {"id": name}, timeout=TIMEOUT_S)
        except Refused as refused:
            self._record.refused[name] = str(refused.reason)
        except SealbusError as error:
            self._record.unresolved[name] = error.what
        else:
            self._record.accepted.add(name)
            self._record.verdicts.note()
        self._record.took_s.append(time.monotonic() - began)


class Flock:
    """All bots of one cluster."""

    def __init__(self, shop: ClusterShop, bots: list[str], rate: float, burst: int = 1) -> None:
        """``rate``: messages a second, of all bots together, ``burst`` of them at a time."""
        self.record = Record()
        self._shop = shop
        self._reader = shop.bot("reader")
        each = rate / len(bots)
        self.publishers = [
            Publisher(
                shop.bot(name), name, self.record, rate=each, burst=burst, patient=at % 2 == 0
            )
            for at, name in enumerate(bots)
        ]
        self._patient = {one.name for at, one in enumerate(self.publishers) if at % 2 == 0}
        self._ending = asyncio.Event()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect all, and begin to publish."""

        @self._reader.subscribe("work.*", durable="d", start="all")
        async def take(message: Message) -> None:
            self.record.delivered.append(message.payload["id"])

        await self._reader.connect(timeout=PATIENCE_S)
        self._stack.push_async_callback(self._reader.close)
        for one in self.publishers:
            await one.bot.connect(timeout=PATIENCE_S)
            self._stack.push_async_callback(one.bot.close)
            self._tasks.append(asyncio.create_task(one.run(self._ending)))

    async def goes_on(self) -> None:
        """Wait until each bot has a verdict on a message that it sends from now on."""
        wanted = {f"{one.name}-{one.sent + 1}" for one in self.publishers}
        known = self.record.accepted
        await until(lambda: wanted <= known, lambda: f"no verdict on {sorted(wanted - known)[:5]}")

    async def finish(self) -> list[str]:
        """End the traffic; return all broken promises."""
        self._ending.set()
        try:
            await asyncio.gather(*self._tasks)
            record = self.record

            def missing() -> set[str]:
                return record.accepted - set(record.delivered)

            try:
                await until(lambda: not missing(), "all have come")
            except AssertionError:
                return [f"LOST: {len(missing())}, such as {sorted(missing())[:5]}"]
            return [*self._faults(), *await self._stored_faults()]
        finally:
            for task in self._tasks:
                task.cancel()
            await self._stack.aclose()

    def _faults(self) -> Iterator[str]:
        record = self.record
        if handled := set(record.delivered) & set(record.refused):
            yield f"REFUSED AND HANDLED: {sorted(handled)[:5]}"
        if record.refused:
            yield f"REFUSED: {Counter(record.refused.values())}"

    @property
    def again(self) -> int:
        """How many messages were handled again."""
        return len(self.record.delivered) - len(set(self.record.delivered))

    async def _stored_faults(self) -> list[str]:
        nc = await self._shop.nats()
        try:
            stored = await _read_all(nc, self._shop)
        finally:
            await nc.close()
        counts = Counter(stored)
        faults = [f"STORED TWICE: {name}" for name, count in counts.items() if count > 1]
        if lost := self.record.accepted - counts.keys():
            faults.append(f"ACCEPTED AND NOT STORED: {sorted(lost)[:5]}")
        if denied := counts.keys() & self.record.refused.keys():
            faults.append(f"REFUSED AND STORED: {sorted(denied)[:5]}")
        for bot in self._patient:
            numbers = [int(name.split("-")[1]) for name in stored if name.split("-")[0] == bot]
            if any(one > after for one, after in pairwise(numbers)):
                faults.append(f"OUT OF ORDER: the messages of {bot}")
        return faults


class FlockShop(ClusterShop):
    """A cluster for such bots."""

    def __init__(self, folder: Path, bots: list[str]) -> None:
        self._names = bots
        super().__init__(folder, self._fill)

    def _fill(self, folder: Path) -> None:
        bots = "".join(f"  {name}:\n    roles: [member]\n" for name in self._names)
        (folder / "policy.yaml").write_text(POLICY.format(bots=bots))
        (folder / "schemas").mkdir()
        (folder / "schemas" / "work.v1.json").write_text(SCHEMA)
        facts = BusFile("shop", self.urls, (self.bus.open_secrets().bus.public,))
        for bot in ("reader", *self._names):
            make_key(self.bus, bot, facts, datetime.now(UTC))


async def _read_all(nc: HardenedClient, shop: ClusterShop) -> list[str]:
    """The ids of all messages in ACCEPTED that are not void, in their order."""
    keys, verifier = frozenset({shop.secrets.bus.public.raw}), Verifier()
    last = await shop.last("ACCEPTED")

    async def read(sequence: int) -> list[str]:
        ask = json.dumps({"seq": sequence}).encode()
        answer = await answered(nc, "$JS.API.DIRECT.GET.ACCEPTED", ask)
        headers = answer.headers or {}
        if not headers.get("Nats-Subject", "").startswith("accepted.work."):
            return []
        envelope, stamp = split_delivery(answer.data)
        at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
        if is_void(open_stamp(stamp, keys, verifier), int(at.timestamp() * 1000)):
            return []
        payloads = filter(None, Envelope.decode_shown(envelope).payloads)
        return [unpack_json(payload)["id"] for payload in payloads]

    found: list[str] = []
    for begin in range(1, last + 1, READS):
        several = range(begin, min(begin + READS, last + 1))
        for part in await asyncio.gather(*(read(sequence) for sequence in several)):
            found += part
    return found
