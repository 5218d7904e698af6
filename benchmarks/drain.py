"""Is a large backlog drained at the usual rate and in order, and does a stranger wait behind it?

::

    python -m benchmarks.drain [--messages 1000000] [--burst 64] [--json]

One bot's messages wait in INGRESS while the relay is held, ``--burst`` in each envelope. First a
twentieth of them is drained: that is the usual rate. Then all of them are. Meanwhile two other bots
publish a message each second, one of them in the partition of the backlog. The program reports the
two rates and their ratio, the times of the other bots' messages, and whether all messages were
stored once and in the order in which they were sent. Progress goes to standard error. It exits with
1 if a message was lost, doubled or out of order.

The backlog of one bot is bounded by ``limits.ingress_messages``, 256 by default. Here the policy
raises that limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from nats.js.api import ConsumerConfig, DeliverPolicy

from benchmarks.bus import Bus
from benchmarks.crowd import Crowd, Route
from benchmarks.generator import PATIENCE_S, POLL_S, Generator, Packet, login
from benchmarks.process import held
from benchmarks.workload import orders
from sealbus import Bot, SealbusError
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.streams import ACCEPTED, INGRESS
from sealbus.supervision import end
from sealbus_broker.memory.subject_transform import partition
from sealbus_broker.nats.streams import PARTITIONS

CROWD: Final = Crowd(20, 20, 20)
SIZE: Final = 200
"""The size of an order as JSON, in bytes."""

SCHEMA: Final = {"type": "object", "additionalProperties": True}
"""Small orders lack fields that the schema of the other benchmarks demands."""

AT_ONCE: Final = 2000
"""Envelopes that are published before it waits until they are stored. nats-server drops messages
that it would have to buffer beyond 10,000."""

USUAL: Final = 20
"""The usual rate is that of this part of the backlog."""

STRANGER_S: Final = 1.0
"""The time between two messages of a stranger."""

ANSWER_S: Final = 120.0
"""How long a stranger waits for a verdict."""


def say(text: str) -> None:
    """Report progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def strangers(routes: Sequence[Route]) -> dict[str, Route]:
    """Two bots that send nothing else: one in the partition of the first bot, and one in another.

    A bus of twenty bots has both.
    """
    first = partition(PARTITIONS, routes[0].bot)
    same = next(one for one in routes[1:] if partition(PARTITIONS, one.bot) == first)
    other = next(one for one in routes[1:] if partition(PARTITIONS, one.bot) != first)
    return {"same partition": same, "another partition": other}


async def drain(
    generator: Generator,
    bus: Bus,
    count: int,
    burst: int,
    begin: Callable[[], None] = lambda: None,
) -> tuple[float, list[str]]:
    """Have ``count`` messages wait, and then be judged. ``begin`` is called in between.

    Returns the messages a second, and the nonces of the envelopes in the order in which they were
    sent.
    """
    nonces: list[str] = []
    with held(bus.relay_pids):
        while len(nonces) * burst < count:
            left = count - len(nonces) * burst
            packets = generator.seal(min(AT_ONCE * burst, left), burst)
            nonces += map(_nonce, packets)
            arriving = (await generator.state(INGRESS))["last_seq"] + len(packets)
            await generator.send(packets)
            await generator.until_arrived(arriving)
            say(f"    {len(nonces) * burst:,} of {count:,} messages wait")
    began = time.monotonic()
    begin()
    told = began

    def tell() -> None:
        nonlocal told
        if time.monotonic() - told >= 5:
            told = time.monotonic()
            say(f"    {told - began:.0f} s")

    await generator.until_judged(tell)
    return len(nonces) * burst / (time.monotonic() - began), nonces


def _nonce(packet: Packet) -> str:
    return Envelope.decode(packet.data).header.nonce.hex()


async def stored(bus: Bus, since: int, bot: str) -> list[str]:
    """The nonces of the bot's stored envelopes behind the sequence ``since``, in their order."""
    found: list[str] = []
    async with login(bus.url, bus.relay_seed) as nc:
        state = await _state(nc)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=since + 1
        )
        subscription = await nc.jetstream().subscribe(
            f"{ACCEPTED.lower()}.>", ordered_consumer=True, config=config
        )
        last = since
        while last < state["last_seq"]:
            message = await subscription.next_msg(PATIENCE_S)
            last = message.metadata.sequence.stream
            owner, _, nonce = (message.headers or {})["Nats-Msg-Id"].partition(".")
            if owner == bot:
                found.append(nonce)
    return found


async def _state(nc: Any) -> dict[str, Any]:
    answer = json.loads((await nc.request(f"$JS.API.STREAM.INFO.{ACCEPTED}", b"", PATIENCE_S)).data)
    state: dict[str, Any] = answer["state"]
    return state


async def ask_again(bot: Bot, subject: str, times: list[float]) -> None:
    """A stranger's messages, and how long each takes."""
    payload = orders(SIZE)[0]
    while True:
        began = time.monotonic()
        try:
            await bot.publish(subject, payload, timeout=ANSWER_S)
        except SealbusError as error:
            say(f"    {bot.name}: {error.what}")
        times.append(time.monotonic() - began)
        await asyncio.sleep(STRANGER_S)


async def measure(folder: Path, count: int, burst: int) -> dict[str, Any]:
    """One backlog on a bus of its own."""
    routes = CROWD.routes()
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(Bus(folder / "bus", CROWD.plan(SCHEMA)))
        generator = await stack.enter_async_context(Generator(bus, routes[:1], size=SIZE))
        await drain(generator, bus, count // USUAL, burst)  # the first one warms up
        say("the usual rate")
        usual, _ = await drain(generator, bus, count // USUAL, burst)
        say(f"    {usual:,.0f} messages a second")
        since = (await generator.state(ACCEPTED))["last_seq"]
        times: dict[str, list[float]] = {}
        asking: list[asyncio.Task[None]] = []
        bots = []
        for where, route in strangers(routes).items():
            bot = await stack.enter_async_context(Bot.from_file(bus.credentials(route.bot)))
            times[where] = []
            bots.append((bot, route.subject, times[where]))

        def begin() -> None:
            asking.extend(asyncio.create_task(ask_again(*one)) for one in bots)

        say("the backlog")
        try:
            rate, nonces = await drain(generator, bus, count, burst, begin)
        finally:
            await asyncio.sleep(POLL_S)
            await end(*asking)
        say(f"    {rate:,.0f} messages a second")
        found = await stored(bus, since, routes[0].bot)
    return {
        "messages": len(nonces) * burst,
        "in_an_envelope": burst,
        "usual_rate": round(usual),
        "rate": round(rate),
        "ratio": round(rate / usual, 3),
        "stored_once": len(found) == len(set(found)) == len(nonces),
        "in_order": found == nonces,
        "strangers_worst_s": {
            where: round(max(some, default=0.0), 3) for where, some in times.items()
        },
        "strangers_messages": {where: len(some) for where, some in times.items()},
    }


def main() -> int:
    """Run from the command line. Returns 1 if a message was lost, doubled or out of order."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drain", description="A large backlog, and two strangers."
    )
    parser.add_argument("--messages", type=int, default=1_000_000, help="that wait (1,000,000)")
    parser.add_argument("--burst", type=int, default=64, help="in one envelope (64)")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), given.messages, given.burst))
    if given.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name.replace('_', ' '):<20} {value}\n")
    return 0 if found["stored_once"] and found["in_order"] else 1


if __name__ == "__main__":
    sys.exit(main())
