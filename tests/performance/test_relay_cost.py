"""A relay's cost of a message: the short form of ``python -m benchmarks.relaycost``.

It runs a real nats-server. A cost is a ratio to one bare libsodium verify, measured while the relay
works. It is never a time. Processor time counts, and not elapsed time. The best of a few rounds
counts, because other work on the machine only adds to a cost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from benchmarks.bus import Bus
from benchmarks.crowd import Crowd
from benchmarks.generator import Generator
from benchmarks.process import rss_bytes
from benchmarks.relaycost import TOGETHER, Verify, order_schema

SINGLE_MOST: Final = 4.0
"""In bare verifies, for a message alone in its envelope.

The best of six rounds measures 2.2 to 3.1. On a machine with a load of 15, it is up to 3.4.
"""

BURST_MOST: Final = 0.9
"""The same with 64 messages in an envelope.

The best of six rounds measures 0.2 to 0.6.
"""

MEMORY_MIB_MOST: Final = 100
"""Resident memory after the load.

Measured: 55 to 60. The interpreter and the relay's imports take 45 of it.
"""

ROUNDS: Final = 6
MESSAGES: Final = 600


@dataclass(frozen=True, slots=True)
class Measured:
    """The best of all rounds."""

    single: float
    burst: float
    memory_mib: float


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """All figures are from one relay."""
    return asyncio.run(measure(tmp_path_factory.mktemp("relay")))


async def measure(folder: Path) -> Measured:
    crowd, verify = Crowd(), Verify()
    single, burst = list[float](), list[float]()
    async with (
        Bus(folder / "bus", crowd.plan(order_schema())) as bus,
        Generator(bus, crowd.routes()) as generator,
    ):
        await generator.cost(MESSAGES // 2)
        for _ in range(ROUNDS):
            for burst_size, found in ((1, single), (TOGETHER, burst)):
                verify.clear()
                cost = await generator.cost(MESSAGES, burst_size, meanwhile=verify.some)
                found.append(cost.us / verify.us())
        return Measured(min(single), min(burst), rss_bytes(bus.relay_pids) / 2**20)


def test_a_message_alone_costs_no_more_than_budgeted(measured: Measured) -> None:
    assert measured.single <= SINGLE_MOST


def test_a_message_in_a_burst_costs_no_more_than_budgeted(measured: Measured) -> None:
    assert measured.burst <= BURST_MOST


def test_a_relay_takes_no_more_memory_than_budgeted(measured: Measured) -> None:
    assert measured.memory_mib <= MEMORY_MIB_MOST
