"""The run: rounds, and in each of them every peer, one after the other.

So a disturbance of the machine disturbs all peers alike.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.actor import short
from benchmarks.bus import Bus, pairs_plan
from benchmarks.measure import Roles, latency, usage
from benchmarks.peer import Peer
from benchmarks.peers import make
from benchmarks.side import OPEN_S, PeerFailed, Side
from benchmarks.workload import SIZES

LATENCY_SIZE: Final = 1024
LATENCY_PAIRS: Final = 1
WARM_S: Final = 0.3
ARRIVE_S: Final = 20.0
"""How long the last messages may take to arrive after the last confirmation."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """The size of a run."""

    peers: tuple[str, ...]
    rounds: int = 3
    seconds: float = 1.0
    """The length of one measurement. With all peers, sizes and depths three rounds take 12 min."""
    sizes: tuple[int, ...] = SIZES
    pairs: tuple[int, ...] = (1, 10)
    verify: bool = True
    """Whether bare libsodium is measured too."""
    sync: str = "always"
    """JetStream's ``sync_interval``, for Sealbus and for the peers on the same server."""


@dataclass(slots=True)
class Results:
    """The measurements, as rows that go unchanged into the JSON file."""

    peers: dict[str, Row] = field(default_factory=dict)
    throughput: list[Row] = field(default_factory=list)
    latency: list[Row] = field(default_factory=list)
    verify: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order in round ``number``. Each peer comes first once, if there are enough rounds."""
    by = number % len(names)
    return [*names[by:], *names[:by]]


async def run(form: Form, folder: Path, say: Callable[[str], None]) -> Results:
    """Run all rounds. Files go into ``folder``, which exists. ``say`` gets the progress."""
    results = Results()
    for number in range(form.rounds):
        if form.verify:
            _verify(form, number, results)
        if not form.peers:
            continue
        try:
            await _round(form, number, folder / f"round{number}", results, say)
        except Exception as error:  # noqa: BLE001 - no round without a bus; the next may have one
            results.failed.append({"round": number, "peer": "bus", "error": short(error)})
            say(f"round {number + 1} failed: {short(error)}")
    return results


async def _round(
    form: Form, number: int, place: Path, results: Results, say: Callable[[str], None]
) -> None:
    """Every peer with one pair, then every peer with more."""
    steps = [(pairs, name) for pairs in form.pairs for name in rotated(form.peers, number)]
    async with Bus(place / "bus", pairs_plan(max(form.pairs)), sync=form.sync) as bus:
        for done, (pairs, name) in enumerate(steps, number * len(steps) + 1):
            total = form.rounds * len(steps)
            about = f"[{done}/{total}] round {number + 1}, {name}, {pairs} to {pairs}"
            try:
                await _measure(
                    name, bus, pairs, number, form, place, results, partial(_say_of, say, about)
                )
            # A peer that fails is a result. The others go on.
            except Exception as error:  # noqa: BLE001
                results.failed.append(
                    {"round": number, "peer": name, "pairs": pairs, "error": short(error)}
                )
                say(f"{about}: failed: {short(error)}")


def _say_of(say: Callable[[str], None], about: str, what: str) -> None:
    say(f"{about}: {what}")


def _verify(form: Form, number: int, results: Results) -> None:
    from benchmarks.peers import verify

    for size in form.sizes:
        results.verify.append(
            {"round": number, "size": size, **verify.measure(size, form.seconds / 2)}
        )


@dataclass(frozen=True, slots=True)
class Running:
    """A peer with both sides connected."""

    peer: Peer
    sender: Side
    receiver: Side

    def processes(self) -> Roles:
        return {
            "sender": [self.sender.pid],
            "receiver": [self.receiver.pid],
            **self.peer.processes(),
        }

    async def load(self, depth: int, seconds: float, size: int) -> Row:
        """Throughput at one depth, from the first send until all are confirmed and received."""
        async with usage(self.processes) as used:
            sent = await self.sender.do(
                "load", takes_s=seconds, depth=depth, seconds=seconds, size=size
            )
            came = await self.receiver.do(
                "wait", takes_s=ARRIVE_S, count=sent["sent"], seconds=ARRIVE_S
            )
        if came["received"] != sent["sent"]:
            raise PeerFailed(f"{sent['sent']} were sent, {came['received']} came")
        took = max(sent["last"], came["last"]) - sent["first"]
        return {
            "depth": depth,
            "sent": sent["sent"],
            "seconds": took,
            "rate": sent["sent"] / took,
            "cpu_us": used.per_message(sent["sent"]),
            "rss_bytes": used.rss_bytes,
        }


@contextlib.asynccontextmanager
async def running(name: str, bus: Bus, pairs: int, folder: Path) -> AsyncIterator[Running]:
    """Start a peer and connect both sides, the receiver first."""
    peer = make(name, bus)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(peer.stop)
        async with asyncio.timeout(OPEN_S):
            setup = await peer.start(folder, pairs)
        receiver = await Side.start("receiver", name, folder)
        stack.push_async_callback(receiver.stop)
        sender = await Side.start("sender", name, folder)
        stack.push_async_callback(sender.stop)
        await receiver.do("open", takes_s=OPEN_S, setup=setup, pairs=pairs)
        await sender.do("open", takes_s=OPEN_S, setup=setup, pairs=pairs)
        yield Running(peer, sender, receiver)


async def _measure(
    name: str,
    bus: Bus,
    pairs: int,
    number: int,
    form: Form,
    place: Path,
    results: Results,
    say: Callable[[str], None],
) -> None:
    """One peer in one round: throughput at each size, and latency if the form asks for it."""
    folder = place / f"{name}-{pairs}"
    folder.mkdir()
    async with running(name, bus, pairs, folder) as it:
        peer = it.peer
        results.peers[name] = {
            "title": peer.title,
            "promises": peer.promises,
            "can_ask": peer.can_ask,
        }
        for size in form.sizes:
            await it.load(peer.depths[0], WARM_S, size)
            tried = [await it.load(depth, form.seconds, size) for depth in peer.depths]
            best = max(tried, key=lambda one: one["rate"])
            depths = [{"depth": one["depth"], "rate": one["rate"]} for one in tried]
            about = {"round": number, "peer": name, "pairs": pairs, "size": size}
            results.throughput.append({**about, **best, "tried": depths})
            say(f"{size:,} B, {best['rate']:,.0f} messages/s with {best['depth']} in flight")
        if pairs == LATENCY_PAIRS and LATENCY_SIZE in form.sizes:
            for what in ("send", "ask") if peer.can_ask else ("send",):
                row = await _latency(it, what, form.seconds)
                results.latency.append(
                    {"round": number, "peer": name, "size": LATENCY_SIZE, "what": what, **row}
                )
                say(f"one {what} at a time, p50 {row['p50_us']:,.0f} µs")


async def _latency(it: Running, what: str, seconds: float) -> Row:
    await _time(it, what, WARM_S)
    return latency(await _time(it, what, seconds))


async def _time(it: Running, what: str, seconds: float) -> list[float]:
    answer = await it.sender.do(
        "time", takes_s=seconds, what=what, seconds=seconds, size=LATENCY_SIZE
    )
    taken: list[float] = answer["us"]
    if what == "send":  # the count begins again
        await it.receiver.do("wait", takes_s=ARRIVE_S, count=len(taken), seconds=ARRIVE_S)
    return taken
