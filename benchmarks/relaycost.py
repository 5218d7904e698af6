"""What a relay's processor time for one message comes to, as a ratio to one bare libsodium verify in the same run.

A relay must verify what it lets through, so the bare verify is the unit: a ratio says how much the rest costs (JetStream, msgpack, schema,
policy, stamp, receipt), and holds on any machine, which a time does not. Verify is measured before, between and after, for a machine
is not equally fast at all times. Two forms: each message sealed alone, and bursts of 64 under one signature.

``python -m benchmarks.relaycost`` prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from nacl.bindings import crypto_sign, crypto_sign_keypair, crypto_sign_open
from rich.console import Console
from rich.table import Table

from benchmarks.bus import Bus
from benchmarks.crowd import Crowd
from benchmarks.generator import Generator
from benchmarks.measure import Spread
from sealbus.seal import HASH_BYTES, MAGIC, Context

TOGETHER: Final = 64
"""Messages under one signature in the second form."""

ROUNDS: Final = 7
MESSAGES: Final = 3000
QUICK_ROUNDS: Final = 3
QUICK_MESSAGES: Final = 2000
VERIFY_S: Final = 0.3
_AT_ONCE: Final = 100
_DIFFERENT: Final = 64

ORDER_SCHEMA: Final = Path(__file__).resolve().parents[1] / "schemas" / "orders.placed.v1.json"


def verify_us(seconds: float = VERIFY_S) -> float:
    """Processor time of one bare verify of the 83 bytes under a seal, in µs, by verifying for ``seconds``."""
    public, secret = crypto_sign_keypair()
    begin = MAGIC + Context.ENVELOPE.value + public
    signed = [crypto_sign(begin + os.urandom(HASH_BYTES), secret) for _ in range(_DIFFERENT)]
    count, used = 0, time.thread_time()
    while (now := time.thread_time()) - used < seconds:
        for number in range(_AT_ONCE):
            crypto_sign_open(signed[number % _DIFFERENT], public)
        count += _AT_ONCE
    return (now - used) / count * 1e6


async def measure(
    folder: Path, *, quick: bool, say: Callable[[str], None], rounds: int | None = None
) -> dict[str, Any]:
    """Run it in ``folder``. Returns ``single`` and ``burst``: ratios, median and spread over the rounds; and the figures behind them."""
    crowd = Crowd()
    messages = QUICK_MESSAGES if quick else MESSAGES
    taken: list[dict[str, float]] = []
    async with (
        Bus(folder / "bus", crowd.plan(json.loads(ORDER_SCHEMA.read_text()))) as bus,
        Generator(bus, crowd.routes()) as generator,
    ):
        for together in (1, TOGETHER):  # what is made once in a relay's life is none of a message's cost
            await generator.cost(messages // 3, together)
        for number in range(rounds or (QUICK_ROUNDS if quick else ROUNDS)):
            taken.append(await _round(generator, messages))
            say(f"round {number + 1}: {taken[-1]['single']:.2f} verifies a message, {taken[-1]['burst']:.2f} in bursts")
    figures = {name: asdict(Spread.of(one[name] for one in taken)) for name in taken[0]}
    return figures | {"messages": messages, "together": TOGETHER, "rounds": taken}


async def _round(generator: Generator, messages: int) -> dict[str, float]:
    before = verify_us()
    single = await generator.cost(messages)
    between = verify_us()
    burst = await generator.cost(messages, TOGETHER)
    after = verify_us()
    return {
        "single": single.us / ((before + between) / 2),
        "burst": burst.us / ((between + after) / 2),
        "single_us": single.us,
        "burst_us": burst.us,
        "verify_us": (before + between + after) / 3,
        "single_rate": single.rate,
        "burst_rate": burst.rate,
    }


def table(result: dict[str, Any]) -> Table:
    """The figures for a person."""
    shown = Table(
        title=f"A relay's processor time for a message of 1 KiB: median (lowest – highest) of {len(result['rounds'])} round(s)"
    )
    for column in ("", "µs a message", "in bare verifies", "messages a second"):
        shown.add_column(column, justify="right" if column else "left")
    shown.add_row("bare verify", _spread(result["verify_us"], 1), "1", "")
    for form, title in (("single", "sealed alone"), ("burst", f"sealed {result['together']} together")):
        shown.add_row(
            title, _spread(result[f"{form}_us"], 1), _spread(result[form], 2), _spread(result[f"{form}_rate"], 0)
        )
    return shown


def _spread(figure: dict[str, float], digits: int) -> str:
    median, low, high = (f"{figure[name]:,.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} – {high})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.relaycost", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds [{ROUNDS}; quick: {QUICK_ROUNDS}]")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sealbus-relaycost-") as folder:
        result = asyncio.run(
            measure(
                Path(folder),
                quick=asked.quick,
                rounds=asked.rounds,
                say=lambda what: print(what, file=sys.stderr, flush=True),
            )
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table(result))


if __name__ == "__main__":
    main()
