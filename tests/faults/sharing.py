"""Several relays of one bus, under bots that send without waiting, while one of them is disturbed.

:func:`play` is one run. ``tests/faults/test_sharing.py`` plays a few, and
``python -m benchmarks.sharing`` measures more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final, Self

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus import Bot
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import open_stamp
from sealbus_broker.nats.presence import RELAY_SUBJECT, PresenceWord
from sealbus_broker.nats.streams import PARTITIONS
from tests.asking import answered
from tests.faults.histories.playing import STARVED_S
from tests.faults.market import Market
from tests.faults.stored import is_known
from tests.waiting import PATIENCE_S, until

LIMITS: Final = "  clock_skew: 100ms\n"
AT_ONCE: Final = 40
"""The messages of one bot that have no verdict yet."""


@dataclass
class Traffic:
    """The messages of all bots."""

    accepted: Counter[str] = field(default_factory=Counter)
    """By bot."""
    sent: Counter[str] = field(default_factory=Counter)
    """By bot."""
    last_at: float = 0.0
    """When the last verdict came (monotonic clock)."""
    longest_s: float = 0.0
    """The longest time between two verdicts."""
    slowest_s: float = 0.0
    """The longest time from a publish to its verdict."""

    def note(self, bot: str, began: float) -> None:
        """A verdict came."""
        now = time.monotonic()
        if self.last_at:
            self.longest_s = max(self.longest_s, now - self.last_at)
        self.last_at = now
        self.slowest_s = max(self.slowest_s, now - began)
        self.accepted[bot] += 1

    def reset(self) -> None:
        """Measure from now on."""
        self.last_at = self.longest_s = self.slowest_s = 0.0


async def send(
    bot: Bot, name: str, traffic: Traffic, enough: asyncio.Event, most: float = inf
) -> None:
    """Publish until ``enough`` is set, :data:`AT_ONCE` messages at a time, and ``most`` in all."""
    room = asyncio.Semaphore(AT_ONCE)

    async def publish(number: int) -> None:
        began = time.monotonic()
        await bot.publish("work.a", {"number": number}, timeout=PATIENCE_S)
        traffic.note(name, began)
        room.release()

    async with asyncio.TaskGroup() as group:
        while not enough.is_set() and traffic.sent[name] < most:
            await room.acquire()
            group.create_task(publish(traffic.sent[name]))
            traffic.sent[name] += 1


class Sharers(Market):
    """A market with several relays."""

    def __init__(self, folder: Path, bots: int) -> None:
        super().__init__(folder, bots, LIMITS)
        self.traffic = Traffic()
        self.partitions = PARTITIONS
        """How many there are, once the relays have followed the policy."""
        self.acted_at = 0.0
        """When a relay was disturbed, or said its first word (monotonic time)."""

    def ask_for(self, partitions: int) -> None:
        """Have the policy ask for another number of partitions."""
        policy = self.bus.path / "policy.yaml"
        before, after = policy.read_text().split(LIMITS)
        policy.write_text(f"{before}{LIMITS}  partitions: {partitions}\n{after}")
        self.partitions = partitions

    async def health(self, name: str) -> dict[str, Any] | None:
        """A relay's own health. ``None``: it does not answer."""
        nc = await self.nats()
        try:
            answer = await nc.request(f"relay.ping.{name}", b"", 1.0)
            found: dict[str, Any] = json.loads(answer.data)
            return found
        except (NatsError, TimeoutError):
            return None
        finally:
            await nc.close()

    async def shared(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Wait until the named relays, and no others, hold each partition once, and each some."""
        found: dict[str, list[int]] = {}

        async def is_so() -> bool:
            for name in names:
                health = await self.health(name)
                found[name] = [] if health is None else health["partitions"]
            held = sorted(at for one in found.values() for at in one)
            return held == list(range(self.partitions)) and all(found.values())

        await until(
            is_so, lambda: f"all partitions are held once, and each relay has some: {found}"
        )
        return found

    @contextlib.asynccontextmanager
    async def trading(self, most: float = inf) -> AsyncIterator[None]:
        """All bots send while the block lasts, ``most`` messages each."""
        enough = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            bots = [
                (name, await stack.enter_async_context(self.bot(name))) for name in self.traders
            ]
            async with asyncio.TaskGroup() as group:
                for name, bot in bots:
                    group.create_task(send(bot, name, self.traffic, enough, most))
                try:
                    yield
                finally:
                    enough.set()

    async def more(self, count: int) -> None:
        """Wait until each bot has ``count`` more verdicts."""
        before = Counter(self.traffic.accepted)
        await until(
            lambda: all(
                self.traffic.accepted[name] >= before[name] + count for name in self.traders
            ),
            lambda: f"each bot has more verdicts: {self.traffic.accepted - before}",
        )


@dataclass(frozen=True)
class Stored:
    """One message in ACCEPTED."""

    bot: str
    number: int
    relay: str


async def stored(market: Market) -> list[Stored]:
    """The messages in ACCEPTED, in their order."""
    nc = await market.nats()
    found: list[Stored] = []
    keys, verifier = frozenset({market.secrets.bus.public.raw}), Verifier()
    try:
        sequence = 1
        while True:
            ask = json.dumps({"seq": sequence, "next_by_subj": "accepted.work.*"}).encode()
            answer = await answered(nc, "$JS.API.DIRECT.GET.ACCEPTED", ask)
            headers = answer.headers or {}
            if headers.get("Status"):
                return found
            sequence = int(headers["Nats-Sequence"]) + 1
            data, sealed = split_delivery(answer.data)
            envelope, stamp = Envelope.decode_shown(data), open_stamp(sealed, keys, verifier)
            found += [
                Stored(envelope.header.bot, unpack_json(payload)["number"], stamp.relay)
                for payload in envelope.payloads
                if payload
            ]
    finally:
        await nc.close()


Act = Callable[[Sharers], Awaitable[list[str]]]
"""Disturbs the relays, and returns the names of those that share afterwards."""


@dataclass
class Outcome:
    """The result of a run."""

    messages: list[Stored]
    sent: Counter[str]
    longest_s: float
    slowest_s: float
    """See :class:`Traffic`. From the act on."""
    noticed_s: float
    """How long it took until the partitions were shared anew, without the start of a process."""

    starved: bool
    """Whether the machine gave this process no turn for so long that timers may have run out."""

    @property
    def wrong(self) -> list[str]:
        """The messages that are not stored exactly once, in words."""
        counts = Counter((one.bot, one.number) for one in self.messages)
        wanted = {(bot, at) for bot, count in self.sent.items() for at in range(count)}
        lost = [f"lost: {one}" for one in wanted - counts.keys()]
        return lost + [f"stored {count} times: {one}" for one, count in counts.items() if count > 1]

    @property
    def reordered(self) -> int:
        """How many messages were stored behind a later one of the same bot."""
        newest: dict[str, int] = {}
        found = 0
        for one in self.messages:
            found += one.number < newest.get(one.bot, -1)
            newest[one.bot] = max(newest.get(one.bot, -1), one.number)
        return found


class Turns:
    """Notices a busy machine, which gives this process no turn, while its block lasts."""

    def __init__(self) -> None:
        self.starved = False

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            at = time.monotonic()
            await asyncio.sleep(0.1)
            self.starved |= time.monotonic() - at > STARVED_S


async def play(folder: Path, relays: int, act: Act, *, bots: int = 6, more: int = 100) -> Outcome:
    """Have ``bots`` send to ``relays``, call ``act``, and go on until the work is shared anew."""
    async with Sharers(folder, bots) as market:
        names = [f"r{number}" for number in range(relays)]
        # The last one may come later. Then it is no stranger.
        for name in (*names, f"r{relays}"):
            await market.start_relay(name)
            await is_known(market, name)
        later = market.relays.pop()
        later.terminate()
        await later.wait()
        await market.shared(names)
        async with Turns() as turns, market.trading():
            await market.more(more)
            market.traffic.reset()
            market.acted_at = time.monotonic()
            left = await act(market)
            await market.shared(left)
            noticed_s = time.monotonic() - market.acted_at
            await market.more(more)
        traffic = market.traffic
        return Outcome(
            await stored(market),
            traffic.sent,
            traffic.longest_s,
            traffic.slowest_s,
            noticed_s,
            turns.starved,
        )


# ---- what may happen to a relay ------------------------------------------------------------------


def _others(market: Sharers, at: int) -> list[str]:
    return [f"r{number}" for number in range(len(market.relays)) if number != at]


async def _comes(market: Sharers) -> list[str]:
    name, has_come = f"r{len(market.relays)}", False

    async def hear(msg: Msg) -> None:
        nonlocal has_come
        if not has_come and PresenceWord.decode(msg.data).name == name:
            market.acted_at, has_come = time.monotonic(), True

    nc = await market.nats()
    try:
        await nc.subscribe(RELAY_SUBJECT, cb=hear)
        await nc.flush()
        await market.start_relay(name)
        await until(lambda: has_come, "it says that it is there")
    finally:
        await nc.close()
    return _others(market, -1)


async def _stops(market: Sharers) -> list[str]:
    market.relays[0].terminate()
    return _others(market, 0)


async def _dies(market: Sharers) -> list[str]:
    market.relays[0].kill()
    return _others(market, 0)


async def _freezes(market: Sharers) -> list[str]:
    market.relays[0].send_signal(signal.SIGSTOP)
    return _others(market, 0)


async def _wakes(market: Sharers) -> list[str]:
    """It freezes, the others do its work, and it goes on."""
    await market.shared(await _freezes(market))
    await market.more(20)
    market.relays[0].send_signal(signal.SIGCONT)
    return _others(market, -1)


async def _changes(market: Sharers, to: int) -> list[str]:
    """The number of partitions changes."""
    market.ask_for(to)
    return _others(market, -1)


async def _changes_and_dies(market: Sharers) -> list[str]:
    """It changes, and a relay dies once it has followed the policy."""
    nc = await market.nats()
    try:
        market.ask_for(5)

        async def is_changed() -> bool:
            answer = await nc.request("$JS.API.STREAM.INFO.INGRESS", b"", PATIENCE_S)
            return ".5." in json.loads(answer.data)["config"]["subject_transform"]["dest"]

        await until(is_changed, "new messages have another number")
    finally:
        await nc.close()
    return await _dies(market)


ACTS: Final[dict[str, Act]] = {
    "has fewer partitions": partial(_changes, to=5),
    "has more partitions": partial(_changes, to=24),
    "has other partitions and dies": _changes_and_dies,
    "comes": _comes,
    "stops": _stops,
    "dies": _dies,
    "freezes": _freezes,
    "wakes": _wakes,
}
