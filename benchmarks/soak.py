"""The messages of a day, as fast as the machine goes: does the memory of relay and server grow?

::

    python -m benchmarks.soak [--messages 86400000] [--seconds 0] [--burst 64] [--json]

A day at 1,000 messages a second has 86,400,000. Twelve bots send them in turn, in envelopes of
``--burst``. The memory of the relay and of nats-server is read after each round. Progress goes to
standard error. ``--seconds`` ends it earlier, and then the memory at the end of the day is
extrapolated from the second half of the run, and the report says so.

Streams and ledgers fill up at first, and forget after ``retention`` (5 minutes here) and after the
ledger's window (200 s). So the memory of a run below ten minutes still grows, and its extrapolation
says little. It exits with 1 if a message was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.bus import Bus, Plan
from benchmarks.crowd import Crowd
from benchmarks.generator import Generator
from benchmarks.process import rss_bytes

DAY: Final = 24 * 3600 * 1000
"""The messages of a day at 1,000 a second."""

CROWD: Final = Crowd(12, 12, 12)
ROUND: Final = 64_000
"""Messages of one round: about a thousand envelopes, which nats-server's queue takes at once."""

SIZE: Final = 200
MIB: Final = 1024 * 1024
SHORT: Final = "limits: {ingress_wait: 10s, clock_skew: 100ms, retention: 5m, "
"""Streams and ledgers that forget soon, so that they are full early in the run."""

SCHEMA: Final = {"type": "object", "additionalProperties": True}


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory after some messages, in MiB."""

    messages: int
    seconds: float
    relay: float
    server: float


def plan() -> Plan:
    """The bus."""
    usual = CROWD.plan(SCHEMA)
    return replace(usual, policy=usual.policy.replace("limits: {", SHORT))


def growth(samples: list[Sample], of: str) -> float:
    """The least-squares growth over the second half of the run, in MiB for a million messages."""
    half = samples[len(samples) // 2 :]
    xs = [one.messages / 1e6 for one in half]
    ys = [float(getattr(one, of)) for one in half]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if not spread:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


async def measure(folder: Path, messages: int, seconds: float, burst: int) -> dict[str, Any]:
    """Send, and read the memory again and again."""
    samples: list[Sample] = []
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(Bus(folder / "bus", plan()))
        generator = await stack.enter_async_context(Generator(bus, CROWD.routes(), size=SIZE))
        began = time.monotonic()
        sent = 0
        while sent < messages and not (seconds and time.monotonic() - began > seconds):
            cost = await generator.cost(min(ROUND, messages - sent), burst, hold=False)
            sent += cost.messages
            took = time.monotonic() - began
            relay, server = rss_bytes(bus.relay_pids) / MIB, rss_bytes([bus.server_pid]) / MIB
            samples.append(Sample(sent, took, relay, server))
            sys.stderr.write(
                f"{sent / 1e6:,.2f} M messages in {took:,.0f} s, {sent / took:,.0f} a second;"
                f" relay {relay:.0f} MiB, nats-server {server:.0f} MiB\n"
            )
    return report(samples, messages)


def report(samples: list[Sample], messages: int) -> dict[str, Any]:
    """The figures. ``messages``: how many the whole run has."""
    last = samples[-1]
    left = max(0, messages - last.messages) / 1e6
    found: dict[str, Any] = {
        "messages": last.messages,
        "seconds": round(last.seconds),
        "rate": round(last.messages / last.seconds),
        "hours_at_1000_a_second": round(last.messages / 3_600_000, 2),
    }
    for of in ("relay", "server"):
        values = [float(getattr(one, of)) for one in samples]
        slope = growth(samples, of)
        found[of] = {
            "at_half_mib": round(values[len(values) // 2], 1),
            "at_end_mib": round(values[-1], 1),
            "most_mib": round(max(values), 1),
            "growth_mib_a_million": round(slope, 3),
            "extrapolated_mib": round(values[-1] + slope * left, 1) if left else None,
        }
    return found


def main() -> int:
    """Run from the command line. A refused message ends it with an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="The messages of a day."
    )
    parser.add_argument("--messages", type=int, default=DAY, help="to send (86,400,000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="end after this time (0: never)")
    parser.add_argument("--burst", type=int, default=64, help="messages in one envelope (64)")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), given.messages, given.seconds, given.burst))
    if given.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name:<24} {value}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
