"""A running bus is stopped at each single step of an acceptance, with copies and retries in flight.

::

    python -m tests.faults.steps --list
    python -m tests.faults.steps [--only stamped] [--at-once 4] [--json]

A relay, nats-server or a handler's process is stopped (SIGSTOP) exactly at a step: see
:mod:`tests.faults.traps`. A second relay and a second handler's process go on. During the stop the
sender tries again by itself, and an attacker submits copies of all that the sender sent. He does so
once more after the stop.

The program makes each stop longer than the ledger remembers, under the shortest limits that an
honest message survives. Meanwhile it replaces the handlers' processes. In ``test_steps.py`` each
stop lasts until the other relay has done the work, or for a second.

The checks of each step are:

* No nonce is stored twice without being void, or handled through two acceptances.
* No accepted message is lost.
* No refused message is handled.
* No honest message is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from sealbus import Bot, InvalidInput, NotConnected, Refused, Unresolved
from sealbus.life.session import Session
from tests.faults.market import (
    LIMITS,
    Hearer,
    Market,
    Wiretap,
    raw_session,
    read_store,
    send_raw,
    wiretap,
)
from tests.faults.places import CLOSING, OF_SUBSCRIBERS, STEPS, Step
from tests.faults.traps import Traps, trapped_hearer
from tests.faults.yard import say
from tests.waiting import PATIENCE_S, until

PUBLISH_S: Final = {False: 120.0, True: 30.0}
"""How long the sender waits for its verdict, stored and live: the lives of a nonce."""

MARGIN_S: Final = 1.5
"""How much longer than the ledger's memory a stop lasts, in seconds."""

COPY_S: Final = 0.25
"""The time between two rounds of copies during a stop."""


@dataclass
class Result:
    """The results of one step."""

    step: Step
    stopped_s: float = 0.0
    outcome: str = "unresolved"
    copies: int = 0
    handled: int = 0
    wrong: list[str] = field(default_factory=list)


class Lane:
    """Steps one after the other on one bus."""

    def __init__(self, market: Market, steps: Iterator[Step], *, long: bool) -> None:
        """``steps`` may be shared by several lanes: each lane takes the next one."""
        self.results: list[Result] = []
        self._steps = steps
        self._market = market
        (self._bot,) = market.traders
        self._long = long
        self._traps = Traps(market.bus.path)
        self._hearers: list[Hearer] = []
        """The living ones."""
        self._started: list[Hearer] = []
        """All of them, with the lines that they wrote down."""
        market.relay_module = ("tests.faults.traps",)

    async def play(self, tap: Wiretap) -> None:
        """Stop at each step, and check the results."""
        market = self._market
        await asyncio.gather(*(market.start_relay(f"relay-{number}") for number in range(2)))
        self._start_hearers()
        try:
            await until(
                lambda: all(hearer.ready for hearer in self._hearers), "the handlers are connected"
            )
            stolen = market.credentials(self._bot)
            async with market.bot(self._bot) as bot, raw_session(stolen) as session:
                for number, step in enumerate(self._steps):
                    self.results.append(Result(step))
                    await self._stop_at(number, self.results[-1], bot, session, tap)
                await self._end()
            await self._check()
        finally:
            for hearer in self._started:
                hearer.process.kill()

    def _start_hearers(self) -> None:
        """Replace the handlers' processes. New ones do not remember the handled messages."""
        for hearer in self._hearers:
            hearer.process.kill()
        number = len(self._started)
        self._hearers = [
            Hearer.start(self._market, f"hearer-{at}", trapped_hearer)
            for at in (number, number + 1)
        ]
        self._started += self._hearers

    # ---- one step --------------------------------------------------------------------------------

    async def _stop_at(
        self, number: int, result: Result, bot: Bot, session: Session, tap: Wiretap
    ) -> None:
        # With an empty INGRESS, the next message is judged alone.
        await until(self._is_quiet, "the copies from the step before are judged")
        step, known = result.step, set(tap.captured.get(self._bot, ()))
        server = self._market.server.pid if step.server else None

        async def copies() -> None:
            for data, live in list(tap.captured.get(self._bot, {}).items()):
                if data not in known and live == step.live:
                    result.copies += await send_raw(session, self._bot, data, live=live)

        if step.copy or step.restart:
            await self._publish(number, result, bot)
            await until(lambda: self._is_handled(number), f"message {number} is handled")
        self._traps.arm(step.after or step.trap, server)
        publishing = asyncio.create_task(asyncio.sleep(0))
        if step.copy:
            await copies()
        elif step.restart:
            assert self._market.server.pid is not None
            os.kill(self._market.server.pid, signal.SIGKILL)
            await self._market.restart_server()
        else:
            publishing = asyncio.create_task(self._publish(number, result, bot))
        async with self._stopped(step.after):
            if step.after:
                self._traps.arm(step.trap, None)
            async with self._stopped(step.trap, result):
                if self._long and step not in OF_SUBSCRIBERS:
                    self._start_hearers()
                pause_s = self._longest_s(step) if self._long else step.pause_s
                ends = time.monotonic() + (pause_s or PATIENCE_S)
                while time.monotonic() < ends and (pause_s or not publishing.done()):
                    await copies()
                    await asyncio.sleep(COPY_S)
        await until(lambda: session.is_up, "the attacker is connected")
        await copies()
        await publishing

    def _longest_s(self, step: Step) -> float:
        """Longer than the ledger of such a message remembers, in seconds."""
        policy = self._market.policy()
        window_ms = policy.live_window_ms if step.live else policy.ledger_window_ms
        return window_ms / 1000 + MARGIN_S

    @asynccontextmanager
    async def _stopped(self, trap: str, result: Result | None = None) -> AsyncIterator[None]:
        """Inside the block a process is stopped at ``trap``, if there is one.

        ``result`` gets the duration.
        """
        if not trap:
            yield
            return
        deadline = time.monotonic() + PATIENCE_S
        while (pid := self._traps.sprung(trap)) is None:
            assert time.monotonic() < deadline, f"nobody came to {trap}"
            await asyncio.sleep(0.01)
        try:
            await until(lambda: _is_stopped(pid), f"process {pid} is stopped")
            began = time.monotonic()
            yield
            if result is not None:
                result.stopped_s = time.monotonic() - began
        finally:
            os.kill(pid, signal.SIGCONT)

    async def _is_quiet(self) -> bool:
        return await self._market.stored("INGRESS") == 0

    async def _publish(self, number: int, result: Result, bot: Bot) -> None:
        step = result.step
        payload: object = [number] if step.bad else {"number": number}
        try:
            await bot.publish(
                f"{'pulse' if step.live else 'work'}.{self._bot}",
                payload,
                timeout=PUBLISH_S[step.live],
            )
        except Refused:
            result.outcome = "refused"
        except (Unresolved, InvalidInput, NotConnected):
            result.outcome = "unresolved"
        else:
            result.outcome = "accepted"

    def _is_handled(self, number: int) -> bool:
        return any(line.number == number for hearer in self._started for line in hearer.lines)

    # ---- the promises ----------------------------------------------------------------------------

    async def _end(self) -> None:
        """Wait for everything that is under way.

        Owed messages are handled, relays finish their messages, and then the handlers end.
        """
        owed = [n for n, result in enumerate(self.results) if _is_owed(result)]
        with contextlib.suppress(AssertionError):  # the check reports lost messages
            await until(
                lambda: all(self._is_handled(number) for number in owed),
                "the accepted messages are handled",
            )
        for relay in self._market.relays:
            relay.terminate()
        await asyncio.gather(*(relay.wait() for relay in self._market.relays))
        for hearer in self._hearers:
            os.kill(hearer.pid, signal.SIGTERM)
        await until(
            lambda: not any(hearer.process.is_alive() for hearer in self._hearers),
            "the handlers have ended",
        )

    async def _check(self) -> None:
        handled: dict[int, dict[str, set[str]]] = {}
        for hearer in self._started:
            for line in hearer.lines:
                handled.setdefault(line.number, {}).setdefault(line.nonce, set()).add(line.stamp)
        stored = await read_store(self._market)
        valid = Counter(copy.nonce for copy in stored if not copy.is_void)
        for number, result in enumerate(self.results):
            nonces = handled.get(number, {})
            result.handled = len(nonces)
            for nonce, stamps in nonces.items():
                if len(stamps) > 1:
                    result.wrong.append(f"handled through {len(stamps)} acceptances: {nonce}")
                if valid[nonce] > 1:
                    result.wrong.append(f"stored {valid[nonce]} times, and not void: {nonce}")
            if len(nonces) > 1:
                result.wrong.append(f"handled under {len(nonces)} nonces")
            if _is_owed(result) and not nonces:
                result.wrong.append("accepted, and lost")
            if result.outcome == "refused" and (nonces or not result.step.bad):
                result.wrong.append(
                    "refused, and handled" if nonces else "an honest message is refused"
                )


def _is_owed(result: Result) -> bool:
    return result.outcome == "accepted" and not result.step.live


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")
    return False


async def play(
    folder: Path, first: int, steps: Iterator[Step], tap: Wiretap, limits: str, *, long: bool
) -> list[Result]:
    """Stop a bus of its own at each of ``steps``.

    With ``long``, each stop is longer than the ledgers remember. ``first`` is the sender's number.
    """
    async with Market(folder, 1, limits, first) as market:
        lane = Lane(market, steps, long=long)
        await lane.play(tap)
    return lane.results


# ---- the program ---------------------------------------------------------------------------------


async def _play_all(steps: Sequence[Step], at_once: int) -> list[Result]:
    places, results = asyncio.Semaphore(at_once), list[Result]()

    async def one(number: int, step: Step) -> None:
        async with places:
            with tempfile.TemporaryDirectory() as folder:
                (result,) = await play(
                    Path(folder) / "market", number, iter([step]), tap, LIMITS, long=True
                )
        results.append(result)
        sys.stderr.write(f"{len(results)} of {len(steps)}: {step.name}\n")

    with wiretap() as tap:
        await asyncio.gather(*(one(number, step) for number, step in enumerate(steps)))
    return sorted(results, key=lambda result: steps.index(result.step))


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    names = {step.name: step for step in (*STEPS, CLOSING)}
    parser = argparse.ArgumentParser(
        description="Stop a running bus at each step of an acceptance."
    )
    parser.add_argument("--only", choices=names, metavar="STEP", action="append")
    parser.add_argument("--at-once", type=int, default=4, help="buses at a time")
    parser.add_argument("--list", action="store_true", help="the steps, each with a description")
    parser.add_argument("--json", action="store_true", help="one object a line instead of a table")
    given = parser.parse_args()
    if given.list:
        for step in names.values():
            say(f"{step.name:<20} {step.number:<5} {step.where}")
        return 0
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    results = asyncio.run(_play_all([names[name] for name in given.only or names], given.at_once))
    for result in results:
        if given.json:
            say(json.dumps({**vars(result), "step": result.step.name}))
        else:
            what = "; ".join(result.wrong) or "ok"
            stopped = f"{result.stopped_s:6.1f} s, {result.copies:5} copies, {result.outcome}"
            say(f"{result.step.name:<20}{stopped}, handled {result.handled}: {what}")
    return 1 if any(result.wrong for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
