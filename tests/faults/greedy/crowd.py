"""Honest bots at work: they send, ask and wait, and measure how long each of it takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from sealbus import Bot, ConnectionFailed, Message, Refused, SealbusError
from sealbus.supervision import end
from tests.faults.greedy.stage import HANDLER, Stage
from tests.waiting import PATIENCE_S

SPEAK_S: Final = 0.2
"""The time between two durable messages of one bot, in seconds."""

ASK_S: Final = 1.0
LOGIN_S: Final = 1.0
"""The times between two requests of one bot, and between two logins of any bot."""

PUBLISH_S: Final = 60.0
"""How long a durable message may take. Its bot repeats it meanwhile, as bots do."""

REQUEST_S: Final = 10.0
"""How long a request may take, with all its attempts.

Live messages may be lost, so its bot repeats it too.
"""


@dataclass
class Notes:
    """The observations of the honest bots in one phase. Times are in seconds."""

    published: list[float] = field(default_factory=list)
    """Times from ``publish()`` to the verdict."""
    asked: list[float] = field(default_factory=list)
    """Times from ``request()`` to the answer."""
    connected: list[float] = field(default_factory=list)
    """Times from ``connect()`` until the bot may send."""
    refused: Counter[str] = field(default_factory=Counter)
    """Durable messages that were refused, by reason."""
    unknown: int = 0
    """Durable messages without a verdict in time."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by the error that their bot got."""
    locked_out: int = 0
    """Logins that did not succeed in time."""

    def went_wrong(self) -> Iterator[str]:
        """Everything that an honest bot failed to do."""
        yield from (
            f"{count} messages refused ({reason})" for reason, count in self.refused.items()
        )
        if self.unknown:
            yield f"{self.unknown} messages without a verdict"
        yield from (f"{count} requests: {what}" for what, count in self.unanswered.items())
        if self.locked_out:
            yield f"{self.locked_out} logins failed"


class Crowd:
    """The honest bots, from their first login on: a context manager."""

    def __init__(self, stage: Stage, speak_s: float = SPEAK_S, ask_s: float = ASK_S) -> None:
        """``speak_s``, ``ask_s``: the times between two messages or requests of one bot."""
        self._stage = stage
        self._speak_s = speak_s
        self._ask_s = ask_s
        self.notes = Notes()
        """The notes of the current phase. Each action is noted in the phase in which it begins."""
        self.lost_connections = 0
        self._over = asyncio.Event()
        self._stack = AsyncExitStack()
        self._bots: list[Bot] = []
        self._working: list[asyncio.Task[None]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._accepted: set[tuple[str, int]] = set()
        self._handled: set[tuple[str, int]] = set()

    async def __aenter__(self) -> Self:
        handler = self._stage.bot(HANDLER)

        @handler.subscribe("work.*", start="all", concurrency=16)
        async def take(message: Message) -> None:
            self._handled.add((message.bot, message.payload["number"]))

        @handler.reply("ask.price")
        async def price(message: Message) -> Any:
            return message.payload

        self._bots = [handler, *(self._stage.bot(name) for name in self._stage.honest)]
        for bot in self._bots:
            bot.on_lost(self._note_lost)
            self._stack.push_async_callback(bot.close)
        await asyncio.gather(*(bot.connect(timeout=PATIENCE_S) for bot in self._bots))
        jobs = [self._speak(bot, at) for at, bot in enumerate(self._bots[1:])]
        jobs += [self._ask(bot, at) for at, bot in enumerate(self._bots[1:])]
        self._working = [asyncio.create_task(job) for job in (*jobs, self._log_in())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(*self._working, *self._under_way)
        await self._stack.aclose()

    def _note_lost(self, _: object = None) -> None:
        self.lost_connections += 1

    async def finish(self) -> int:
        """Stop, and wait for everything that is under way.

        Returns how many accepted messages no handler got.
        """
        self._over.set()
        await asyncio.gather(*self._working)
        await asyncio.gather(*self._under_way)
        deadline = time.monotonic() + PATIENCE_S
        # A lost message never comes, so no event can end this.
        while not self._accepted <= self._handled and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return len(self._accepted - self._handled)

    # ---- the work of each bot --------------------------------------------------------------------

    async def _each(
        self, pause_s: float, first_s: float, do: Callable[[int], Coroutine[Any, Any, None]]
    ) -> None:
        """Do it again and again, regardless of the time that each takes."""
        due = time.monotonic() + first_s
        number = 0
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due - time.monotonic()):
                    await self._over.wait()
                    return
            task = asyncio.create_task(do(number))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            number += 1
            due = max(due + pause_s, time.monotonic())

    async def _speak(self, bot: Bot, at: int) -> None:
        async def publish(number: int) -> None:
            notes = self.notes
            try:
                with _timed(notes.published):
                    await bot.publish(
                        f"work.{bot.name}", {"number": number, "text": "x" * 400}, timeout=PUBLISH_S
                    )
            except Refused as refused:
                notes.refused[refused.reason.value] += 1
            except SealbusError:
                notes.unknown += 1
            else:
                self._accepted.add((bot.name, number))

        await self._each(self._speak_s, self._speak_s * at / len(self._stage.honest), publish)

    async def _ask(self, bot: Bot, at: int) -> None:
        async def ask(number: int) -> None:
            notes = self.notes
            try:
                with _timed(notes.asked):
                    await bot.request("ask.price", {"number": number}, timeout=REQUEST_S)
            except Refused as refused:
                notes.unanswered[f"refused ({refused.reason.value})"] += 1
            except SealbusError as error:
                notes.unanswered[type(error).__name__] += 1

        await self._each(self._ask_s, self._ask_s * at / len(self._stage.honest), ask)

    async def _log_in(self) -> None:
        honest = self._stage.honest

        async def log_in(number: int) -> None:
            notes, bot = self.notes, self._stage.bot(honest[number % len(honest)])
            try:
                with _timed(notes.connected):
                    await bot.connect(timeout=REQUEST_S)
            except ConnectionFailed:
                notes.locked_out += 1
            finally:
                await bot.close()

        await self._each(LOGIN_S, 0.0, log_in)


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    """Note how long the block takes, if it succeeds."""
    began = time.monotonic()
    yield
    into.append(time.monotonic() - began)
