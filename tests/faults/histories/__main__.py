"""Seeded schedules of faults, with the histories of all processes checked.

::

    python -m tests.faults.histories --runs 500 [--nodes mixed] [--minutes 60] [--json]
    python -m tests.faults.histories --seed 4711            # one schedule
    python -m tests.faults.histories --seed 4711 --show     # its text
    python -m tests.faults.histories --schedule FILE        # one that was written down
    python -m tests.faults.histories --plant answer-first   # with a mistake in the product

A schedule whose promises were broken leaves its text, its histories and its logs below
``build/histories``. The program exits with 1 then, and also if a planted mistake was not noticed.
It exits with 3 if ``--minutes`` were over before all schedules were played. The last line says how
many are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.faults.histories.plants import PLANTS
from tests.faults.histories.report import Report, Runner, schedules
from tests.faults.histories.schedule import NODES, Schedule, read
from tests.faults.yard import say

SIZES = {"1": 1, str(NODES): NODES, "mixed": None}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seeded schedules of faults, checked.")
    parser.add_argument("--runs", type=int, default=1, help="how many schedules")
    parser.add_argument("--minutes", type=float, help="begin no schedule after that")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first schedule")
    parser.add_argument("--nodes", choices=SIZES, default="mixed", help="nodes of each bus")
    parser.add_argument("--at-once", type=int, default=4, help="buses at a time")
    parser.add_argument("--plant", choices=PLANTS, default="", help="a mistake of the product")
    parser.add_argument("--schedule", type=Path, help="a file with the text of a schedule")
    parser.add_argument("--show", action="store_true", help="print the schedules, and play none")
    parser.add_argument("--keep", type=Path, default=Path("build/histories"), help="for failures")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    return parser.parse_args()


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> int:
    """Run from the command line. Returns the exit code: see the module."""
    given = _arguments()
    wanted: list[Schedule]
    if given.schedule:
        wanted = [read(given.schedule.read_text())]
    else:
        wanted = list(schedules(given.seed, given.runs, SIZES[given.nodes], given.plant))
    if given.show:
        for schedule in wanted:
            say(str(schedule))
        return 0
    logging.disable(logging.CRITICAL)  # lost connections are intended
    until = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    runner = Runner(at_once=given.at_once, keep=given.keep, tell=_tell, until=until)
    report: Report = asyncio.run(runner.play(wanted, len(wanted)))
    if given.json:
        say(json.dumps({**asdict(report), "is_good": report.is_good, "is_whole": report.is_whole}))
    else:
        for line in report.table():
            say(line)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
