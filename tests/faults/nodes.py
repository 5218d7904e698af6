"""Losses of nodes of a cluster under steady traffic, and the longest stall of each kind.

::

    python -m tests.faults.nodes [--runs 2] [--rate 60] [--seed 1] [--kinds kill,cut] [--json]
    python -m tests.faults.nodes --minutes 20 --every 20 --rate 1000 --burst 16

The cluster has three nats-servers and two relays, all of them processes. Bots publish all the
time, and one has a durable subscription (:mod:`tests.faults.flock`). Each kind of loss is tried
``--runs`` times, in an order that the seed gives:

* *kill*: one node is killed, and starts again some seconds later.
* *stop*: one node is told to stop, and starts again at once.
* *lame-duck*: one node sends its clients away first, as in an upgrade.
* *leader-INGRESS* and so on: the leader of that stream is killed, for each stream of the bus.
* *leader-JetStream*: the node that leads JetStream itself is killed.
* *rolling*: all nodes are started anew, one after the other, each once the replicas of the one
  before have everything.
* *hasty*: the same without waiting.
* *majority*: two nodes are killed, and start again.
* *all*: all nodes are killed, and start again.
* *pause*: the leader of ACCEPTED is stopped by SIGSTOP, and goes on later.
* *cut*: its cable is pulled, and plugged again (:mod:`tests.faults.namespaces`). It is left out
  where this process may not do so.

With ``--minutes``, one node is killed every ``--every`` seconds instead, and nobody waits for
replicas. With ``--burst``, each bot publishes so many messages at a time, which travel together.
Three nodes on two cores store some 250 envelopes a second.

For each kind the program prints the longest time without a verdict, how long the slowest publish
took, and the 99th percentile and the median of all publishes of that kind. *held* is how long the
fault lasted: no verdict is possible while a majority is away. It exits with 1 if a message was
lost, stored twice, refused and handled, or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.config import cluster_subject
from sealbus_broker.nats.streams import STREAMS
from tests.e2e.nodes import NODES
from tests.faults.flock import Flock, FlockShop, names
from tests.faults.namespaces import CableShop, may_cut
from tests.faults.yard import say
from tests.waiting import until

BOTS: Final = 10
RELAYS: Final = ("one", "two")

AWAY_S: Final = (2.0, 6.0)
"""How long a node is away, at least and at most."""

CALM_S: Final = 1.0
"""The traffic between two faults, at least."""

KILLS_LEAST: Final = 2
"""So often ``--minutes`` kills a node at least, however long its returns take."""

COLUMNS: Final = "{:<16}{:>6}{:>10}{:>14}{:>14}{:>12}{:>12}"


class CableFlockShop(CableShop, FlockShop):
    """A cluster with bots, whose cables can be pulled."""


@dataclass
class Kind:
    """The losses of one kind."""

    tries: int = 0
    held_s: float = 0.0
    """The longest time from the fault until all nodes were there again."""
    silent_s: float = 0.0
    """The longest time without a verdict."""
    slowest_s: float = 0.0
    """The longest publish."""
    p99_s: float = 0.0
    """The 99th percentile of all publishes of this kind."""
    p50_s: float = 0.0
    """Their median."""


@dataclass
class Report:
    """All losses, and the messages."""

    seed: int
    sent: int = 0
    accepted: int = 0
    unresolved: int = 0
    handled_again: int = 0
    sent_s: float = 0.0
    """How long the bots sent."""
    took_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """All broken promises."""
    kinds: dict[str, Kind] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def table(self) -> Iterator[str]:
        """The report as lines for people."""
        yield (
            f"{self.sent} messages in {self.took_s:.0f} s ({self.sent / self.sent_s:.0f} a second):"
            f" {self.accepted} accepted,"
            f" {self.unresolved} unresolved, {self.handled_again} handled again (seed {self.seed})"
        )
        yield COLUMNS.format(
            "loss", "tries", "held, s", "no verdict, s", "slowest, s", "p99", "p50"
        )
        for name, kind in self.kinds.items():
            times = (kind.held_s, kind.silent_s, kind.slowest_s, kind.p99_s, kind.p50_s)
            yield COLUMNS.format(name, kind.tries, *(f"{one:.2f}" for one in times))
        yield from (f"left out: {name}, because this process may not" for name in self.left_out)
        yield from (f"WRONG: {one}" for one in self.wrong)


class Losses:
    """A cluster in use, whose nodes are lost one after the other."""

    def __init__(self, shop: FlockShop, flock: Flock, chance: Random, report: Report) -> None:
        self._shop = shop
        self._flock = flock
        self._chance = chance
        self._report = report
        self._took_s: dict[str, array[float]] = {}
        """For each kind of loss, how long each publish took."""
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "lame-duck": self._lame_duck,
            **{f"leader-{name}": partial(self._kill_leader, name) for name in STREAMS},
            "leader-JetStream": self._kill_jetstream_leader,
            "rolling": self._rolling,
            "hasty": self._hasty,
            "majority": lambda: self._kill_several(2),
            "all": lambda: self._kill_several(NODES),
            "pause": self._pause,
        }
        if isinstance(shop, CableShop):
            self.kinds["cut"] = self._cut

    async def play(self, steps: Sequence[str], tell: Callable[[str], None]) -> None:
        """Try each of ``steps``, and measure it."""
        for at, name in enumerate(steps):
            await self._shop.wait_until_current()
            await self._flock.goes_on()
            await asyncio.sleep(CALM_S)
            self._flock.record.take()
            began = time.monotonic()
            await self.kinds[name]()
            held_s = time.monotonic() - began
            await self._flock.goes_on()
            self._note(name, held_s)
            tell(f"{at + 1} of {len(steps)}: {name}, {self._report.kinds[name].silent_s:.2f} s")

    async def every(self, seconds: float, minutes: float, tell: Callable[[str], None]) -> None:
        """Kill one node every ``seconds`` for ``minutes``, :data:`KILLS_LEAST` times or more."""
        began = time.monotonic()
        killed = 0
        await self._flock.goes_on()
        self._flock.record.take()
        while (now := time.monotonic() - began) < minutes * 60 or killed < KILLS_LEAST:
            await asyncio.sleep(max(0.0, killed * seconds - now))
            node = self._chance.randrange(NODES)
            at = time.monotonic()
            await self._lose(node)
            await asyncio.sleep(self._chance.uniform(1, seconds / 4))
            await self._shop.restart_node(node)
            killed += 1
            if killed % 3 == 0:
                self._note("every", time.monotonic() - at, tries=3)
                kind = self._report.kinds["every"]
                tell(f"{now:.0f} s: {killed} killed, slowest publish {kind.slowest_s:.2f} s")
        await self._flock.goes_on()
        self._note("every", 0.0, tries=killed % 3)

    def _note(self, name: str, held_s: float, tries: int = 1) -> None:
        kind = self._report.kinds.setdefault(name, Kind())
        silent_s, took = self._flock.record.take()
        kind.tries += tries
        kind.held_s = max(kind.held_s, held_s)
        kind.silent_s = max(kind.silent_s, silent_s)
        kind.slowest_s = max(kind.slowest_s, took[-1])
        self._took_s.setdefault(name, array("d")).extend(took)

    def sum_up(self) -> None:
        """Compute the percentiles of each kind, over all of its tries."""
        for name, kind in self._report.kinds.items():
            took = sorted(self._took_s[name])
            kind.p99_s = took[int(0.99 * (len(took) - 1))]
            kind.p50_s = took[len(took) // 2]

    # ---- the losses -----------------------------------------------------------------------------

    async def _lose(self, node: int) -> None:
        self._shop.signal_node(node, signal.SIGKILL)
        await until(lambda: self._shop.nodes[node].pid is None, "it is dead")

    async def _away(self) -> None:
        await asyncio.sleep(self._chance.uniform(*AWAY_S))

    async def _kill(self) -> None:
        await self._kill_node(self._chance.randrange(NODES))

    async def _kill_node(self, node: int) -> None:
        await self._lose(node)
        await self._away()
        await self._shop.restart_node(node)

    async def _kill_leader(self, stream: str) -> None:
        await self._kill_node(await self._leader(stream))

    async def _kill_jetstream_leader(self) -> None:
        await self._kill_node(await self._jetstream_leader())

    async def _stop(self) -> None:
        await self._shop.restart_node(self._chance.randrange(NODES))

    async def _lame_duck(self) -> None:
        node = self._chance.randrange(NODES)
        self._shop.signal_node(node, signal.SIGUSR2)
        await until(lambda: self._shop.nodes[node].pid is None, "it has ended")
        await self._shop.restart_node(node)

    async def _rolling(self) -> None:
        for node in range(NODES):
            await self._shop.restart_node(node)
            await self._shop.wait_until_current()

    async def _hasty(self) -> None:
        for node in range(NODES):
            await self._shop.restart_node(node)

    async def _kill_several(self, count: int) -> None:
        nodes = self._chance.sample(range(NODES), count)
        for node in nodes:
            await self._lose(node)
        await self._away()
        await asyncio.gather(*(self._shop.restart_node(node) for node in nodes))

    async def _pause(self) -> None:
        node = await self._leader("ACCEPTED")
        self._shop.signal_node(node, signal.SIGSTOP)
        await self._away()
        self._shop.signal_node(node, signal.SIGCONT)

    async def _cut(self) -> None:
        assert isinstance(self._shop, CableShop)
        node = await self._leader("ACCEPTED")
        self._shop.pull_cable(node)
        await self._away()
        self._shop.plug_cable(node)

    async def _leader(self, stream: str) -> int:
        """The number of the node that leads ``stream``."""
        nc = await self._shop.nats()
        try:
            return await _leader(
                nc, f"$JS.API.STREAM.INFO.{stream}", lambda told: told["cluster"]["leader"]
            )
        finally:
            await nc.close()

    async def _jetstream_leader(self) -> int:
        """The number of the node that leads JetStream itself: it places streams and consumers."""
        nc = await self._shop.nats()
        try:
            return await _leader(
                nc,
                cluster_subject(nc.server_id),
                lambda told: told["data"]["meta_cluster"]["leader"],
            )
        finally:
            await nc.close()


async def _leader(nc: HardenedClient, subject: str, read: Callable[[Any], str]) -> int:
    """The number of the leader that ``read`` finds in an answer on ``subject``."""
    found: list[int] = []

    async def is_known() -> bool:
        try:
            answer = await nc.request(subject, b"", 2)
            found.append(int(read(json.loads(answer.data)).removeprefix("node-")))
        except (NatsError, KeyError, ValueError):
            return False
        return True

    await until(is_known, f"{subject} names a leader")
    return found[-1]


@dataclass(frozen=True)
class Plan:
    """What is to be lost."""

    kinds: Sequence[str] = ()
    """Empty: all that this process may try."""
    runs: int = 1
    rate: float = 60.0
    burst: int = 1
    bots: int = BOTS
    minutes: float = 0.0
    """More than 0: one node is killed every ``every_s`` seconds instead."""
    every_s: float = 20.0


async def play(plan: Plan, seed: int, folder: Path, tell: Callable[[str], None]) -> Report:
    """Lose nodes of a new cluster in ``folder``, as ``plan`` says."""
    report = Report(seed)
    chance = Random(seed)
    began = time.monotonic()
    cuts = not plan.minutes and (not plan.kinds or "cut" in plan.kinds)
    is_allowed = cuts and os.geteuid() == 0 and may_cut()
    bots = names(plan.bots)
    made = CableFlockShop(folder, bots) if is_allowed else FlockShop(folder, bots)
    async with made as shop:
        for relay in RELAYS:
            await shop.start_relay(relay)
        flock = Flock(shop, bots, plan.rate, plan.burst)
        losses = Losses(shop, flock, chance, report)
        report.left_out = ["cut"] if cuts and not is_allowed else []
        await flock.start()
        started = time.monotonic()
        try:
            if plan.minutes:
                await losses.every(plan.every_s, plan.minutes, tell)
            else:
                chosen = [name for name in plan.kinds or losses.kinds if name in losses.kinds]
                steps = [name for name in chosen for _ in range(plan.runs)]
                chance.shuffle(steps)
                await losses.play(steps, tell)
        except AssertionError as error:
            report.wrong.append(f"STUCK: {error}")
        report.sent_s = time.monotonic() - started
        losses.sum_up()
        tell("comparing")
        report.wrong += await flock.finish()
        record = flock.record
        report.sent = sum(one.sent for one in flock.publishers)
        report.accepted, report.unresolved = len(record.accepted), len(record.unresolved)
        report.handled_again = flock.again
    report.took_s = time.monotonic() - began
    return report


def main() -> int:
    """Run from the command line. Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="Losses of nodes of a cluster, under traffic.")
    parser.add_argument("--runs", type=int, default=2, help="tries of each kind (2)")
    parser.add_argument("--kinds", default="", help="only these, separated by commas")
    parser.add_argument("--rate", type=float, default=60, help="messages a second (60)")
    parser.add_argument("--burst", type=int, default=1, help="messages sent at a time (1)")
    parser.add_argument("--bots", type=int, default=BOTS, help=f"publishing bots ({BOTS})")
    parser.add_argument("--seed", type=int, default=1, help="gives the order and the times")
    parser.add_argument("--minutes", type=float, default=0, help="kill one node again and again")
    parser.add_argument("--every", type=float, default=20, help="seconds between two kills (20)")
    parser.add_argument("--folder", help="keep the bus and its logs here")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    plan = Plan(
        kinds=[kind for kind in given.kinds.split(",") if kind],
        runs=given.runs,
        rate=given.rate,
        burst=given.burst,
        bots=given.bots,
        minutes=given.minutes,
        every_s=given.every,
    )
    logging.getLogger("sealbus").setLevel(logging.CRITICAL)  # lost connections are intended

    def tell(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary) / "bus"
        folder.parent.mkdir(parents=True, exist_ok=True)
        report = asyncio.run(play(plan, given.seed, folder, tell))
    if given.json:
        say(json.dumps(asdict(report)))
    else:
        for line in report.table():
            say(line)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
