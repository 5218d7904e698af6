"""Run all tests again and again, with and without load, and name unstable tests: ``make soak``.

A test that fails once in a hundred runs makes every red run worth less. The suite must pass
``--runs 20 --loaded 10``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.soak.run import Run, perform

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = "{:>4} {:>5} {:>8} {:>7} {:>7} {:>8}  {}"


def loads(runs: int, loaded: int, busy: int) -> list[int]:
    """The load of each run: ``loaded`` of ``runs`` have ``busy`` processes, spread evenly."""
    return [busy if (at + 1) * loaded // runs > at * loaded // runs else 0 for at in range(runs)]


def line(run: Run) -> str:
    """One run as a row of the table."""
    told = ", ".join(run.failures) or ("all passed" if run.green else "nothing was run")
    return COLUMNS.format(
        run.number, run.load, f"{run.seconds:.1f}", run.passed, run.failed, run.skipped, told
    )


def summary(runs: Sequence[Run]) -> list[str]:
    """The number of green runs, their times, and the number of failures of each test."""
    told = []
    for name, some in (
        ("without load", [r for r in runs if not r.load]),
        ("under load", [r for r in runs if r.load]),
    ):
        if some:
            seconds = sorted(run.seconds for run in some)
            green = sum(run.green for run in some)
            told.append(
                f"{name}: {green} of {len(some)} green; {seconds[0]:.0f} to {seconds[-1]:.0f} s, "
                f"median {seconds[len(seconds) // 2]:.0f} s"
            )
    failures = Counter(failure for run in runs for failure in run.failures)
    return [
        *told,
        *(
            f"failed in {count} of {len(runs)} runs: {name}"
            for name, count in failures.most_common()
        ),
    ]


def main() -> int:
    """The command. Returns its exit code, which is 0 if every run was green."""
    parser = argparse.ArgumentParser(
        "soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="number of runs (4)")
    parser.add_argument(
        "--loaded", type=int, metavar="M", help="number of runs under load (every second one)"
    )
    parser.add_argument(
        "--busy",
        type=int,
        default=os.cpu_count() or 1,
        metavar="P",
        help="busy processes under load (one for each core)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object for each run, instead of the table"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build" / "soak",
        help="folder of logs and reports (build/soak)",
    )
    parser.add_argument("pytest", nargs="*", help="more arguments for pytest, after --")
    given = parser.parse_args()
    loaded = given.runs // 2 if given.loaded is None else given.loaded
    if not 0 <= loaded <= given.runs or given.runs < 1 or given.busy < 1:
        parser.error("--runs and --busy are at least 1, and --loaded is between 0 and --runs")
    given.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    runs: list[Run] = []
    try:
        if not given.json:
            print(
                COLUMNS.format("run", "load", "seconds", "passed", "failed", "skipped", "which"),
                flush=True,
            )
        for number, load in enumerate(loads(given.runs, loaded, given.busy), 1):
            runs.append(perform(number, load, given.pytest, given.folder))
            print(json.dumps(runs[-1].row()) if given.json else line(runs[-1]), flush=True)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        print(*summary(runs), sep="\n", file=sys.stderr if given.json else sys.stdout)
    return 0 if all(run.green for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
