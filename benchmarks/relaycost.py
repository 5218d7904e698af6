"""A relay's processor time for one message, as a ratio to one bare libsodium verify.

A relay must verify each message that it lets through, so the bare verify is the unit. A ratio says
how much the rest costs: JetStream, msgpack, schema, policy, stamp, receipt. It holds on any
machine, and a time does not.

A processor is not always equally fast. If two processors are the threads of one core, a busy
neighbour makes the same work cost 1.5 times as much. So verifies are measured in small portions
*while* the relay works, and the ratio is to these. The table also has the ratio to a verify on the
idle machine, measured before, between and after. That ratio is higher and less steady.

There are three forms: each message in an envelope of its own, 64 such envelopes under one signature
(as messages on many subjects travel), and bursts of 64 in one envelope.

``python -m benchmarks.relaycost`` prints a table. With ``--certificates`` it compares messages that
session keys have sealed with those of enrolled keys, which have no certificate. Both are judged by
one relay in turn, and it remembers the certificates.
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
from statistics import mean
from typing import Any, Final

from nacl.bindings import crypto_sign, crypto_sign_keypair, crypto_sign_open
from rich.console import Console
from rich.table import Table

from benchmarks.bus import Bus
from benchmarks.crowd import Crowd
from benchmarks.generator import Generator
from benchmarks.measure import Spread
from sealbus.protocol.seal import HASH_BYTES, MAGIC, Context

TOGETHER: Final = 64
"""Envelopes under one signature in the second form, and messages in one envelope in the third."""

FORMS: Final = {"single": (1, 1), "bundle": (1, TOGETHER), "burst": (TOGETHER, 1)}
"""The messages of an envelope, and the envelopes under one signature."""

ROUNDS: Final = 7
MESSAGES: Final = 3000
QUICK_ROUNDS: Final = 3
QUICK_MESSAGES: Final = 2000
IDLE_S: Final = 0.2
AT_ONCE: Final = 30
COMPARED: Final = ("single", "burst")
"""The forms that are compared with and without a certificate."""
COMPARED_MESSAGES: Final = 6400
COMPARED_ROUNDS: Final = 21

_ORDER_SCHEMA: Final = Path(__file__).resolve().parents[1] / "schemas" / "orders.placed.v1.json"


def order_schema() -> Any:
    """The schema of the example bus's orders."""
    return json.loads(_ORDER_SCHEMA.read_text())


class Verify:
    """Bare verifies of the 83 bytes that a seal signs, and the processor time that they took."""

    def __init__(self) -> None:
        public, secret = crypto_sign_keypair()
        begin = MAGIC + Context.ENVELOPE.value + public
        self._public = public
        self._signed = [crypto_sign(begin + os.urandom(HASH_BYTES), secret) for _ in range(AT_ONCE)]
        self.clear()

    def clear(self) -> None:
        """Forget the measurements."""
        self._count, self._used_s = 0, 0.0

    def some(self) -> None:
        """Verify a few messages, for about 2 ms."""
        start = time.thread_time()
        for signed in self._signed:
            crypto_sign_open(signed, self._public)
        self._used_s += time.thread_time() - start
        self._count += AT_ONCE

    def us(self, seconds: float = 0.0) -> float:
        """Processor time of one verify in µs since :meth:`clear`, with ``seconds`` added."""
        until = self._used_s + seconds
        # At least once: a burst may be over before it was waited for.
        while self._used_s < until or not self._count:
            self.some()
        return self._used_s * 1e6 / self._count


async def measure(
    folder: Path, *, quick: bool, say: Callable[[str], None], rounds: int | None = None
) -> dict[str, Any]:
    """Run it in ``folder``.

    Returns the ratios ``single``, ``bundle`` and ``burst``, with median and spread over the rounds,
    and the figures behind them.
    """
    crowd = Crowd()
    messages = QUICK_MESSAGES if quick else MESSAGES
    verify, taken = Verify(), list[dict[str, float]]()
    async with (
        Bus(folder / "bus", crowd.plan(order_schema())) as bus,
        Generator(bus, crowd.routes()) as generator,
    ):
        for form in FORMS.values():  # one-time work is no part of a message's cost
            await generator.cost(messages // 3, *form)
        for number in range(rounds or (QUICK_ROUNDS if quick else ROUNDS)):
            taken.append(await _round(generator, verify, messages))
            figures = ", ".join(f"{taken[-1][form]:.2f} ({form})" for form in FORMS)
            say(f"round {number + 1}: verifies a message: {figures}")
    spread = {name: asdict(Spread.of(one[name] for one in taken)) for name in taken[0]}
    return spread | {"messages": messages, "together": TOGETHER, "rounds": taken}


async def compare(
    folder: Path, *, rounds: int, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """The cost of a message with a certificate, as a ratio to the cost without, by form and round.

    It runs in ``folder``.
    """
    crowd = Crowd(seals_directly=True)
    ratios: dict[str, list[float]] = {form: [] for form in COMPARED}
    async with (
        Bus(folder / "bus", crowd.plan(order_schema())) as bus,
        Generator(bus, crowd.routes()) as certified,
        Generator(bus, crowd.routes(), directly=True) as direct,
    ):
        for number in range(-1, rounds):
            # One after the other in turn, because a machine grows slower and faster.
            order = [certified, direct] if number % 2 else [direct, certified]
            for form in COMPARED:
                us = {one: (await one.cost(COMPARED_MESSAGES, *FORMS[form])).us for one in order}
                if number >= 0:  # the first round warms the relay up
                    ratios[form].append(us[certified] / us[direct])
            if number >= 0:
                figures = ", ".join(f"{ratios[form][-1]:.3f} ({form})" for form in COMPARED)
                say(f"round {number + 1}: with to without a certificate: {figures}")
    return ratios


async def _round(generator: Generator, verify: Verify, messages: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    idle = [_alone(verify)]
    for form, sizes in FORMS.items():
        verify.clear()
        cost = await generator.cost(messages, *sizes, meanwhile=verify.some)
        beside = verify.us()
        idle.append(_alone(verify))
        figures[form] = cost.us / beside
        figures[f"{form}_to_idle"] = cost.us / mean(idle[-2:])
        figures[f"{form}_us"], figures[f"{form}_rate"], figures[f"{form}_verify_us"] = (
            cost.us,
            cost.rate,
            beside,
        )
    return figures | {"idle_verify_us": mean(idle)}


def _alone(verify: Verify) -> float:
    """A verify's cost while the relay is idle."""
    verify.clear()
    return verify.us(IDLE_S)


def table(result: dict[str, Any]) -> Table:
    """The figures for a person."""
    over = f"median (lowest – highest) of {len(result['rounds'])} round(s)"
    shown = Table(title=f"A relay's processor time for a message of 1 KiB: {over}")
    for column in ("", "µs", "in verifies", "in idle verifies", "messages a second"):
        shown.add_column(column, justify="right" if column else "left")
    for form, title in (
        ("single", "alone in an envelope"),
        ("bundle", f"{result['together']} envelopes under one signature"),
        ("burst", f"{result['together']} in an envelope"),
    ):
        figures = (
            _spread(result[f"{form}{name}"], digits)
            for name, digits in (("_us", 1), ("", 2), ("_to_idle", 2), ("_rate", 0))
        )
        shown.add_row(title, *figures)
        shown.add_row("  verify meanwhile", _spread(result[f"{form}_verify_us"], 1), "1", "", "")
    shown.add_row("verify when idle", _spread(result["idle_verify_us"], 1), "", "1", "")
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
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"rounds [{ROUNDS}; quick: {QUICK_ROUNDS}]"
    )
    parser.add_argument(
        "--certificates",
        action="store_true",
        help=f"compare with and without session certificates [{COMPARED_ROUNDS} rounds]",
    )
    asked = parser.parse_args()

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="sealbus-relaycost-") as folder:
        if asked.certificates:
            rounds = asked.rounds or COMPARED_ROUNDS
            ratios = asyncio.run(compare(Path(folder), rounds=rounds, say=say))
            for form, some in ratios.items():
                print(f"{form}: {_spread(asdict(Spread.of(some)), 3)} of the cost without")
            return
        result = asyncio.run(measure(Path(folder), quick=asked.quick, rounds=asked.rounds, say=say))
    Console(width=None if sys.stdout.isatty() else 120).print(table(result))


if __name__ == "__main__":
    main()
