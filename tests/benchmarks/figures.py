"""A made-up run: two rounds, Sealbus and two peers, one of which fails in the second round."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def throughput(
    number: int, peer: str, rate: float, pairs: int = 1, size: int = 1024, **cpu_us: float
) -> Row:
    """One measurement."""
    cpu = {"sender": 10.0, "receiver": 20.0, **cpu_us}
    return {
        "round": number,
        "peer": peer,
        "pairs": pairs,
        "size": size,
        "depth": 64,
        "rate": rate,
        "cpu_us": cpu,
        "rss_bytes": dict.fromkeys(cpu, 64 * 2**20),
    }


def latency(number: int, peer: str, what: str, p50_us: float, p999_us: float | None = None) -> Row:
    """One measurement."""
    return {
        "round": number,
        "peer": peer,
        "what": what,
        "size": 1024,
        "count": 500,
        "p50_us": p50_us,
        "p99_us": 2 * p50_us,
        "p999_us": p999_us,
    }


THROUGHPUT = [
    throughput(0, "sealbus", 1000.0, relay=40.0),
    throughput(0, "https", 100.0),
    throughput(1, "sealbus", 3000.0, relay=60.0),
    throughput(1, "https", 150.0),
    throughput(0, "nostr", 500.0),
    throughput(0, "sealbus", 800.0, pairs=10),
    throughput(0, "nostr", 200.0, pairs=10),
]
LATENCY = [
    latency(0, "sealbus", "ask", 600.0),
    latency(0, "https", "ask", 1000.0, 5000.0),
    latency(1, "sealbus", "ask", 900.0),
    latency(1, "https", "ask", 1000.0, 7000.0),
]
VERIFY = [
    {"round": 0, "size": 1024, "rate": 20_000.0, "cpu_us": 50.0},
    {"round": 1, "size": 1024, "rate": 30_000.0, "cpu_us": 33.0},
]
