"""Is a large backlog drained at the usual rate and in order, and does a stranger wait behind it?

::

    python -m benchmarks.drain [--messages 1000000] [--burst 64] [--bots 64] [--json]

First the messages of ``--bots`` bots come while a relay judges, ``--burst`` in each envelope, a
fifth of ``--messages``. That is done once more at the end, and both together are the usual rate. In
between, all of ``--messages`` wait in INGRESS while no relay is there, and one starts. Meanwhile
two other bots publish a message each second, one of them in the partition with the most messages
and one in that with the fewest. The rate of the backlog and these times count from the first
verdict on. The program reports the two rates and their ratio, the same of the relay's processor
time, the times of the other bots' messages, and whether all messages were stored once and in the
order in which their bot sent them. Progress goes to standard error. It exits with 1 if a message
was lost, doubled or out of order.

The backlog of one bot is bounded by ``limits.ingress_messages``, 256 by default. A million messages
of 64 bots stay below that, and those of fewer bots do not. The policy raises the limit for those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from nats.js.api import ConsumerConfig, DeliverPolicy

from benchmarks.bus import Bus
from benchmarks.crowd import Crowd, Route
from benchmarks.generator import PATIENCE_S, POLL_S, Cost, Generator, Packet, Used, login
from benchmarks.workload import orders
from sealbus import Bot, SealbusError
from sealbus.nats.acks import read_ack
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.stamp import open_stamp
from sealbus.protocol.streams import ACCEPTED, INGRESS
from sealbus.supervision import end
from sealbus_broker.memory.subject_transform import partition
from sealbus_broker.nats.streams import PARTITIONS

OTHERS: Final = 40
"""The bots beside the senders. Each partition has one of them."""

SIZE: Final = 200
"""The size of an order as JSON, in bytes."""

SCHEMA: Final = {"type": "object", "additionalProperties": True}
"""Small orders lack fields that the schema of the other benchmarks demands."""

AT_ONCE: Final = 2000
"""Envelopes that are published before it waits until they are stored. nats-server drops messages
that it would have to buffer beyond 10,000."""

USUAL: Final = 5
"""The usual rate is measured with this part of the number of messages of the backlog. That takes
some seconds, because the rate of a single second varies by a half."""

STRANGER_S: Final = 1.0
"""The time between two messages of a stranger."""

ANSWER_S: Final = 120.0
"""How long a stranger waits for a verdict."""


def say(text: str) -> None:
    """Report progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def crowd(bots: int) -> Crowd:
    """The bus of so many senders."""
    return Crowd(bots + OTHERS, bots + OTHERS, bots + OTHERS)


def strangers(senders: Sequence[Route], others: Sequence[Route]) -> dict[str, Route]:
    """Two bots that do not send the backlog: one in the partition with most senders, and one in
    that with fewest."""
    count = Counter(partition(PARTITIONS, one.bot) for one in senders)
    full = max(range(PARTITIONS), key=lambda at: count[at])
    empty = min(range(PARTITIONS), key=lambda at: count[at])
    by_partition = {partition(PARTITIONS, one.bot): one for one in others}
    return {"full partition": by_partition[full], "emptier partition": by_partition[empty]}


def total(costs: Sequence[Cost]) -> Cost:
    """The cost of one relay for all of them together."""
    return Cost(
        sum(one.messages for one in costs),
        (sum(sum(one.relays_s) for one in costs),),
        sum(one.server_s for one in costs),
        sum(one.seconds for one in costs),
    )


async def come(generator: Generator, count: int, burst: int) -> Cost:
    """Have ``count`` messages come while a relay judges. Returns their cost."""
    costs: list[Cost] = []
    while (left := count - sum(one.messages for one in costs)) > 0:
        costs.append(await generator.cost(min(AT_ONCE * burst, left), burst, hold=False))
    found = total(costs)
    say(f"    {found.rate:,.0f} messages a second")
    return found


async def drain(
    generator: Generator,
    bus: Bus,
    count: int,
    burst: int,
    begin: Callable[[], None] = lambda: None,
) -> tuple[Cost, list[tuple[str, str]]]:
    """Have ``count`` messages wait, and then be judged by a relay that starts. ``begin`` is called
    with its first verdict.

    Returns the cost from then on, and the bot and the nonce of each envelope in the order in which
    they were sent.

    Raises ``TimeoutError`` if no relay judges.
    """
    nonces: list[tuple[str, str]] = []
    await bus.stop_relays()
    while len(nonces) * burst < count:
        left = count - len(nonces) * burst
        packets = generator.seal(min(AT_ONCE * burst, left), burst)
        nonces += map(_id, packets)
        arriving = (await generator.state(INGRESS))["last_seq"] + len(packets)
        await generator.send(packets)
        await generator.until_arrived(arriving)
        say(f"    {len(nonces) * burst:,} of {count:,} messages wait")
    await bus.start_relay()
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while (await generator.state(INGRESS))["messages"] >= len(nonces):
            began = time.monotonic()
            await asyncio.sleep(POLL_S)
    told, used = began, Used.so_far(bus)
    begin()

    def tell(waiting: int) -> None:
        nonlocal told
        if time.monotonic() - told >= 5:
            told = time.monotonic()
            say(f"    {told - began:.0f} s: {waiting * burst:,} of {count:,} messages wait")

    await generator.until_judged(tell)
    seconds = time.monotonic() - began
    return Used.so_far(bus).cost(used, len(nonces) * burst, seconds), nonces


def _id(packet: Packet) -> tuple[str, str]:
    header = Envelope.decode(packet.data).header
    return header.bot, header.nonce.hex()


def by_bot(ids: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The nonces of each bot, in their order."""
    found: dict[str, list[str]] = {}
    for bot, nonce in ids:
        found.setdefault(bot, []).append(nonce)
    return found


async def stored(bus: Bus, since: int, bots: Collection[str]) -> list[tuple[str, str]]:
    """The bot and the nonce of each stored envelope of ``bots`` behind the sequence ``since``, in
    their order.

    Envelopes that were stored too late are left out, because they reach no subscriber.
    """
    found: list[tuple[str, str]] = []
    verifier = Verifier()
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
            ack = read_ack(message.reply.encode())
            assert ack is not None, "JetStream delivers with an acknowledgement subject"
            last = ack.sequence
            owner, _, nonce = (message.headers or {})["Nats-Msg-Id"].partition(".")
            if owner in bots:
                _, stamp = split_delivery(message.data)
                if not is_void(open_stamp(stamp, bus.bus_keys, verifier), ack.stored_ms):
                    found.append((owner, nonce))
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


async def measure(folder: Path, count: int, burst: int, senders: int) -> dict[str, Any]:
    """One backlog of ``senders`` bots on a bus of its own."""
    routes = crowd(senders).routes()
    sending, others = routes[:senders], routes[senders:]
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(Bus(folder / "bus", crowd(senders).plan(SCHEMA)))
        generator = await stack.enter_async_context(Generator(bus, sending, size=SIZE))
        say("the usual rate")
        await come(generator, count // USUAL, burst)  # the first one warms up
        before = await come(generator, count // USUAL, burst)
        since = (await generator.state(ACCEPTED))["last_seq"]
        times: dict[str, list[float]] = {}
        asking: list[asyncio.Task[None]] = []
        bots = []
        for where, route in strangers(sending, others).items():
            bot = await stack.enter_async_context(Bot.from_file(bus.credentials(route.bot)))
            times[where] = []
            bots.append((bot, route.subject, times[where]))

        def begin() -> None:
            asking.extend(asyncio.create_task(ask_again(*one)) for one in bots)

        say("the backlog")
        try:
            drained, nonces = await drain(generator, bus, count, burst, begin)
        finally:
            await asyncio.sleep(POLL_S)
            await end(*asking)
        say(f"    {drained.rate:,.0f} messages a second")
        found = await stored(bus, since, {one.bot for one in sending})
        copies = Counter(found)
        say(
            f"    {len(nonces):,} envelopes sent, {len(copies):,} stored,"
            f" {sum(copies.values()) - len(copies):,} of them again"
        )
        say("the usual rate, once more")
        after = await come(generator, count // USUAL, burst)
        usual = total([before, after])
    return {
        "messages": len(nonces) * burst,
        "in_an_envelope": burst,
        "senders": senders,
        "usual_rate": round(usual.rate),
        "rate": round(drained.rate),
        "ratio": round(drained.rate / usual.rate, 3),
        "usual_processor_us": round(usual.us, 1),
        "processor_us": round(drained.us, 1),
        "processor_ratio": round(usual.us / drained.us, 3),
        "stored_once": len(found) == len(set(found)) == len(nonces),
        "in_order": by_bot(found) == by_bot(nonces),
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
    parser.add_argument("--bots", type=int, default=64, help="that send them (64)")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), given.messages, given.burst, given.bots))
    if given.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name.replace('_', ' '):<20} {value}\n")
    return 0 if found["stored_once"] and found["in_order"] else 1


if __name__ == "__main__":
    sys.exit(main())
