"""The time that a revoked key still works, on a bus with many live sessions.

::

    python -m tests.faults.revocations --tries 100 --sessions 200 [--nodes 3]

The bots have four sessions each. With ``--nodes 3`` the bus is a cluster, and each session is on
the next node. Each try revokes the key of one bot by an edit of its file, while the bot sends all
the time. The program measures from the end of the write:

* *judged*: until the relay judges by the new policy. Another bot sends all the time, and each stamp
  names the policy.
* *gone*: until the last session of the bot is closed, as the bot sees it.
* *settled*: until the relay says that all sessions obey, and that nothing is being stored that was
  judged before.

It also checks four things:

* no message of the bot is accepted under the policy that revokes its key;
* no message of the bot is stored after the relay has said so, also if another bot sends it;
* no message comes to the bot after that;
* the bot is not admitted until the revocation is taken back.

It prints the median, the 95th percentile and the worst of these times. It exits with 1 if the worst
of the first two is two seconds or more, or if a check has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus import Bot, Credentials
from sealbus.life.session import Session, Watchers
from sealbus.nats.client import HardenedClient
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import open_stamp
from sealbus.protocol.subjects import notice_subject
from sealbus.supervision import Supervisor
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from tests.asking import answered
from tests.e2e.edits import asking, report, sealed
from tests.e2e.nodes import NODES, ClusterShop
from tests.e2e.shop import Shop
from tests.faults.yard import SCHEMA, say
from tests.waiting import until

LIMIT_S: Final = 2.0
"""The longest time that a revoked key may work."""

SESSIONS_OF_A_BOT: Final = 4
SEND_S: Final = 0.01
"""The pause between two messages of the bot whose key is revoked."""

BEAT_S: Final = 0.1
"""The pause between two messages that all sessions receive."""

HELD_S: Final = 0.5
"""How long the stolen key is tried after the sessions are gone."""

APART_S: Final = 0.5
"""The longest pause between two tries. Chance chooses it."""

POLICY: Final = """\
version: 1
bus: shop
limits:
  clock_skew: 100ms
on_violation:
  default: drop
roles:
  member:
    publish: [work.*]
    subscribe: [pulse.beat]
bots:
  observer:
    publish: [work.*, pulse.*]
{bots}
subjects:
  work.*:
    schema: work.v1
  pulse.*:
    delivery: live
    schema: work.v1
"""
COLUMNS: Final = "{:<10}{:>9}{:>9}{:>9}"


class Town(Shop):
    """A bus of many bots with the same rights, and one that watches the relay."""

    def __init__(self, folder: Path, bots: int) -> None:
        self.members = [f"m{number}" for number in range(bots)]
        super().__init__(folder, self._fill)

    def at_node(self, bot: str, number: int) -> Credentials:
        """The credentials of ``bot`` for the session ``number``, with the address of one node."""
        server = self.urls[number % len(self.urls)]
        return replace(self.credentials(bot), servers=(server,))

    def _fill(self, folder: Path) -> None:
        bots = "".join(f"  {name}:\n    roles: [member]\n" for name in self.members)
        (folder / "policy.yaml").write_text(POLICY.format(bots=bots))
        (folder / "schemas").mkdir()
        (folder / "schemas" / "work.v1.json").write_text(SCHEMA)
        facts = BusFile("shop", self.urls, (self.bus.open_secrets().bus.public,))
        for bot in ("observer", *self.members):
            make_key(self.bus, bot, facts, datetime.now(UTC))


class ClusterTown(Town, ClusterShop):
    """The same on three nodes."""


class Member:
    """One session of a bot. It comes back whenever the bus admits it."""

    def __init__(self, town: Town, bot: str, number: int) -> None:
        self.bot = bot
        self.credentials = town.at_node(bot, number)
        self.gone_at = 0.0
        """When its connection was closed last, by the monotonic clock."""
        self.heard_at = 0.0
        """When a message came last."""
        watchers = Watchers(on_lost=self._on_lost)
        supervisor = Supervisor(bot)
        self.session = Session(
            self.credentials, self._attach, supervisor=supervisor, watchers=watchers
        )

    async def _attach(self, client: HardenedClient) -> None:
        await client.subscribe_direct("bus.pulse.beat", self._hear)
        await client.subscribe_direct(notice_subject(self.bot), self._take_notice)

    def _hear(self, *_: bytes) -> None:
        self.heard_at = time.monotonic()

    def _take_notice(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        self.session.take_notice(data)

    def _on_lost(self, _: str) -> None:
        self.gone_at = time.monotonic()

    def message(self) -> bytes:
        """A message of the bot, sealed with its key now."""
        return sealed(self.credentials, f"work.{self.bot}", {})

    async def send(self) -> None:
        """Send all the time while it is connected."""
        while True:
            client = await self.session.client()
            with suppress(NatsError, OSError):
                await client.publish(f"send.{self.bot}", self.message())
            await asyncio.sleep(SEND_S)


@dataclass
class Outcome:
    """The outcome of all tries."""

    sessions: int
    judged_s: list[float] = field(default_factory=list)
    gone_s: list[float] = field(default_factory=list)
    settled_s: list[float] = field(default_factory=list)
    slipped: list[str] = field(default_factory=list)
    """All broken promises."""


@dataclass
class Watch:
    """The policy by which the relay judges, as an honest bot sees it all the time."""

    bot: Bot
    policy: bytes = b""
    """The digest in the last stamp."""
    since: float = 0.0
    """When the first stamp with it came, by the monotonic clock."""

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            stamp = await self.bot.publish("pulse.watch", {}, live=True)
            if stamp.policy != self.policy:
                self.policy, self.since = stamp.policy, time.monotonic()

    async def beat(self) -> None:
        """Send to all sessions for ever."""
        while True:
            await self.bot.publish("pulse.beat", {}, live=True)
            await asyncio.sleep(BEAT_S)


@dataclass
class Trial:
    """A bus in use, on which one key after the other is revoked."""

    town: Town
    members: list[Member]
    watch: Watch
    nc: HardenedClient
    """A connection with the relays' rights."""
    outcome: Outcome
    chance: Random = field(default_factory=lambda: Random(1))

    async def run(self, tries: int) -> None:
        """Revoke ``tries`` keys, one at a time."""
        for number in range(tries):
            bot = self.town.members[number % len(self.town.members)]
            await self._revoke(bot)
            await asyncio.sleep(self.chance.uniform(0, APART_S))

    async def _revoke(self, bot: str) -> None:
        own = [one for one in self.members if one.bot == bot]
        await until(lambda: all(one.session.is_up for one in own), f"{bot} is back")
        after = await self.town.last("ACCEPTED")
        sending = [asyncio.create_task(one.send()) for one in own]
        await asyncio.sleep(10 * SEND_S)  # so that messages are under way
        before = self.watch.policy
        path = self.town.bus.path / "keys" / f"{bot}.yaml"
        text = path.read_text()
        # A second ago, because the file names whole seconds.
        at = datetime.now(UTC).replace(microsecond=0, tzinfo=None) - timedelta(seconds=1)
        path.write_text(f"{text}    revoked: {at.isoformat()}Z\n")
        written = time.monotonic()
        await until(lambda: self.watch.policy != before, "the relay judges by the new policy")
        revoking = self.watch.policy
        self.outcome.judged_s.append(self.watch.since - written)
        await until(lambda: all(one.gone_at > written for one in own), f"{bot} is gone")
        gone_at = max(one.gone_at for one in own)
        self.outcome.gone_s.append(gone_at - written)
        await until(lambda: self._is_settled(revoking), "the relay says that all is settled")
        settled_ms = time.time_ns() // 1_000_000
        self.outcome.settled_s.append(time.monotonic() - written)
        # Whoever stole the key has another way to the bus.
        thief = next(one for one in self.members if one.bot != bot)
        for _ in range(5):
            client = await thief.session.client()
            await client.publish(f"send.{thief.bot}", own[0].message())
            await asyncio.sleep(HELD_S / 5)
        if any(one.session.is_up for one in own):
            self.outcome.slipped.append(f"{bot} was admitted with its revoked key")
        if any(one.heard_at > gone_at for one in own):
            self.outcome.slipped.append(f"{bot} received a message after its sessions were gone")
        for task in sending:
            task.cancel()
        await until(self._is_judged, "all messages are judged")
        await self._look(bot, after, revoking, settled_ms)
        path.write_text(text)
        await until(lambda: self.watch.policy == before, "the revocation is taken back")

    async def _is_settled(self, policy: bytes) -> bool:
        told = await report(self.nc)
        return bool(told["policy"] == policy.hex() and told["sessions_obey"])

    async def _is_judged(self) -> bool:
        return await self.town.stored("INGRESS") == 0

    async def _look(self, bot: str, after: int, revoking: bytes, settled_ms: int) -> None:
        """Look at the messages of ``bot`` that were stored behind the sequence ``after``."""
        keys, verifier = frozenset({self.town.secrets.bus.public.raw}), Verifier()
        found = 0
        while True:
            ask = {"seq": after + 1, "next_by_subj": f"accepted.work.{bot}"}
            subject = "$JS.API.DIRECT.GET.ACCEPTED"
            answer = await answered(self.nc, subject, json.dumps(ask).encode())
            headers = answer.headers or {}
            if headers.get("Status"):
                break
            found += 1
            after = int(headers["Nats-Sequence"])
            at_ms = datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp() * 1000
            envelope, stamp = split_delivery(answer.data)
            assert Envelope.decode_shown(envelope).header.bot == bot
            if open_stamp(stamp, keys, verifier).policy == revoking:
                self.outcome.slipped.append(f"{bot}: accepted by the policy that revokes it")
            elif at_ms > settled_ms:
                self.outcome.slipped.append(f"{bot}: stored after all was settled")
        if not found:
            self.outcome.slipped.append(f"{bot} had nothing accepted, so this shows nothing")


@asynccontextmanager
async def _in_use(town: Town, sessions: int) -> AsyncIterator[Trial]:
    """The town with ``sessions`` live sessions and an observer."""
    members = [Member(town, town.members[at % len(town.members)], at) for at in range(sessions)]
    observer = town.bot("observer")
    watch = Watch(observer)
    tasks: list[asyncio.Task[None]] = []
    try:
        async with observer:
            for one in members:
                await one.session.open()
            tasks += [asyncio.create_task(watch.run()), asyncio.create_task(watch.beat())]
            await until(lambda: bool(watch.policy), "the observer has a stamp")
            heard = lambda: all(one.heard_at for one in members)  # noqa: E731
            await until(heard, "all sessions receive")
            async with asking(town) as nc:
                yield Trial(town, members, watch, nc, Outcome(sessions))
            for task in tasks:
                task.cancel()
            for done in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(done, Exception):
                    raise done  # the observer's messages had to be accepted
    finally:
        for task in tasks:
            task.cancel()
        closing = (one.session.close(flush=False) for one in members)
        await asyncio.gather(*closing, return_exceptions=True)


async def play(folder: Path, *, tries: int, sessions: int, nodes: int = 1) -> Outcome:
    """Revoke ``tries`` keys on a new bus in ``folder``, of one node or of three."""
    make = Town if nodes == 1 else ClusterTown
    async with make(folder, max(2, sessions // SESSIONS_OF_A_BOT)) as town:
        await town.start_relay()
        async with _in_use(town, sessions) as trial:
            await trial.run(tries)
            return trial.outcome


def figures(times_s: Sequence[float]) -> dict[str, float]:
    """The median, the 95th percentile and the worst, in seconds."""
    found = sorted(times_s)
    at = {"p50": 0.5, "p95": 0.95, "worst": 1.0}
    return {name: found[max(0, round(share * len(found)) - 1)] for name, share in at.items()}


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="How long a revoked key still works.")
    parser.add_argument("--tries", type=int, default=100, help="keys that are revoked (100)")
    parser.add_argument("--sessions", type=int, default=200, help="live sessions (200)")
    parser.add_argument("--nodes", type=int, choices=(1, NODES), default=1, help="nodes (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    if given.tries < 1 or given.sessions < 2:
        parser.error("--tries is at least 1, and --sessions at least 2")
    # Each session tells why it ended, and that is no news here.
    logging.getLogger("sealbus").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        playing = play(
            Path(folder) / "town",
            tries=given.tries,
            sessions=given.sessions,
            nodes=given.nodes,
        )
        outcome = asyncio.run(playing)
    times = {"judged": outcome.judged_s, "gone": outcome.gone_s, "settled": outcome.settled_s}
    rows = {name: figures(times_s) for name, times_s in times.items()}
    wrong = list(outcome.slipped)
    if rows["gone"]["worst"] >= LIMIT_S or rows["judged"]["worst"] >= LIMIT_S:
        wrong.append(f"a revoked key worked for {LIMIT_S:g} s or longer")
    if given.json:
        result: dict[str, Any] = asdict(outcome) | {"figures": rows, "wrong": wrong}
        say(json.dumps(result))
    else:
        on = f"{given.sessions} sessions on {given.nodes} node{'s' if given.nodes > 1 else ''}"
        say(f"{given.tries} keys revoked, {on}; seconds after the write")
        say(COLUMNS.format("", "p50", "p95", "worst"))
        for name, row in rows.items():
            say(COLUMNS.format(name, *(f"{one:.3f}" for one in row.values())))
        for one in wrong:
            say(f"wrong: {one}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
