"""The processes of the bots, and of an attacker.

Each runs until it is told to stop (SIGTERM), and writes down all that it sees
(:mod:`tests.faults.histories.history`). A sender that is told to stop begins no message, and ends
when each of its messages has an outcome.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

from sealbus import (
    Bot,
    Credentials,
    InvalidInput,
    Message,
    NotConnected,
    Refused,
    SealbusError,
    Stamp,
    Unresolved,
)
from sealbus.life.session import Session
from sealbus.protocol.envelope import Envelope
from tests.faults.histories.cables import enter
from tests.faults.histories.history import Diary
from tests.faults.histories.plants import plant
from tests.faults.market import Wiretap, raw_session, send_raw, wiretap

PUBLISH_S: Final = 6.0
"""How long a sender waits for a verdict before it resumes: less than many faults last."""

PATIENT_S: Final = 30.0
"""The same where a mistake is planted. A message without an unresolved attempt has a place in the
order, and a mistaken relay is slow."""

RESUME_S: Final = 10.0
"""How long one attempt to find out an outcome takes."""

DOUBTS: Final = 2
"""How often a sender resumes a message that is refused while the receipt of an earlier attempt is
missing. The client takes no such refusal for the outcome, and the nonce lives for two minutes."""

ASK_S: Final = 4.0
WORK_S: Final = 0.06
"""The longest work of a handler of the shared subscription, in seconds."""

UNDER_WAY: Final = 24
"""How many messages a pipelining sender has under way."""

BUNDLE: Final = 40
FAILS: Final = 23
"""Each message whose number this divides fails at its first attempt."""
POISON: Final = 151
"""Each message whose number this divides always fails."""
BAD: Final = 17
"""Each message whose number has this remainder to 29 breaks its schema."""

FRESH_MS: Final = 50_000
"""The oldest copy that the attacker submits. An envelope lives for a minute."""

DURABLE: Final = "d"


@dataclass(frozen=True)
class Given:
    """The arguments of a process."""

    bot: str
    credentials: str
    diary: str
    seed: int
    first: int = 0
    """The number of a sender's first message."""
    mode: str = ""
    namespace: str = ""
    plant: str = ""


# ---- senders -------------------------------------------------------------------------------------


def sender(given: Given) -> None:
    """Publish in one way until told to stop."""
    _begin(given)
    with wiretap() as tap:
        asyncio.run(_Sender(given).run(tap))


class _Sender:
    """One process of a sender."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._chance = Random(given.seed)
        self._diary = Diary(Path(given.diary))
        self._number = given.first
        self._timeout_s = PATIENT_S if given.plant else PUBLISH_S
        self._stopping = asyncio.Event()
        self._bot = Bot.from_file(given.credentials)
        self._bot.on_lost(lambda: self._diary.note("lost"))
        self._subject = f"work.{given.bot}"

    async def run(self, tap: Wiretap) -> None:
        _on_stop(self._stopping, self._diary)
        copying = asyncio.create_task(self._copy(tap))
        try:
            await self._bot.connect(timeout=None)
        except (SealbusError, asyncio.CancelledError):
            self._diary.note("denied")
            return
        self._diary.note("ready")
        way: dict[str, Callable[[], Awaitable[None]]] = {
            "await": self._await,
            "pipeline": self._pipeline,
            "burst": self._burst,
            "ask": self._ask,
        }
        await way[self._given.mode]()
        copying.cancel()
        await self._bot.close()

    async def _copy(self, tap: Wiretap) -> None:
        """Write the sent envelopes down for the attacker."""
        known: set[bytes] = set()
        with Path(self._given.diary).with_suffix(".wire").open("ab", buffering=0) as wire:
            while True:
                for data, live in list(tap.captured.get(self._given.bot, {}).items()):
                    if data not in known:
                        known.add(data)
                        wire.write(b"%d %b\n" % (live, base64.b64encode(data)))
                await asyncio.sleep(0.05)

    def _next(self) -> tuple[int, object]:
        number = self._number
        self._number += 1
        return number, [number] if number % 29 == BAD else {"number": number}

    async def _await(self) -> None:
        while not self._stopping.is_set():
            await self._publish(*self._next())
            await asyncio.sleep(self._chance.uniform(0.01, 0.06))

    async def _pipeline(self) -> None:
        under_way = asyncio.Semaphore(UNDER_WAY)

        async def one(number: int, payload: object) -> None:
            try:
                await self._publish(number, payload)
            finally:
                under_way.release()

        async with asyncio.TaskGroup() as tasks:
            while not self._stopping.is_set():
                await under_way.acquire()
                tasks.create_task(one(*self._next()))
                # Each in a turn of its own, so that their order is that of their numbers.
                await asyncio.sleep(self._chance.choice((0.001, 0.03, 0.12)))

    async def _burst(self) -> None:
        while not self._stopping.is_set():
            batch = [self._next() for _ in range(self._chance.randint(2, BUNDLE))]
            for number, _ in batch:
                self._diary.note("begin", number)
            try:
                outcomes: list[Stamp | SealbusError] = await self._bot.publish_many(
                    self._subject, [payload for _, payload in batch], timeout=self._timeout_s
                )
            except (InvalidInput, NotConnected) as error:
                outcomes = [error] * len(batch)
            await asyncio.gather(
                *(self._settle(n, out) for (n, _), out in zip(batch, outcomes, strict=False))
            )
            await asyncio.sleep(self._chance.uniform(0.1, 0.8))

    async def _ask(self) -> None:
        while not self._stopping.is_set():
            number, payload = self._next()
            if self._chance.random() < 0.5:
                await self._publish(number, payload, live=True)
            else:
                self._diary.note("ask", number)
                try:
                    answer = await self._bot.request("ask.check", {"number": number}, timeout=ASK_S)
                    ended = "answered" if answer.payload["number"] == number else "WRONG"
                except SealbusError as error:
                    ended = type(error).__name__
                self._diary.note("asked", number, reason=ended)
            await asyncio.sleep(self._chance.uniform(0.02, 0.2))

    async def _publish(self, number: int, payload: object, *, live: bool = False) -> None:
        self._diary.note("begin", number, live=live)
        subject = f"pulse.{self._given.bot}" if live else self._subject
        outcome: Stamp | SealbusError
        try:
            outcome = await self._bot.publish(subject, payload, timeout=self._timeout_s)
        except SealbusError as error:
            outcome = error
        await self._settle(number, outcome, live=live)

    async def _settle(
        self, number: int, outcome: Stamp | SealbusError, *, live: bool = False
    ) -> None:
        """Write the outcome of a message down. Resume it until there is one."""
        note, resumed = self._diary.note, 0
        while isinstance(outcome, Unresolved):
            note("unresolved", number, nonce=outcome.nonce.hex(), index=outcome.index, live=live)
            cause = outcome.__cause__
            if isinstance(cause, Refused) and resumed >= DOUBTS:
                return note("doubted", number, reason=cause.reason.value, live=live)
            resumed += 1
            try:
                outcome = await self._bot.resume(outcome, timeout=RESUME_S)
            except NotConnected:
                return note("closed", number, live=live)
            except InvalidInput:
                return note("too-late", number, live=live)
            except (Refused, Unresolved) as error:
                outcome = error
        if isinstance(outcome, Refused):
            stamp = outcome.stamp
            note(
                "refused",
                number,
                nonce=stamp.nonce.hex(),
                index=outcome.index,
                reason=outcome.reason.value,
                record=outcome.record,
                digest=stamp.envelope.hex(),
                live=live,
            )
        elif isinstance(outcome, SealbusError):
            note("unsent", number, reason=type(outcome).__name__, live=live)
        else:
            note("accepted", number, nonce=outcome.nonce.hex(), live=live)
        return None


# ---- subscribers ---------------------------------------------------------------------------------


def subscriber(given: Given) -> None:
    """Handle messages until told to stop.

    In the mode ``one`` a message is handled at a time, in order. It also hears live messages and
    answers questions. In the mode ``shared`` eight are handled at a time, slowly, and some fail.
    """
    _begin(given)
    plant(given.plant)
    asyncio.run(_subscribe(given))


async def _subscribe(given: Given) -> None:
    diary, chance = Diary(Path(given.diary)), Random(given.seed)
    bot = Bot.from_file(given.credentials)
    bot.on_connected(lambda: diary.note("ready"))
    bot.on_lost(lambda: diary.note("lost"))
    shared = given.mode == "shared"

    @bot.subscribe("work.*", durable=DURABLE, start="all", concurrency=8 if shared else 1)
    async def handle(message: Message) -> None:
        _note(diary, "handle", message)
        if shared:
            await asyncio.sleep(chance.uniform(0.0, WORK_S))
            number = message.payload["number"]
            if number % POISON == 0 or (number % FAILS == 0 and message.attempt == 1):
                _note(diary, "failed", message)
                raise RuntimeError("as intended")
        _note(diary, "handled", message)

    if not shared:

        @bot.subscribe("pulse.*", live=True)
        async def hear(message: Message) -> None:
            _note(diary, "handle", message, live=True)
            _note(diary, "handled", message, live=True)

        @bot.reply("ask.check")
        async def answer(message: Message) -> dict[str, object]:
            return {"number": message.payload["number"]}

    await bot.run()


def _note(diary: Diary, what: str, message: Message, *, live: bool = False) -> None:
    diary.note(
        what,
        message.payload["number"],
        bot=message.bot,
        nonce=message.nonce.hex(),
        index=message.index,
        stamp=hashlib.sha256(message.stamp_data).hexdigest()[:16],
        live=live,
    )


# ---- the attacker --------------------------------------------------------------------------------


def attacker(given: Given) -> None:
    """Submit copies of fresh envelopes of all senders, with sessions of theirs, until killed.

    ``given.credentials`` are the paths of the senders' credentials, and ``given.diary`` is in the
    folder of their wires.
    """
    _begin(given)
    asyncio.run(_attack(given))


async def _attack(given: Given) -> None:
    diary, chance = Diary(Path(given.diary)), Random(given.seed)
    folder = Path(given.diary).parent
    async with AsyncExitStack() as stack:
        sessions: dict[str, Session] = {}
        for path in given.credentials.split("\n"):
            credentials = Credentials.load(path)
            opened = raw_session(credentials)
            sessions[credentials.bot] = await stack.enter_async_context(opened)
        while True:
            await asyncio.sleep(chance.uniform(0.02, 0.5))
            bot = chance.choice(list(sessions))
            fresh = [
                (data, live)
                for wire in folder.glob(f"{bot}-*.wire")
                for data, live in _captured(wire)
            ][-30:]
            for data, live in chance.sample(fresh, min(len(fresh), 4)):
                header = Envelope.decode(data).header
                if time.time_ns() // 1_000_000 - header.issued_at_ms < FRESH_MS:
                    diary.note("copy", bot=bot, nonce=header.nonce.hex(), live=live)
                    await send_raw(sessions[bot], bot, data, live=live)


def _captured(wire: Path) -> list[tuple[bytes, bool]]:
    found: list[tuple[bytes, bool]] = []
    for line in wire.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            live, _, data = line.strip().partition(b" ")
            found.append((base64.b64decode(data), live == b"1"))
    return found


def _begin(given: Given) -> None:
    enter(given.namespace)
    logging.disable(logging.CRITICAL)  # lost connections are intended


def _on_stop(stopping: asyncio.Event, diary: Diary) -> None:
    def stop() -> None:
        diary.note("stopping")
        stopping.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
