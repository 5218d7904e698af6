"""A bus whose subscribers are processes that a test stops and kills, and their diaries."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random  # noqa: TID251  # a seed makes a run repeatable

from sealbus import Bot, Message
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from tests.e2e.shop import Shop
from tests.fork_server import PROCESSES

SCHEMA = '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}'
BOTS = """\
bots:
  boss:
    publish: [work.*]
  worker:
    subscribe: [work.*]
"""
SUBJECTS = """\
subjects:
  work.*:
    schema: work.v1
"""
DURABLE = "d"


def say(text: str) -> None:
    """Tell the user of a program of this folder."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Yard(Shop):
    """The example shop with two more bots, and one subject ``work.<name>`` a scene."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        policy = self.bus.path / "policy.yaml"
        text = policy.read_text().replace("bots:\n", BOTS, 1).replace("subjects:\n", SUBJECTS, 1)
        policy.write_text(text)
        (self.bus.path / "schemas" / "work.v1.json").write_text(SCHEMA)
        facts = BusFile("shop", (self.url,), (self.secrets.bus.public,))
        for bot in ("boss", "worker"):
            make_key(self.bus, bot, facts, datetime.now(UTC))


@dataclass(frozen=True)
class Line:
    """A line that a process wrote down.

    All processes of the machine share the clock of its time.
    """

    at: float
    what: str
    """``ready``, ``begin`` or ``end`` of a message, or ``stopping``."""
    number: int = -1


@dataclass
class Life:
    """One process, from its start to its end."""

    process: ForkServerProcess
    diary: Path
    killed_at: float | None = None
    told_at: float | None = None
    """The time at which it was told to stop."""

    @property
    def lines(self) -> Iterator[Line]:
        """The lines that it has written so far."""
        for text in self.diary.read_text().splitlines():
            yield Line(**json.loads(text))

    @property
    def lives(self) -> bool:
        """Whether it may still be alive."""
        return self.process.is_alive()

    def kill(self) -> None:
        """Kill it, as in a crash."""
        self.killed_at = time.monotonic()
        self.process.kill()

    def stop(self) -> None:
        """Tell it to stop, as a supervisor does."""
        self.told_at = time.monotonic()
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    async def ended(self) -> None:
        """Wait until it has ended."""
        while self.process.is_alive():  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)


def handling_s(seed: int, number: int, scale: float) -> float:
    """How long a message takes, in seconds: 0.1 to 5, and most take little."""
    chance = Random(seed * 1_000_003 + number)
    least, most = chance.choices(((0.1, 0.4), (0.4, 2.0), (2.0, 5.0)), (6, 3, 1))[0]
    return scale * chance.uniform(least, most)


@dataclass
class Scene:
    """One subject, one durable subscription to it, and all processes that have shared it."""

    yard: Yard
    name: str
    seed: int
    scale: float
    lives: list[Life] = field(default_factory=list)

    def start(self) -> Life:
        """Start a subscriber."""
        diary = self.yard.bus.path / f"{self.name}-{len(self.lives)}.jsonl"
        diary.touch()
        credentials = str(self.yard.bus.credentials("worker"))
        given = (credentials, f"work.{self.name}", str(diary), self.seed, self.scale)
        process = PROCESSES.Process(target=subscriber, args=given, daemon=True)
        process.start()
        life = Life(process, diary)
        self.lives.append(life)
        return life

    def begun(self) -> set[int]:
        """The messages with which a handler was called."""
        return {line.number for life in self.lives for line in life.lines if line.what == "begin"}

    def ended(self) -> set[int]:
        """The messages that a handler has finished."""
        return {line.number for life in self.lives for line in life.lines if line.what == "end"}


def subscriber(credentials: str, subject: str, diary: str, seed: int, scale: float) -> None:
    """A process that handles messages slowly until it is told to stop."""
    with Path(diary).open("ab", buffering=0) as file:

        def note(what: str, number: int = -1) -> None:
            line = {"at": time.monotonic(), "what": what, "number": number}
            file.write(json.dumps(line).encode() + b"\n")

        async def work() -> None:
            bot = Bot.from_file(credentials)

            @bot.on_connected
            def ready() -> None:
                note("ready")

            @bot.subscribe(subject, durable=DURABLE, start="all")
            async def handle(message: Message) -> None:
                number = message.payload["number"]
                note("begin", number)
                await asyncio.sleep(handling_s(seed, number, scale))
                note("end", number)

            await bot.run()

        asyncio.run(work())
