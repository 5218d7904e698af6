"""Seeded schedules of pauses and kills, with captured copies in flight.

Each message must be accepted once, and none may be lost.

::

    python -m tests.faults.schedules --runs 1000 --seed 1 [--edits] [--json]

A run is one honest bot on a bus that is stopped and killed. An attacker is on the bot's wire. He
has a session of the bot, and reads every envelope that the bot sends. He submits copies at once and
a moment later. Just before a process stops, he submits all copies that are fresh.

``--together`` runs share a bus and its faults (:mod:`tests.faults.pauses`). Two relays,
nats-server and two handlers' processes are stopped (SIGSTOP) for 20 ms to 13 s, or killed and
started again. One stop is longer than the ledger remembers. The limits are the shortest that an
honest message survives (:data:`tests.faults.market.LIMITS`).

With ``--edits`` an operator changes these limits all the time, so that windows grow and shrink, and
messages are judged by one policy and stored under another.

The checks are those of :mod:`tests.faults.day`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.day import DENIED, EDITS, LOST, STORED, TWICE, Day
from tests.faults.market import Market, wiretap
from tests.faults.yard import say


@dataclass
class Report:
    """Many runs."""

    runs: int = 0
    buses: int = 0
    stops: int = 0
    kills: int = 0
    edits: int = 0
    """How many changes of the policy came into force, at all relays together."""
    longest_stop_s: float = 0.0
    window_s: float = 0.0
    published: int = 0
    accepted: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """How many refusals had each reason."""
    unresolved: int = 0
    copies: int = 0
    void: int = 0
    stored_twice: int = 0
    handled_twice: int = 0
    runs_with_handled_twice: int = 0
    lost: int = 0
    refused_and_handled: int = 0
    took_s: float = 0.0

    def add(self, day: Day) -> None:
        """Add the results of one bus."""
        self.buses += 1
        self.stops += day.stops
        self.kills += day.kills
        self.edits += day.edits
        self.longest_stop_s = max(self.longest_stop_s, day.longest_stop_s)
        self.window_s = day.window_s
        for run in day.runs:
            self.runs += 1
            counts = Counter(run.outcomes.values())
            self.published += len(run.outcomes)
            self.accepted += counts["accepted"]
            self.refused += counts["refused"]
            for reason in run.reasons:
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
            self.unresolved += counts["unresolved"]
            self.copies += run.copies
            self.void += run.void
            kinds = Counter(wrong.partition(":")[0] for wrong in run.wrong)
            self.stored_twice += kinds[STORED]
            self.handled_twice += kinds[TWICE]
            self.runs_with_handled_twice += kinds[TWICE] > 0
            self.lost += kinds[LOST]
            self.refused_and_handled += kinds[DENIED]

    def table(self) -> Iterator[str]:
        """The report as lines for people."""
        handled_twice = f"{self.handled_twice} (in {self.runs_with_handled_twice} schedules)"
        rows = {
            "schedules": f"{self.runs} on {self.buses} buses, in {self.took_s / 60:.1f} min",
            "stops and kills": f"{self.stops} and {self.kills}",
            "changes in force": f"{self.edits}",
            "longest stop": f"{self.longest_stop_s:.1f} s",
            "memory of the ledger": f"{self.window_s:.1f} s",
            "honest messages": f"{self.published}",
            "  accepted": f"{self.accepted}",
            "  refused": ", ".join(
                [f"{self.refused}", *(f"{reason} {n}" for reason, n in self.reasons.items())]
            ),
            "  unresolved": f"{self.unresolved}",
            "captured copies submitted": f"{self.copies}",
            "copies stored too late": f"{self.void}",
            "nonces STORED TWICE": f"{self.stored_twice}",
            "nonces HANDLED TWICE": handled_twice,
            "accepted and LOST": f"{self.lost}",
            "told refused, and HANDLED": f"{self.refused_and_handled}",
        }
        for name, value in rows.items():
            yield f"{name:<28}{value}"

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        broken = (self.stored_twice, self.handled_twice, self.lost, self.refused_and_handled)
        return any(broken)


async def play_many(
    seed: int, runs: int, together: int, at_once: int, *, edits: bool = False
) -> Report:
    """Play ``runs`` schedules.

    ``together`` of them share a bus, and ``at_once`` buses run at a time. ``edits``: an operator
    changes the policy meanwhile.
    """
    report, places, began = Report(), asyncio.Semaphore(at_once), time.monotonic()

    async def one(seeds: range) -> None:
        async with places:
            with tempfile.TemporaryDirectory() as folder:
                async with Market(Path(folder) / "market", len(seeds)) as market:
                    day = Day(market, seeds, edits=EDITS if edits else None)
                    await day.play(tap)
        report.add(day)
        for run in day.runs:
            for wrong in run.wrong:
                tell(f"seed {run.seed}, {run.bot}: {wrong}")
        so_far = f"{report.handled_twice} handled twice, {report.lost} lost"
        tell(f"{report.runs} of {runs} schedules; {so_far}")

    with wiretap() as tap:
        end = seed + runs
        await asyncio.gather(
            *(one(range(at, min(at + together, end))) for at in range(seed, end, together))
        )
    report.took_s = time.monotonic() - began
    return report


def tell(text: str) -> None:
    """Report progress on stderr."""
    sys.stderr.write(text + "\n")


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Pauses and kills with captured copies in flight.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first schedule")
    parser.add_argument("--together", type=int, default=25, help="schedules that share a bus")
    parser.add_argument("--at-once", type=int, default=2, help="buses at a time")
    parser.add_argument("--edits", action="store_true", help="change the policy all the time")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # lost connections are intended
    report = asyncio.run(
        play_many(given.seed, given.runs, given.together, given.at_once, edits=given.edits)
    )
    if given.json:
        say(json.dumps(asdict(report)))
    else:
        for line in report.table():
            say(line)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
