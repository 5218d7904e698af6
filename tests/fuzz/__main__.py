"""Feed every parser bytes that reach new code, beginning with the vectors: ``make fuzz``.

Each target runs in its own process under atheris (libFuzzer). build/fuzz keeps the inputs that
reached new code, and the next run continues from there. Bytes that break a promise are written to
tests/fuzz/cases. From then on, the ordinary tests run them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.fuzz.targets import ALL, MAX_BYTES, TARGETS

ROOT: Final = Path(__file__).resolve().parents[2]
CASES: Final = Path(__file__).parent / "cases"
COLUMNS: Final = "{:<12} {:>12} {:>8} {:>8} {:>8}  {}"

HANG_S: Final = 300
"""A longer execution is a finding, in seconds.

The slowest takes 15 ms. But at the lowest priority, a process may get no turn for half a minute.
"""

MEMORY_MB: Final = 1024
"""A process that grows beyond this is a finding. A process has 120 MB when it begins."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one target's run."""

    target: str
    executions: int
    seconds: float
    reached: int
    """Pieces of code that some input reached, as libFuzzer counts them."""
    corpus: int
    """Inputs that are kept because each reached new code."""
    found: tuple[str, ...]
    """Names of the cases that were written."""
    exit_code: int


def fuzz(target: str, runs: int, seconds: int, seed: int, folder: Path) -> Result:
    """Run one target ``runs`` times, or for ``seconds`` if that is not 0."""
    corpus, hurt = folder / target, folder / "found" / target
    for path in (corpus, hurt):
        path.mkdir(parents=True, exist_ok=True)
    for data in (ALL if target == "all" else TARGETS[target]).seeds():
        (corpus / sha256(data).hexdigest()[:16]).write_bytes(data)
    options: dict[str, int | str] = {
        "runs": -1 if seconds else runs,
        "max_total_time": seconds,
        "seed": seed,
        "max_len": MAX_BYTES,
        "timeout": HANG_S,
        "rss_limit_mb": MEMORY_MB,
    }
    options |= {"print_final_stats": 1, "artifact_prefix": f"{hurt}/", "report_slow_units": 3600}
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.drive",
        target,
        *(f"-{key}={it}" for key, it in options.items()),
    ]
    began = time.monotonic()
    ran = subprocess.run([*command, str(corpus)], cwd=ROOT, capture_output=True, check=False)
    said = ran.stderr.decode("utf-8", "replace") + ran.stdout.decode("utf-8", "replace")
    (folder / f"{target}.log").write_text(said)
    done = [int(number) for number in re.findall(r"stat::number_of_executed_units: (\d+)", said)]
    reached = [int(number) for number in re.findall(r"\bcov: (\d+)", said)]
    found = []
    for path in sorted(hurt.iterdir()):
        case = CASES / target / path.name
        case.parent.mkdir(parents=True, exist_ok=True)
        path.replace(case)
        found.append(case.name)
    return Result(
        target,
        done[-1] if done else 0,
        round(time.monotonic() - began, 1),
        reached[-1] if reached else 0,
        len(list(corpus.iterdir())),
        tuple(found),
        ran.returncode,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code, which is 0 if there was no finding."""
    parser = argparse.ArgumentParser(
        "fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"some of: {', '.join(TARGETS)}. Or all: the quick ones in one process",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=1_000_000,
        metavar="N",
        help="executions of a quick target (1000000)",
    )
    parser.add_argument(
        "--seconds",
        type=int,
        default=0,
        metavar="N",
        help="seconds for each target, instead of --runs",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="libFuzzer's seed (1)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="targets that run at the same time (1)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each target, instead of the table",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build" / "fuzz",
        help="folder of the results (build/fuzz)",
    )
    asked = parser.parse_args(arguments)
    if unknown := set(asked.targets) - set(TARGETS) - {"all"}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if not asked.json:
        print(COLUMNS.format("target", "executions", "seconds", "reached", "corpus", "found"))
    results = []
    with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
        runs = [
            pool.submit(
                fuzz,
                name,
                max(1, asked.runs // (TARGETS[name].cost if name in TARGETS else 1)),
                asked.seconds,
                asked.seed,
                asked.folder,
            )
            for name in asked.targets or TARGETS
        ]
        for run in runs:
            result = run.result()
            results.append(result)
            if asked.json:
                print(json.dumps(asdict(result)), flush=True)
                continue
            told = ", ".join(result.found) or (
                "nothing" if result.exit_code == 0 else f"exit code {result.exit_code}"
            )
            row = (
                result.target,
                result.executions,
                result.seconds,
                result.reached,
                result.corpus,
                told,
            )
            print(COLUMNS.format(*row), flush=True)
    if not asked.json:
        print(
            f"{sum(result.executions for result in results):,} executions of {len(results)} targets"
        )
    return int(any(result.found or result.exit_code for result in results))


if __name__ == "__main__":
    sys.exit(main())
