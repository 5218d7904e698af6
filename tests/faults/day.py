"""One bus on a bad day: its faults, its bots and their attackers, and the checks at the end.

Each bot publishes. Its attacker submits captured copies, most of all just before a process stops.
:mod:`tests.faults.schedules` plays many such days.

The checks of each run are:

* No nonce reaches handlers through two acceptances, which are two deliveries with different stamps.
* No nonce is stored twice, except for copies that are void because they were stored too late.
* Every accepted message reaches a handler.
* No message that was told as refused is handled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random  # noqa: TID251  # a seed makes a run repeatable
from typing import Final

from sealbus import Bot, InvalidInput, Refused, Unresolved
from sealbus.life.session import Session
from sealbus.protocol.envelope import Envelope
from tests.faults.market import Hearer, Market, Wiretap, raw_session, read_store, send_raw
from tests.faults.pauses import Fault, plan
from tests.waiting import PATIENCE_S, until

PUBLISH_S: Final = 20.0
"""How long the honest bot waits for a verdict."""

FRESH_MS: Final = {False: 2_000, True: 5_000}
"""How old a copy may be, stored and live, in ms: the times-to-live of the limits."""

SPEAKS_S: Final = (0.4, 3.0)
COPIES_S: Final = (0.2, 3.0)
"""The time between two messages of a bot, and between two copies of its attacker.

This is for 25 bots on a bus. With more bots the times are longer.
"""

LEAD_S: Final = (0.0, 0.15)
"""The time from the alarm until a process stops.

The messages that are sent meanwhile are at any step of their way.
"""

COPIES: Final = 8
"""How often each fresh envelope is submitted after an alarm."""

Edits = Mapping[str, Sequence[str]]
"""Limits that an operator changes, and the values of each."""

EDITS: Final[Edits] = {
    "ttl": ("2s", "4s", "8s"),
    "live_ttl": ("5s", "10s"),
    "ingress_wait": ("2s", "6s"),
}
"""Those of the program."""

EDITED_FRESH_MS: Final = {False: 8_000, True: 10_000}
"""How old a copy may be then, as :data:`FRESH_MS`."""

EDITED_S: Final = (0.5, 3.0)
"""The time between two changes."""

LIVE_SHARE: Final = 0.4
"""The share of the messages that are sent live."""


TWICE, STORED = "handled twice", "stored twice"
LOST, DENIED = "lost", "refused and handled"


@dataclass
class Run:
    """One bot and its attacker, and their results."""

    seed: int
    bot: str
    outcomes: dict[int, str] = field(default_factory=dict)
    """By number: ``accepted``, ``refused`` or ``unresolved``."""
    reasons: list[str] = field(default_factory=list)
    """The reasons of the refusals."""
    live: set[int] = field(default_factory=set)
    """The numbers that were sent live."""
    copies: int = 0
    void: int = 0
    """The number of copies in ACCEPTED that were stored too late."""
    wrong: list[str] = field(default_factory=list)


class Day:
    """One bus, its faults, and the runs that share it."""

    def __init__(
        self,
        market: Market,
        seeds: range,
        faults: Sequence[Fault] | None = None,
        *,
        edits: Edits | None = None,
    ) -> None:
        """``faults`` are drawn from the first seed, unless given. ``edits``: the limits that an
        operator changes meanwhile."""
        seed = seeds.start
        self.market = market
        self.window_s = market.policy().ledger_window_ms / 1000
        self.faults = plan(seed, self.window_s) if faults is None else faults
        self.runs = [Run(one, bot) for one, bot in zip(seeds, market.traders, strict=True)]
        self.stops = self.kills = self.edits = 0
        self.longest_stop_s = 0.0
        self._seed = seed
        self._edits = edits
        self._fresh_ms = FRESH_MS if edits is None else EDITED_FRESH_MS
        self._hearers: list[Hearer] = []
        """The living ones."""
        self._started: list[Hearer] = []
        """All of them, with the lines that they wrote down."""
        self._relays = 0
        self._over = asyncio.Event()
        self._alarm = asyncio.Condition()
        """Notified just before a process stops: then bots publish, and attackers submit copies."""

    async def play(self, tap: Wiretap) -> None:
        """Play the day, and check its results."""
        for _ in range(2):
            await self._start_relay()
        self._hearers = [self._start_hearer() for _ in range(2)]
        try:
            await until(
                lambda: all(hearer.ready for hearer in self._hearers), "the handlers are connected"
            )
            async with AsyncExitStack() as stack:
                acting = [
                    await stack.enter_async_context(self._at_work(run, tap)) for run in self.runs
                ]
                editing = asyncio.ensure_future(self._edit())
                await self._befall()
                self._over.set()
                await editing
                async with self._alarm:
                    self._alarm.notify_all()
                await asyncio.gather(*acting)
                await self._wait_for_handlers()
            await self._check()
            logs = self.market.bus.path.glob("*.log")
            self.edits = sum(log.read_text().count("policy.changed") for log in logs)
        finally:
            for hearer in self._started:
                hearer.process.kill()

    # ---- faults --------------------------------------------------------------------------------

    async def _befall(self) -> None:
        chance = Random(self._seed)
        for fault in self.faults:
            await asyncio.sleep(fault.after_s)
            async with self._alarm:
                self._alarm.notify_all()
            await asyncio.sleep(chance.uniform(*LEAD_S))
            if fault.pause_s is None:
                self.kills += 1
                await self._kill(fault.target, chance)
            else:
                self.stops += 1
                self.longest_stop_s = max(self.longest_stop_s, fault.pause_s)
                await self._stop(fault, chance)
        await asyncio.sleep(3.0)  # the work that the last fault delayed goes on

    async def _edit(self) -> None:
        """Change a limit, again and again, as an editor does: by another file in its place."""
        chance = Random(self._seed + 2)
        policy, beside = self.market.bus.path / "policy.yaml", self.market.bus.state / "edited"
        while self._edits is not None and not self._over.is_set():
            await asyncio.sleep(chance.uniform(*EDITED_S))
            limit, values = chance.choice(list(self._edits.items()))
            changed = f"  {limit}: {chance.choice(values)}"
            beside.write_text(
                re.sub(rf"^  {limit}: .*$", changed, policy.read_text(), flags=re.MULTILINE)
            )
            beside.replace(policy)

    async def _stop(self, fault: Fault, chance: Random) -> None:
        pids = [pid for target in fault.target.split("+") for pid in self._pids(target, chance)]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.0, 0.05))
            assert fault.pause_s is not None
            await asyncio.sleep(fault.pause_s)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _pids(self, target: str, chance: Random) -> list[int]:
        living = [relay.pid for relay in self.market.relays if relay.returncode is None]
        if target == "relays":
            return living
        if target == "relay":
            return [chance.choice(living)]
        if target == "hearer":
            return [chance.choice(self._hearers).pid]
        assert self.market.server.pid is not None
        return [self.market.server.pid]

    async def _kill(self, target: str, chance: Random) -> None:
        if target == "hearer":
            at = chance.randrange(len(self._hearers))
            self._hearers[at].process.kill()
            self._hearers[at] = self._start_hearer()
        elif target == "relay":
            relay = chance.choice(
                [relay for relay in self.market.relays if relay.returncode is None]
            )
            relay.kill()
            await relay.wait()
            await self._start_relay()
        else:
            assert self.market.server.pid is not None
            os.kill(self.market.server.pid, signal.SIGKILL)
            await self.market.restart_server()

    async def _start_relay(self) -> None:
        self._relays += 1
        await self.market.start_relay(f"relay-{self._relays}")

    def _start_hearer(self) -> Hearer:
        hearer = Hearer.start(self.market, f"hearer-{len(self._started)}")
        self._started.append(hearer)
        return hearer

    # ---- one run ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _at_work(
        self, run: Run, tap: Wiretap
    ) -> AsyncIterator[asyncio.Future[tuple[None, None]]]:
        bot = self.market.bot(run.bot)
        await bot.connect(timeout=PATIENCE_S)
        try:
            async with raw_session(self.market.credentials(run.bot)) as session:
                yield asyncio.gather(self._speak(run, bot), self._attack(run, tap, session))
        finally:
            await bot.close()

    async def _speak(self, run: Run, bot: Bot) -> None:
        chance, number = Random(run.seed), 0
        pause_s = len(self.runs) / 25
        async with asyncio.TaskGroup() as verdicts:
            while not self._over.is_set():
                live = chance.random() < LIVE_SHARE
                if live:
                    run.live.add(number)
                run.outcomes[number] = "unresolved"
                verdicts.create_task(_publish(run, bot, number, resumes=chance.random() < 0.5))
                number += 1
                await self._alarmed_within(chance.uniform(*SPEAKS_S) * pause_s)

    async def _attack(self, run: Run, tap: Wiretap, session: Session) -> None:
        chance, pause_s = Random(run.seed + 1), len(self.runs) / 25
        while not self._over.is_set():
            if await self._alarmed_within(chance.uniform(*COPIES_S) * pause_s):
                for _ in range(COPIES):
                    for data, live in _fresh(tap, run.bot, self._fresh_ms):
                        run.copies += await send_raw(session, run.bot, data, live=live)
                    await asyncio.sleep(chance.uniform(0.0, 2 * LEAD_S[1] / COPIES))
            elif fresh := _fresh(tap, run.bot, self._fresh_ms):
                data, live = chance.choice(fresh)
                run.copies += await send_raw(session, run.bot, data, live=live)

    async def _alarmed_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._alarm:
                return await self._alarm.wait()
        return False

    # ---- the promises ----------------------------------------------------------------------------

    async def _wait_for_handlers(self) -> None:
        """Wait until every accepted message is handled, or until patience is over."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            handled = {(line.bot, line.number) for hearer in self._started for line in hearer.lines}
            if all((run.bot, number) in handled for run in self.runs for number in _owed(run)):
                return
            await asyncio.sleep(0.2)

    async def _check(self) -> None:
        stamps: dict[tuple[str, str], set[str]] = defaultdict(set)
        handled: dict[str, set[int]] = defaultdict(set)
        for hearer in self._started:
            for line in hearer.lines:
                stamps[line.bot, line.nonce].add(line.stamp)
                handled[line.bot].add(line.number)
        stored = await read_store(self.market)
        valid = Counter((copy.bot, copy.nonce) for copy in stored if not copy.is_void)
        for run in self.runs:
            run.void = sum(copy.is_void for copy in stored if copy.bot == run.bot)
            run.wrong += [
                f"{STORED}: {nonce}, {count} times"
                for (bot, nonce), count in valid.items()
                if bot == run.bot and count > 1
            ]
            for (bot, nonce), them in stamps.items():
                if bot == run.bot and len(them) > 1:
                    run.wrong.append(f"{TWICE}: {nonce}, through {len(them)} acceptances")
            run.wrong += [
                f"{LOST}: message {number}"
                for number in _owed(run)
                if number not in handled[run.bot]
            ]
            run.wrong += [
                f"{DENIED}: message {number}"
                for number, outcome in run.outcomes.items()
                if outcome == "refused" and number in handled[run.bot]
            ]


async def _publish(run: Run, bot: Bot, number: int, *, resumes: bool) -> None:
    """Publish one message.

    With ``resumes``, it is published once more under its nonce if there is no verdict.
    """
    nonce: bytes | None = None
    live = number in run.live
    way = "pulse" if live else "work"
    # The shortest that an operator allows. A longer one is refused by one policy, and a copy of it
    # may be accepted by the next (docs/threats.md).
    ttl_s = FRESH_MS[live] / 1000
    for _ in range(1 + resumes):
        try:
            await bot.publish(
                f"{way}.{run.bot}", {"number": number}, ttl=ttl_s, timeout=PUBLISH_S, nonce=nonce
            )
        except Refused as refused:
            run.outcomes[number] = "refused"
            run.reasons.append(refused.reason.value)
            return
        except Unresolved as unresolved:
            nonce = unresolved.nonce
        except InvalidInput:  # too late to ask again
            return
        else:
            run.outcomes[number] = "accepted"
            return


def _owed(run: Run) -> list[int]:
    """The messages that a handler must get.

    A live message is only delivered to bots that are connected.
    """
    return [n for n, outcome in run.outcomes.items() if outcome == "accepted" and n not in run.live]


def _fresh(tap: Wiretap, bot: str, most_ms: Mapping[bool, int]) -> list[tuple[bytes, bool]]:
    now_ms = time.time_ns() // 1_000_000
    found: list[tuple[bytes, bool]] = []
    for data, live in reversed(tap.captured.get(bot, {}).items()):
        age_ms = now_ms - Envelope.decode(data).header.issued_at_ms
        if age_ms > max(most_ms.values()):
            break
        if age_ms <= most_ms[live]:
            found.append((data, live))
    return found
