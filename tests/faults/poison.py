"""Messages that always fail, among good ones.

The good ones are handled without delay. The others end in the quarantine.

::

    python -m tests.faults.poison --count 2000

The program publishes ``--count`` messages of each kind, mixed. One handler at a time handles them,
and never waits. The policy's ten attempts take four minutes. ``--attempts`` asks for fewer.

Each message has an envelope of its own. nats-server counts deliveries, and a delivery is a whole
envelope, so messages that share envelopes never come near its bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealbus import Message
from sealbus.protocol.subjects import consumer_name
from tests.faults.yard import DURABLE, Yard, say

GAP_S: Final = 2.0
"""The longest delay of the good messages."""

AT_ONCE: Final = 250


class Poison(Exception):
    """The error of the handler for a message that always fails."""


@dataclass
class Outcome:
    """The outcome of the messages."""

    deliveries: int
    """Envelopes in the stream, each of which is delivered by itself."""
    tries: Counter[int]
    good: list[int]
    good_s: float
    """The time from the first message of all to the last good one."""
    longest_gap_s: float
    """The longest time between two good ones."""
    parked: int
    parked_s: float
    """The time until the last failing one was parked."""
    in_hand: int
    """Messages of the subscription that are not finished."""


async def play(yard: Yard, count: int, attempts: int | None) -> Outcome:
    """Publish ``count`` messages of each kind, and handle them until the last is finished."""
    async with yard.bot("boss") as boss:
        for first in range(0, 2 * count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, 2 * count))
            await asyncio.gather(
                *(boss.publish("work.poison", {"number": number}, alone=True) for number in numbers)
            )
    deliveries = await yard.stored("ACCEPTED") - 1  # the first one is the genesis
    tries: Counter[int] = Counter()
    good: list[int] = []
    times: list[float] = []
    bot = yard.bot("worker")

    @bot.subscribe("work.poison", durable=DURABLE, start="all", attempts=attempts)
    async def handle(message: Message) -> None:
        number = message.payload["number"]
        if number % 2:
            tries[number] += 1
            raise Poison
        good.append(number)
        times.append(time.monotonic())

    begun = time.monotonic()
    async with bot:
        parked = 0
        while parked < count or len(good) < count:
            await asyncio.sleep(0.1)
            parked = await yard.stored("QUARANTINE")
        done = time.monotonic()
    nc = await yard.nats()
    name = consumer_name("worker", "work.poison", DURABLE)
    info = json.loads((await nc.request(f"$JS.API.CONSUMER.INFO.ACCEPTED.{name}", b"", 10)).data)
    await nc.close()
    gaps = [later - earlier for earlier, later in zip([begun, *times], times, strict=False)]
    return Outcome(
        deliveries=deliveries,
        tries=tries,
        good=good,
        good_s=times[-1] - begun,
        longest_gap_s=max(gaps),
        parked=parked,
        parked_s=done - begun,
        in_hand=info["num_ack_pending"],
    )


def faults(outcome: Outcome, count: int, attempts: int) -> list[str]:
    """All broken promises."""
    wrong = []
    if outcome.deliveries != 2 * count:
        wrong.append(f"{outcome.deliveries} envelopes are stored, expected {2 * count}")
    if outcome.good != list(range(0, 2 * count, 2)):
        wrong.append(
            f"{len(outcome.good)} good ones handled, {len(set(outcome.good))} of them different"
        )
    if set(outcome.tries.values()) != {attempts}:
        wrong.append(f"tried {sorted(set(outcome.tries.values()))} times, expected {attempts}")
    if outcome.parked != count:
        wrong.append(f"{outcome.parked} parked, expected {count}")
    if outcome.in_hand:
        wrong.append(f"{outcome.in_hand} messages are not done")
    if outcome.longest_gap_s > GAP_S:
        wrong.append(f"the good ones were delayed for {outcome.longest_gap_s:.1f} s")
    return wrong


async def _main(count: int, attempts: int | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with Yard(Path(folder) / "yard") as yard:
            await yard.start_relay()
            outcome = await play(yard, count, attempts)
    wrong = faults(outcome, count, attempts or 10)
    say(
        f"{outcome.deliveries} envelopes; {len(outcome.good)} good ones handled in "
        f"{outcome.good_s:.1f} s, never delayed for more than "
        f"{outcome.longest_gap_s:.2f} s; {outcome.parked} failing ones tried "
        f"{sorted(set(outcome.tries.values()))} times and parked within {outcome.parked_s:.0f} s"
    )
    for fault in wrong:
        say(f"wrong: {fault}")
    return 1 if wrong else 0


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Failing messages among good ones.")
    parser.add_argument("--count", type=int, default=2000, help="of each kind")
    parser.add_argument("--attempts", type=int, help="by default the policy's 10")
    given = parser.parse_args()
    # Each failure writes a traceback into the log. Twenty thousand of them say no more than one.
    logging.getLogger("sealbus").setLevel(logging.CRITICAL)
    return asyncio.run(_main(given.count, given.attempts))


if __name__ == "__main__":
    sys.exit(main())
