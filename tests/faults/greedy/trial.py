"""One attack on one bus: a quiet phase, the attack, and then the results."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealbus import Bot, Message
from sealbus.supervision import end
from tests.faults.greedy.attacker import Attacker
from tests.faults.greedy.cases import Case, Figure, Seen, resident
from tests.faults.greedy.crowd import Crowd, Notes
from tests.faults.greedy.gauges import Gauges, read_log
from tests.faults.greedy.stage import GREEDY, SLOW, Stage
from tests.fork_server import PROCESSES

QUIET_SHARE: Final = 0.25
QUIET_LEAST_S: Final = 0.25
"""How long the bus is quiet first: a share of the attack's time, and at least these seconds."""

HANDLING_S: Final = 0.2
"""How long the slow bot takes for a message, in seconds."""


@dataclass
class Outcome:
    """The results of one attack."""

    case: Case
    seconds: float
    figures: list[Figure]
    quiet: Notes
    attacked: Notes
    lost: int
    """Honest messages that were accepted but reached no handler."""
    cpu: dict[str, float]
    """Seconds of processor time for each second of the attack, by process."""
    cpu_quiet: dict[str, float]
    seen: Seen

    @property
    def wrong(self) -> list[str]:
        """Broken bounds and promises."""
        found = [f"over its bound: {figure}" for figure in self.figures if not figure.holds]
        found += [f"honest bots: {what}" for what in self.attacked.went_wrong()]
        found += [f"honest bots, before the attack: {what}" for what in self.quiet.went_wrong()]
        if self.lost:
            found.append(f"honest bots: {self.lost} accepted messages LOST")
        return found


async def attack(
    case: Case, seconds: float, keep: Path | None = None, *, polite: bool = True
) -> Outcome:
    """Attack a bus of its own for ``seconds``. The bus stays in the folder ``keep``, if given.

    A ``polite`` attacker has the processor time that others leave. On a full machine that is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        async with Stage((keep or Path(folder)) / case.name) as stage:
            return await _attack(stage, case, seconds, polite=polite)


async def _attack(stage: Stage, case: Case, seconds: float, *, polite: bool) -> Outcome:
    relay = await stage.start_relay()
    assert stage.server.pid is not None
    processes = {
        "relay": [relay.pid],
        "door": _children(relay.pid),
        "nats-server": [stage.server.pid],
    }
    quiet_s = max(QUIET_LEAST_S, QUIET_SHARE * seconds)
    nc = await stage.nats()
    try:
        with _slow_bot(stage, case) as slow:
            if slow is not None:
                processes["subscriber"] = [slow]
            gauges = Gauges(processes, case.watched, nc, GREEDY)
            async with Crowd(stage) as crowd:
                quiet = crowd.notes
                before, began = gauges.cpu(), time.monotonic()
                await asyncio.sleep(quiet_s)
                cpu_quiet = _rates(before, gauges.cpu(), time.monotonic() - began)
                credentials = str(stage.bus.credentials(GREEDY))
                attacker = Attacker.start(
                    case.name, stage.port, credentials, seconds, polite=polite
                )
                try:
                    assert await attacker.hear() == "begun"
                    crowd.notes = attacked = Notes()
                    lost_before = crowd.lost_connections
                    before, began = gauges.cpu(), time.monotonic()
                    looking = asyncio.create_task(gauges.run())
                    sent: Counter[str] = Counter(await attacker.hear())
                    cpu = _rates(before, gauges.cpu(), time.monotonic() - began)
                finally:
                    attacker.end()
                lost = await crowd.finish()
                await gauges.look()
                await end(looking)
                took = time.monotonic() - began
                cut_off = crowd.lost_connections - lost_before
    finally:
        await nc.close()
    relay.terminate()
    await relay.wait()
    logged_s = time.monotonic() - began
    lines, verdicts, log_bytes = read_log(stage.bus.path / "relay.log")
    server_log = sum(file.stat().st_size for file in stage.bus.state.glob("nats.log*"))
    seen = Seen(took, logged_s, sent, gauges.most, verdicts, lines, log_bytes, server_log, cut_off)
    figures = [*case.figures(seen), *resident(seen)]
    return Outcome(case, seconds, figures, quiet, attacked, lost, cpu, cpu_quiet, seen)


def _children(pid: int) -> list[int]:
    """The child processes of a relay: the door."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _rates(before: dict[str, float], after: dict[str, float], seconds: float) -> dict[str, float]:
    return {name: (after[name] - used) / seconds for name, used in before.items() if name in after}


@contextlib.contextmanager
def _slow_bot(stage: Stage, case: Case) -> Iterator[int | None]:
    """The process of the bot whose memory is attacked, in the attack that has one."""
    if case.name != "subscriber":
        yield None
        return
    process = PROCESSES.Process(
        target=handle_slowly, args=(str(stage.bus.credentials(SLOW)),), daemon=True
    )
    process.start()
    try:
        yield process.pid
    finally:
        process.kill()
        process.join()


def handle_slowly(credentials: str) -> None:
    """A process that takes live messages one after the other, slowly."""

    async def work() -> None:
        bot = Bot.from_file(credentials)

        @bot.subscribe("flash.*", live=True)
        async def handle(_: Message) -> None:
            await asyncio.sleep(HANDLING_S)

        await bot.run()

    asyncio.run(work())
