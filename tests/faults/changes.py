"""Everything that an operator changes on a running bus, under steady traffic.

::

    python -m tests.faults.changes [--edits 100] [--certificates 20] [--bus-keys 1] … [--json]

The bus is `sealbus up` with TLS. One bot publishes without a pause, and another one has a durable
subscription. It pins the first key of the publisher, and takes messages of pinned senders alone. So
it goes on through a rotation only by the links between the keys. Both renew their sessions every
few seconds. Meanwhile the operator does this, in an order that a seed gives:

* *edits*: changes a limit of the policy.
* *certificates*: renews all certificates.
* *session-keys*: voids the session keys of a bot.
* *rotations*: gives the publisher another enrolled key. A process with the new key takes over. Then
  the old key is revoked.
* *bus-keys*: gives the bus another key of its own, and deletes the old one. It takes as long as the
  longest session, and a minute.

Each message has to arrive once, in the order sent, and none may be refused.
The program prints the longest time between two publishes, and between two deliveries, during each
kind of change. It exits with 1 if a message was lost, doubled, reordered, refused or not believed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

from sealbus import Bot, Credentials, Message, SealbusError
from tests.cli.command import PATIENTLY, sealbus_beside
from tests.cli.folders import up
from tests.e2e.order import Loss, out_of_order
from tests.e2e.stalls import Stalls
from tests.e2e.tls_bus import made, port_of, renew
from tests.faults import patient_up
from tests.faults.yard import say
from tests.waiting import PATIENCE_S, until

RENEW_S: Final = 3.0
"""How often the bots renew their sessions: eighty times as often as usual."""

SESSION: Final = "10s"
"""The longest session, in the policy. A rotation of the bus key waits for that, and a minute."""

MORE: Final = 3
"""How many messages are published between two changes at least."""

COUNTS: Final = {
    "edits": 100,
    "certificates": 20,
    "session-keys": 10,
    "rotations": 3,
    "bus-keys": 1,
}
"""By kind of change: how many the program makes."""


@dataclass
class Kind:
    """The changes of one kind."""

    made: int = 0
    lost_sessions: int = 0
    """How many sessions the bots lost during them. A renewal is no loss."""
    publish_s: float = 0.0
    """The longest time between two publishes."""
    deliver_s: float = 0.0
    """The longest time between two deliveries."""


@dataclass
class Report:
    """The messages, and the changes."""

    sent: int = 0
    logins: int = 0
    """How often the bus admitted a bot. Each session has a key of its own."""
    refused: list[str] = field(default_factory=list)
    """The errors of publishes that failed."""
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    unbelieved: int = 0
    """How many deliveries the subscriber refused."""
    kinds: dict[str, Kind] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    """The times at which the subscriber lost its session."""

    def compare(self, got: list[int]) -> None:
        """Count the faults of the subscription, which got these numbers."""
        self.lost = len(set(range(self.sent)) - set(got))
        self.doubled = len(got) - len(set(got))
        self.reordered = out_of_order(got, self.losses)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        wrong = self.lost or self.doubled or self.reordered or self.unbelieved
        return not (self.refused or wrong)

    def table(self) -> Iterator[str]:
        """The report as lines for people."""
        faults = f"{self.lost} lost, {self.doubled} doubled, {self.reordered} reordered"
        faults += f", {self.unbelieved} not believed"
        yield f"{self.sent} messages, {self.logins} session keys: {faults}"
        yield from (f"REFUSED: {why}" for why in self.refused)
        form = "{:<14}{:>6}{:>15}{:>16}{:>16}"
        yield form.format("change", "made", "lost sessions", "publish, s", "delivery, s")
        for name, kind in self.kinds.items():
            stalls = f"{kind.publish_s:.3f}", f"{kind.deliver_s:.3f}"
            yield form.format(name, kind.made, kind.lost_sessions, *stalls)


class Scene:
    """One bus, its traffic, and the changes."""

    def __init__(self, bus: Path, log: Path) -> None:
        self.report = Report()
        self._bus = bus
        self._log = log
        self._got: list[int] = []
        self._sessions = 0
        """How many sessions were lost so far."""
        self._publishing, self._delivering = Stalls(), Stalls()
        self._greeter = self._bot("greeter")
        self._listener = self._bot("listener", pins=self._greeter)
        self._listener.on_lost(self._note_loss)
        self._is_over = False
        self.changes: Mapping[str, Callable[[int], Awaitable[None]]] = {
            "edits": self._edit,
            "certificates": self._renew_certificates,
            "session-keys": self._void,
            "rotations": self._rotate,
            "bus-keys": self._rotate_bus,
        }

    async def play(self, steps: list[str]) -> None:
        """Make the changes ``steps`` under traffic, and compare the messages."""
        async with self._traffic():
            for step in steps:
                kind = self.report.kinds.setdefault(step, Kind())
                lost = self._sessions
                self._publishing.take(), self._delivering.take()
                await self.changes[step](kind.made)
                await self._goes_on()
                kind.made += 1
                kind.lost_sessions += self._sessions - lost
                kind.publish_s = max(kind.publish_s, self._publishing.take())
                kind.deliver_s = max(kind.deliver_s, self._delivering.take())
        self.report.compare(self._got)
        self.report.logins = _logins(self._log.read_text())

    # ---- traffic --------------------------------------------------------------------------------

    def _bot(self, name: str, pins: Bot | None = None) -> Bot:
        credentials = Credentials.load(self._bus / "credentials" / f"{name}.toml")
        if pins is not None:
            pinned = frozenset([pins.credentials.key.public.raw])
            credentials = replace(credentials, senders={pins.name: pinned})
        bot = Bot(credentials, renew_s=RENEW_S)

        @bot.on_lost
        def lost(_: Bot) -> None:
            self._sessions += 1

        return bot

    def _note_loss(self, _: Bot) -> None:
        self.report.losses.append(Loss(max(self._got, default=-1), self.report.sent))

    @asynccontextmanager
    async def _traffic(self) -> AsyncIterator[None]:
        @self._listener.subscribe("greetings.sent", start="all", durable="changes", verify="sender")
        async def take(message: Message) -> None:
            self._got.append(int(message.payload["text"]))
            self._delivering.note()

        async with self._listener:
            await self._greeter.connect(timeout=PATIENCE_S)
            publishing = asyncio.create_task(self._publish())
            try:
                await self._goes_on()
                yield
                await self._goes_on()
            finally:
                self._is_over = True
                await publishing
                await self._greeter.close()
            wanted = set(range(self.report.sent))
            # One that was on its way when the listener lost its session comes again after 30 s.
            await until(
                lambda: bool(self.report.refused) or wanted <= set(self._got),
                lambda: f"all have come; lost: {sorted(wanted - set(self._got))[:20]}",
            )
            self.report.unbelieved = sum(self._listener.refused_deliveries.values())

    async def _publish(self) -> None:
        while not self._is_over:
            greeting = {"text": str(self.report.sent)}
            try:
                await self._greeter.publish("greetings.sent", greeting, timeout=PATIENCE_S)
            except SealbusError as error:
                self.report.refused.append(f"message {self.report.sent}: {error.what}")
            self._publishing.note()
            self.report.sent += 1

    async def _goes_on(self) -> None:
        """Wait until messages that are sent from now on have come."""
        at = self.report.sent + MORE
        await until(lambda: max(self._got[-1:], default=0) > at, "messages go on")

    # ---- changes --------------------------------------------------------------------------------

    async def _edit(self, number: int) -> None:
        policy = self._bus / "policy.yaml"
        before = self._log.read_text().count("policy.changed")
        changed = f"  ttl: {60 + number % 2}s  "
        policy.write_text(re.sub(r"^  ttl: \w+ +", changed, policy.read_text(), flags=re.MULTILINE))
        await until(
            lambda: self._log.read_text().count("policy.changed") > before,
            "the edited policy is in force",
        )

    async def _renew_certificates(self, _: int) -> None:
        await renew(self._bus, port_of(self._bus))

    async def _void(self, number: int) -> None:
        await self._run("keys", "void", ("greeter", "listener")[number % 2], "--wait", *PATIENTLY)

    async def _rotate(self, _: int) -> None:
        old = self._greeter
        # The file of the rotation before.
        (self._bus / "credentials" / "greeter.toml.old").unlink(missing_ok=True)
        await self._run("keys", "rotate", "greeter", "--wait", *PATIENTLY)
        new = self._bot("greeter")
        await new.connect(timeout=PATIENCE_S)
        self._greeter = new
        await self._goes_on()
        await old.close()
        revoked = old.credentials.key.public.text
        await self._run("keys", "revoke", "greeter", revoked, "--wait", *PATIENTLY)

    async def _rotate_bus(self, _: int) -> None:
        before = self._log.read_text().count("bus-key.changed")
        await self._run("keys", "rotate-bus")
        await until(
            lambda: self._log.read_text().count("bus-key.changed") > before,
            "relays seal with the new bus key",
        )
        await self._goes_on()
        await self._run("keys", "rotate-bus", "--finish")

    async def _run(self, *arguments: str) -> None:
        ran = await sealbus_beside(*arguments, cwd=self._bus)
        assert ran.code == 0, ran.err


def _logins(log: str) -> int:
    """How many logins of bots a log tells of. Some of its lines stand for several."""
    lines = [json.loads(line) for line in log.splitlines() if "admission.granted" in line]
    return sum(1 + line["left_out"] for line in lines)


async def play(counts: Mapping[str, int], seed: int, folder: Path) -> Report:
    """Play the changes in ``counts``, by their kind, on a bus below ``folder``."""
    bus = await asyncio.to_thread(made, folder)
    policy = bus / "policy.yaml"
    policy.write_text(policy.read_text().replace("limits:\n", f"limits:\n  session: {SESSION}\n"))
    steps = [kind for kind, count in counts.items() for _ in range(count)]
    Random(seed).shuffle(steps)
    # A reload of nats-server ends each session that is not answered for in time.
    with up(bus, module=patient_up.__name__) as log:
        scene = Scene(bus, log)
        await scene.play(steps)
    return scene.report


def main() -> int:
    """Run from the command line. Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="Changes of a running bus, under steady traffic.")
    for kind, count in COUNTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, dest=kind, metavar="N")
    parser.add_argument("--seed", type=int, default=1, help="gives the order of the changes")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    given = vars(parser.parse_args())
    logging.disable(logging.CRITICAL)  # lost connections are intended
    with tempfile.TemporaryDirectory() as folder:
        counts = {kind: given[kind] for kind in COUNTS}
        report = asyncio.run(play(counts, given["seed"], Path(folder)))
    if given["json"]:
        say(json.dumps(asdict(report)))
    else:
        for line in report.table():
            say(line)
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
