"""One bot takes as much as it can of one resource after the other, beside ten honest bots.

::

    python -m tests.faults.greedy [--seconds 60] [--only NAME ...] [--json]

Each bound in the list of ``docs/threats.md`` has a bus of its own: nats-server, a relay as its own
process, and ten honest bots. Each honest bot sends five durable messages and asks one question a
second, and logs in again and again (:mod:`tests.faults.greedy.crowd`). After a quiet time a process
with raw sockets and one bot's credentials attacks (:mod:`tests.faults.greedy.attacks`).

The program reports for each attack:

* the figure at the bound: messages, bytes, memory, log lines (:mod:`tests.faults.greedy.cases`);
* how long the honest bots' messages, requests and logins took, quiet and attacked: the median and
  the worst;
* the processor time of the relay, of the door, and of nats-server, in cores.

It exits with 1 if an honest message was refused or lost, a request or login failed, or a bound was
exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.greedy.cases import CASES
from tests.faults.greedy.crowd import Notes
from tests.faults.greedy.trial import Outcome, attack
from tests.faults.yard import say


def times(samples: Sequence[float]) -> str:
    """Median and worst, in milliseconds."""
    if not samples:
        return "none"
    return f"{_ms(statistics.median(samples))}/{_ms(max(samples))}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The table for people."""
    row = "{:<27}{:>15}{:>15}{:>15}{:>15}{:>14}{:>14}  {:<17}{}"
    yield "times in ms: median/worst, quiet and attacked; cores: relay/door/nats-server, attacked"
    yield row.format(
        "attack",
        "message",
        "attacked",
        "request",
        "attacked",
        "login",
        "attacked",
        "cores",
        "at the bound",
    )
    for outcome in outcomes:
        quiet, attacked = outcome.quiet, outcome.attacked
        yield row.format(
            outcome.case.name,
            *(times(some) for some in (quiet.published, attacked.published)),
            *(times(some) for some in (quiet.asked, attacked.asked)),
            *(times(some) for some in (quiet.connected, attacked.connected)),
            "/".join(
                f"{outcome.cpu.get(name, 0):.2f}" for name in ("relay", "door", "nats-server")
            ),
            "; ".join(map(str, outcome.figures)),
        )
    for outcome in outcomes:
        for wrong in outcome.wrong:
            yield f"{outcome.case.name}: {wrong}"


def markdown(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The table and the list of ``docs/threats.md``."""

    def both(quiet: Sequence[float], attacked: Sequence[float]) -> str:
        return f"{times(quiet)} → {times(attacked)}"

    yield "| attack | message | request | login | relay, server |"
    yield "|---|---|---|---|---|"
    for outcome in outcomes:
        quiet, attacked, most = outcome.quiet, outcome.attacked, outcome.seen.most
        cells = (
            f"`{outcome.case.name}`",
            both(quiet.published, attacked.published),
            both(quiet.asked, attacked.asked),
            both(quiet.connected, attacked.connected),
            f"{most['relay MiB']:,.0f}, {most['nats-server MiB']:,.0f} MiB",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""
    for outcome in outcomes:
        figures = (
            str(figure)
            for figure in outcome.figures
            if not figure.what.endswith(("relay MiB", "server MiB"))
        )
        item = f"- `{outcome.case.name}` ({', '.join(outcome.case.bounds)}): {'; '.join(figures)}"
        yield textwrap.fill(item, 100, subsequent_indent="  ", break_on_hyphens=False)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for programs."""

    def noticed(notes: Notes) -> dict[str, Any]:
        kinds = {"message": notes.published, "request": notes.asked, "login": notes.connected}
        found: dict[str, Any] = {
            kind: {"count": len(some), "median_s": statistics.median(some), "worst_s": max(some)}
            for kind, some in kinds.items()
            if some
        }
        return found | {"wrong": list(notes.went_wrong())}

    seen = outcome.seen
    return {
        "attack": outcome.case.name,
        "bounds": outcome.case.bounds,
        "seconds": outcome.seconds,
        "figures": [
            {"what": one.what, "value": one.value, "most": one.most} for one in outcome.figures
        ],
        "quiet": noticed(outcome.quiet),
        "attacked": noticed(outcome.attacked),
        "lost": outcome.lost,
        "cores_quiet": outcome.cpu_quiet,
        "cores": outcome.cpu,
        "sent": seen.sent,
        "most": seen.most,
        "verdicts": seen.verdicts,
        "log_lines": seen.lines,
        "log_bytes": seen.log_bytes,
        "server_log_bytes": seen.server_log_bytes,
        "wrong": outcome.wrong,
    }


def tell(text: str) -> None:
    """Report progress on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def play(
    names: Sequence[str], seconds: float, keep: Path | None = None, *, as_lines: bool = False
) -> list[Outcome]:
    """Carry out the attacks with these names, or all.

    With ``as_lines``, each is printed as JSON when it is over.
    """
    cases = [case for case in CASES if not names or case.name in names]
    outcomes = []
    for at, case in enumerate(cases, 1):
        tell(f"{at} of {len(cases)}: {case.name}, {seconds:g} s")
        outcome = await attack(case, seconds, keep)
        tell(f"    {'; '.join(map(str, outcome.figures))}")
        for wrong in outcome.wrong:
            tell(f"    {wrong}")
        outcomes.append(outcome)
        if as_lines:
            say(json.dumps(as_json(outcome)))
    return outcomes


def main() -> int:
    """Run from the command line. Returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.greedy", description="One greedy bot, ten honest ones."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each attack (60)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", choices=[case.name for case in CASES]
    )
    parser.add_argument(
        "--keep", type=Path, help="a folder in which the buses, with their logs, stay"
    )
    parser.add_argument(
        "--json", action="store_true", help="one object an attack instead of a table"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="the table and list of docs/threats.md"
    )
    given = parser.parse_args()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)  # lost connections are intended
    outcomes = asyncio.run(play(given.only, given.seconds, given.keep, as_lines=given.json))
    if not given.json:
        for line in markdown(outcomes) if given.markdown else table(outcomes):
            say(line)
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
