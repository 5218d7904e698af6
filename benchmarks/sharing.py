"""How do relays share the work, and how long does it stand still when one of them is disturbed?

Bots send to one, two and four relays, each :data:`~tests.faults.sharing.AT_ONCE` messages at a
time. Counted are the messages that each relay stamped. Then one of two and one of four relays
comes, stops, dies or freezes under the same traffic.

The bots, nats-server and the relays share this machine. So the throughput grows with relays only
where there are processors for them, and the time of a processor for each message says more.

``python -m benchmarks.sharing [--seconds N] [--bots N] [--json]``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.process import cpu_seconds
from sealbus_broker.nats.streams import PARTITIONS
from tests.faults.sharing import ACTS, Sharers, play, stored

RELAYS: Final = (1, 2, 4)


def say(what: str) -> None:
    """Tell the progress."""
    print(what, file=sys.stderr, flush=True)


async def share(folder: Path, relays: int, *, bots: int, seconds: float) -> dict[str, Any]:
    """Have ``bots`` send for ``seconds``; return the share of each relay, and its cost."""
    async with Sharers(folder, bots) as market:
        names = [f"r{number}" for number in range(relays)]
        for name in names:
            await market.start_relay(name)
        await market.shared(names)
        pids = [relay.pid for relay in market.relays]
        idle = cpu_seconds(pids)
        await asyncio.sleep(seconds)
        idle = (cpu_seconds(pids) - idle) / seconds / relays
        async with market.trading():
            await market.more(10)
            before = market.traffic.accepted.total()
            used = cpu_seconds(pids)
            await asyncio.sleep(seconds)
            used = cpu_seconds(pids) - used
            judged = market.traffic.accepted.total() - before
        counts = Counter(one.relay for one in await stored(market))
    even = counts.total() / relays
    return {
        "relays": relays,
        "bots": bots,
        "partitions": PARTITIONS,
        "per_second": round(judged / seconds),
        "cpu_us_per_message": round(used / judged * 1e6, 1),
        "idle_cpu": round(idle, 4),
        "shares": {name: round(counts[name] / even, 3) for name in names},
    }


async def disturb(folder: Path, relays: int, name: str) -> dict[str, Any]:
    """Have one relay come, stop, die or freeze; return how long that was felt."""
    found = await play(folder, relays, ACTS[name])
    return {
        "relays": relays,
        "act": name,
        "messages": len(found.messages),
        "wrong": found.wrong[:5],
        "reordered": found.reordered,
        "shared_anew_s": round(found.noticed_s, 2),
        "longest_without_verdict_s": round(found.longest_s, 2),
        "slowest_message_s": round(found.slowest_s, 2),
    }


async def measure(folder: Path, *, bots: int, seconds: float) -> dict[str, Any]:
    """Measure everything."""
    result: dict[str, Any] = {"shares": [], "disturbed": []}
    for relays in RELAYS:
        say(f"{bots} bots send to {relays} relays")
        row = await share(folder / f"share-{relays}", relays, bots=bots, seconds=seconds)
        result["shares"].append(row)
    for relays in RELAYS[1:]:
        for name in ACTS:
            say(f"one of {relays} relays {name}")
            result["disturbed"].append(await disturb(folder / f"{name}-{relays}", relays, name))
    return result


def show(result: dict[str, Any]) -> None:
    """Print the figures for people."""
    for row in result["shares"]:
        shares = ", ".join(f"{share:.0%}" for share in row["shares"].values())
        print(
            f"{row['relays']} relays: {row['per_second']:,} messages/s,"
            f" {row['cpu_us_per_message']:,} us of a processor each, idle {row['idle_cpu']:.1%};"
            f" shares of the even one: {shares}"
        )
    for row in result["disturbed"]:
        print(
            f"one of {row['relays']} {row['act']}: shared anew after {row['shared_anew_s']} s,"
            f" at most {row['longest_without_verdict_s']} s without a verdict,"
            f" slowest message {row['slowest_message_s']} s,"
            f" {row['reordered']} of {row['messages']:,} reordered, {len(row['wrong'])} wrong"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharing", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of traffic in a run [10]")
    parser.add_argument("--bots", type=int, default=50, help="that send [50]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sealbus-sharing-") as folder:
        result = asyncio.run(measure(Path(folder), bots=asked.bots, seconds=asked.seconds))
    if asked.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
