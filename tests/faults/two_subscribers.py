"""Two processes share a durable subscription while they are stopped and killed.

::

    python -m tests.faults.two_subscribers --runs 200

Processes share the work envelope by envelope, so each message has its own.

Each run has a seed. It decides how long messages take, when they are published, and which faults
the processes have. A third of the runs has one process that is stopped and started, to check the
order. A third has two processes that are stopped. A third has two that are stopped and killed. Many
runs share one bus at the same time, because they mostly wait.

The checks of each run are:

* Every message is handled.
* No message is given to a second process, unless the first was killed while it had the message or
  just after.
* One process gets the messages in the order in which they were accepted, across its stops.
* No process that is ready is idle for longer than two seconds while a message waits. The messages
  in the hand of a killed process wait for 30 seconds. So after a kill only messages count that the
  server has not given out yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

from sealbus.nats.client import HardenedClient
from sealbus.protocol.subjects import consumer_name
from tests.faults.yard import DURABLE, Life, Scene, Yard, say

IDLE_S: Final = 2.0
"""How long a process may be idle while a message waits, in seconds."""

JUST_AFTER_S: Final = 2.0
"""The longest time from the end of a handler to its acknowledgement, on a busy machine."""

LOOK_S: Final = 0.2
"""How often the server is asked for the number of undelivered messages."""

MESSAGES: Final = 24
TROUBLE_S: Final = 20.0
"""How long processes are stopped and killed."""

Span = tuple[float, float]


@dataclass
class Run:
    """One seed, its results, and its faults."""

    seed: int
    kind: str
    scene: Scene
    stored: dict[int, float] = field(default_factory=dict)
    """The time at which each message was accepted."""
    undelivered: list[tuple[float, int]] = field(default_factory=list)
    """The number of undelivered messages, over time."""
    wrong: list[str] = field(default_factory=list)
    longest_idle_s: float = 0.0
    over: bool = False


KINDS: Final = ("one, stopped", "two, stopped", "two, stopped and killed")


async def play(
    yard: Yard, seed: int, *, scale: float, kind: str | None = None, patience_s: float = 180.0
) -> Run:
    """Play one run, and check it."""
    chance = Random(seed)
    kind = kind or KINDS[seed % len(KINDS)]
    scene = Scene(yard, f"s{seed}", seed, scale)
    run = Run(seed, kind, scene)
    nc = await yard.nats()
    looking = asyncio.create_task(_look(run, nc))
    try:
        living = [scene.start() for _ in range(1 if kind.startswith("one") else 2)]
        publishing = asyncio.create_task(_publish(run, Random(seed + 1)))
        end = time.monotonic() + TROUBLE_S * scale
        while time.monotonic() < end:
            await asyncio.sleep(scale * chance.uniform(0.5, 5))
            await _fault(run, living, chance)
        await publishing
        deadline = time.monotonic() + patience_s
        # The messages end in other processes.
        while len(scene.ended()) < MESSAGES and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        for life in living:
            life.stop()
        await asyncio.gather(*(life.ended() for life in living))
    finally:
        run.over = True
        await looking
        for life in scene.lives:
            life.process.kill()
        await nc.request(f"$JS.API.CONSUMER.DELETE.ACCEPTED.{_consumer(run)}", b"", 10)
        await nc.close()
    _check(run)
    return run


async def _fault(run: Run, living: list[Life], chance: Random) -> None:
    """Stop or kill one of the processes, and start another in its place."""
    at = chance.randrange(len(living))
    old = living[at]
    if run.kind.endswith("killed") and chance.random() < 0.4:
        old.kill()
    else:
        old.stop()
    if not run.kind.startswith("one") and chance.random() < 0.5:
        living[at] = run.scene.start()  # before the old one has ended, as in a rolling restart
        await old.ended()
    else:
        await old.ended()
        living[at] = run.scene.start()


async def _publish(run: Run, chance: Random) -> None:
    async with run.scene.yard.bot("boss") as boss:
        number = 0
        while number < MESSAGES:
            burst = range(number, min(MESSAGES, number + chance.choice((1, 2, 8))))
            for number in burst:  # each receipt is awaited, so the order is known
                await boss.publish(
                    f"work.{run.scene.name}", {"number": number}, timeout=60, alone=True
                )
                run.stored[number] = time.monotonic()
            number = burst.stop
            await asyncio.sleep(run.scene.scale * chance.uniform(0, 4))


async def _look(run: Run, nc: HardenedClient) -> None:
    # not cancelled: wait_for() of Python 3.11, which nats-py uses, may lose a cancellation
    while not run.over:
        answer = await nc.request(f"$JS.API.CONSUMER.INFO.ACCEPTED.{_consumer(run)}", b"", 30)
        info = json.loads(answer.data)
        if "error" not in info:
            run.undelivered.append((time.monotonic(), info["num_pending"]))
        await asyncio.sleep(LOOK_S)


def _consumer(run: Run) -> str:
    return consumer_name("worker", f"work.{run.scene.name}", DURABLE)


# ---- the promises --------------------------------------------------------------------------------


def _check(run: Run) -> None:
    lives = run.scene.lives
    missing = set(run.stored) - run.scene.ended()
    if missing or len(run.stored) < MESSAGES:
        run.wrong.append(f"not handled: {sorted(missing)} of {len(run.stored)}")
    holders: dict[int, list[str]] = {}
    for at, life in enumerate(lives):
        finished = {line.number: line.at for line in life.lines if line.what == "end"}
        for number, count in Counter(
            line.number for line in life.lines if line.what == "begin"
        ).items():
            if count > 1:
                run.wrong.append(f"message {number} was handled {count} times by process {at}")
            done_at = finished.get(number)
            excused = life.killed_at is not None and (
                done_at is None or life.killed_at - done_at < JUST_AFTER_S
            )
            if not excused:
                holders.setdefault(number, []).append(f"process {at}")
    run.wrong += [
        f"message {number} was handled by {who}"
        for number, who in sorted(holders.items())
        if len(who) > 1
    ]
    if run.kind.startswith("one"):
        order = [line.number for life in lives for line in life.lines if line.what == "begin"]
        if order != sorted(order):
            run.wrong.append(f"out of order: {order}")
    for at, life in enumerate(lives):
        for begin, end in _overlaps(_idle(life), _waiting(run)):
            run.longest_idle_s = max(run.longest_idle_s, end - begin)
            if end - begin > IDLE_S:
                run.wrong.append(
                    f"process {at} was idle for {end - begin:.2f} s while a message waited"
                )


def _idle(life: Life) -> list[Span]:
    """The times in which a process was ready and idle."""
    spans: list[Span] = []
    since: float | None = None
    for line in life.lines:
        if line.what in ("ready", "end"):
            since = line.at
        elif line.what == "begin" and since is not None:
            spans.append((since, line.at))
            since = None
    ends = [at for at in (life.killed_at, life.told_at) if at is not None]
    if since is not None and ends:
        spans.append((since, min(ends)))
    return [(begin, min([end, *ends])) for begin, end in spans if begin < min([end, *ends])]


def _waiting(run: Run) -> list[Span]:
    """The times in which a message waited for a handler."""
    if any(life.killed_at is not None for life in run.scene.lives):
        looks = run.undelivered
        spans = [(one[0], two[0]) for one, two in pairwise(looks) if one[1] and two[1]]
    else:
        first: dict[int, float] = {}
        for life in run.scene.lives:
            for line in life.lines:
                if line.what == "begin":
                    first[line.number] = min(line.at, first.get(line.number, line.at))
        spans = [
            (stored, first[number]) for number, stored in run.stored.items() if number in first
        ]
    return _joined(spans)


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif begin < end:
            joined.append((begin, end))
    return joined


def _overlaps(some: list[Span], others: list[Span]) -> list[Span]:
    both = [(max(a, c), min(b, d)) for a, b in some for c, d in others]
    return [(begin, end) for begin, end in both if begin < end]


# ---- many runs -----------------------------------------------------------------------------------


async def play_many(seeds: range, at_once: int, scale: float) -> list[Run]:
    """Play the runs on one bus, ``at_once`` at a time."""
    places = asyncio.Semaphore(at_once)
    with tempfile.TemporaryDirectory() as folder:
        async with Yard(Path(folder) / "yard") as yard:
            await yard.start_relay()

            async def one(seed: int) -> Run:
                async with places:
                    run = await play(yard, seed, scale=scale)
                told = "; ".join(run.wrong) or f"ok, idle for at most {run.longest_idle_s:.2f} s"
                lives = run.scene.lives
                killed = sum(life.killed_at is not None for life in lives)
                say(f"seed {seed} ({run.kind}; {len(lives)} processes, {killed} killed): {told}")
                return run

            return await asyncio.gather(*(one(seed) for seed in seeds))


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description="Two processes on one durable subscription, stopped and killed."
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--at-once",
        type=int,
        default=8,  # each starts two processes again and again: 24 are too many for two cores
        help="at most 32: a bot has no more subscriptions",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="1: handlers take 0.1 to 5 s")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.runs)
    runs = asyncio.run(play_many(seeds, min(given.at_once, 32), given.scale))
    bad = [run for run in runs if run.wrong]
    longest = max(run.longest_idle_s for run in runs)
    idle = f"idle beside waiting work for at most {longest:.2f} s"
    say(f"{len(runs)} runs, {len(bad)} with a fault; {idle}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
