"""One bot floods the bus beside fifty honest ones: how much longer do their messages take?

::

    python -m tests.faults.floods [--quiet 30] [--seconds 30] [--only KIND ...] [--honest 50]
                                  [--json]

Each kind of flood has a bus of its own: nats-server, a relay as its own process, and the honest
bots, over all partitions. Each of them publishes and asks again and again. The beginning is quiet.
Then a process with raw sockets and one bot's credentials floods:

========================= ========================================================================
kind                      flood
========================= ========================================================================
``pour-garbage``          bytes that are no envelope, at the limit of nats-server
``pour-badly-sealed``     bundles of envelopes whose seals do not hold, at that limit
``pour-copies``           bundles of valid envelopes, again and again, at that limit
``pour-live``             live messages that are no envelope, at that limit
``pace-garbage``          5,000 messages a second that are no envelope: below ``flood_messages``
``pace-badly-sealed``     6,400 envelopes a second whose seals do not hold, in bundles
``pace-valid``            valid messages, as fast as one process seals them
``pace-refused``          messages that are refused, as fast as one process seals them
========================= ========================================================================

The program reports the 99th percentile of the honest bots' messages and requests, quiet and
flooded, their ratio, and how often the flooding bot was cut off. It exits with 1 if an honest
message was refused or lost, or if a bot that floods was not cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sealbus_broker.relay.store.quarantine import RECORD_HEADER
from tests.faults.greedy.attacker import Attacker
from tests.faults.greedy.crowd import Crowd, Notes
from tests.faults.greedy.gauges import read_log
from tests.faults.greedy.stage import GREEDY, Stage
from tests.faults.yard import say

ENDED: Final = (
    "pour-garbage",
    "pour-badly-sealed",
    "pour-copies",
    "pour-live",
    "pace-garbage",
    "pace-badly-sealed",
)
"""The floods that a relay ends. Tests have some that are over then: their names go on."""

BORNE: Final = ("pace-valid", "pace-refused")
"""The floods that it bears."""

FLOOD: Final = "accepted.goods.>"
"""The subjects on which messages of a flood are stored, if they are accepted."""

SPEAK_S: Final = 0.5
ASK_S: Final = 2.0
"""The times between two messages, and two requests, of one honest bot."""


@dataclass
class Outcome:
    """The results of one flood."""

    kind: str
    quiet: Notes
    flooded: Notes
    lost: int
    """Honest messages that were accepted but reached no handler."""
    cut_off: int
    """How often a relay has ended the flooding bot's sessions."""
    records: list[str] = field(default_factory=list)
    """The details of the alert records about it."""
    sent: dict[str, int] = field(default_factory=dict)
    stored: int = 0
    """How many messages of the flood were accepted."""

    @property
    def wrong(self) -> list[str]:
        """Broken promises."""
        found = [f"honest bots: {what}" for what in self.flooded.went_wrong()]
        if self.lost:
            found.append(f"honest bots: {self.lost} accepted messages LOST")
        if self.kind.startswith(ENDED):
            if not self.cut_off:
                found.append("no relay noticed the flood")
            if not self.sent.get("cut off"):
                found.append("the bot that floods was not cut off")
            if not self.records:
                found.append("the quarantine has no record of the flood")
        return found


def p99(samples: Sequence[float]) -> float:
    """The 99th percentile, in seconds."""
    return statistics.quantiles(samples, n=100)[98] if len(samples) > 1 else 0.0


async def play(
    kind: str, quiet_s: float, flood_s: float, honest: int, *, polite: bool = True
) -> Outcome:
    """One flood on a bus of its own, for ``flood_s`` at most.

    A ``polite`` attacker has the processor time that others leave. On a full machine that is none.
    """
    names = [f"honest-{number}" for number in range(honest)]
    with tempfile.TemporaryDirectory() as folder:
        async with Stage(Path(folder) / "bus", names) as stage:
            return await _play(stage, kind, quiet_s, flood_s, polite)


async def _play(stage: Stage, kind: str, quiet_s: float, flood_s: float, polite: bool) -> Outcome:
    await stage.start_relay()
    async with Crowd(stage, SPEAK_S, ASK_S) as crowd:
        await asyncio.sleep(min(2.0, quiet_s / 2))  # the beginning is slower than the rest
        crowd.notes = quiet = Notes()
        await asyncio.sleep(quiet_s)
        credentials = str(stage.bus.credentials(GREEDY))
        attacker = Attacker.start(kind, stage.port, credentials, flood_s, polite=polite)
        try:
            assert await attacker.hear() == "begun"
            crowd.notes = flooded = Notes()
            sent = await attacker.hear()
        finally:
            attacker.end()
        lost = await crowd.finish()
    lines, _, _ = read_log(stage.bus.path / "relay.log")
    details, stored = await _kept(stage)
    return Outcome(kind, quiet, flooded, lost, lines["bot.flooding"], details, sent, stored)


async def _kept(stage: Stage) -> tuple[list[str], int]:
    """The details of the alert records, and how many messages of the flood were accepted."""
    nc = await stage.nats()
    try:
        ask = json.dumps({"last_by_subj": f"quarantine.flooding.{GREEDY}"}).encode()
        answer = await nc.request("$JS.API.DIRECT.GET.QUARANTINE", ask, 5.0)
        ask = json.dumps({"subjects_filter": FLOOD}).encode()
        found = json.loads((await nc.request("$JS.API.STREAM.INFO.ACCEPTED", ask, 5.0)).data)
    finally:
        await nc.close()
    header = (answer.headers or {}).get(RECORD_HEADER)
    details = [] if header is None else [json.loads(header)["detail"]]
    return details, sum((found["state"].get("subjects") or {}).values())


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs."""

    def figures(notes: Notes) -> dict[str, Any]:
        kinds = {"message": notes.published, "request": notes.asked}
        return {
            kind: {
                "count": len(some),
                "p50_s": statistics.median(some) if some else None,
                "p99_s": p99(some),
                "worst_s": max(some, default=None),
            }
            for kind, some in kinds.items()
        }

    return {
        "flood": outcome.kind,
        "quiet": figures(outcome.quiet),
        "flooded": figures(outcome.flooded),
        "ratio_p99_message": _ratio(outcome.quiet.published, outcome.flooded.published),
        "ratio_p99_request": _ratio(outcome.quiet.asked, outcome.flooded.asked),
        "cut_off": outcome.cut_off,
        "records": outcome.records,
        "sent": outcome.sent,
        "stored": outcome.stored,
        "wrong": outcome.wrong,
    }


def _ratio(quiet: Sequence[float], flooded: Sequence[float]) -> float:
    before = p99(quiet)
    return round(p99(flooded) / before, 2) if before else 0.0


def row(outcome: Outcome) -> str:
    """The outcome for people."""

    def times(quiet: Sequence[float], flooded: Sequence[float]) -> str:
        before, after = p99(quiet) * 1000, p99(flooded) * 1000
        return f"{before:,.0f} to {after:,.0f} ({_ratio(quiet, flooded):.1f} x)"

    quiet, flooded = outcome.quiet, outcome.flooded
    return (
        f"{outcome.kind:<18} p99 of messages {times(quiet.published, flooded.published)} ms,"
        f" of requests {times(quiet.asked, flooded.asked)} ms;"
        f" {len(flooded.published)} messages; cut off {outcome.cut_off} times"
    )


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.floods", description="One bot floods, fifty do not."
    )
    kinds = (*ENDED, *BORNE)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each flood (30)")
    parser.add_argument("--quiet", type=float, default=30.0, help="seconds before it (30)")
    parser.add_argument("--only", nargs="+", default=kinds, metavar="KIND", choices=kinds)
    parser.add_argument("--honest", type=int, default=50, help="honest bots (50)")
    parser.add_argument("--json", action="store_true", help="one object a flood")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # lost connections are intended
    wrong: list[str] = []
    for at, kind in enumerate(given.only, 1):
        sys.stderr.write(f"{at} of {len(given.only)}: {kind}, {given.seconds:g} s\n")
        outcome = asyncio.run(play(kind, given.quiet, given.seconds, given.honest))
        say(json.dumps(as_json(outcome)) if given.json else row(outcome))
        for one in outcome.wrong:
            sys.stderr.write(f"    {one}\n")
        wrong += outcome.wrong
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
