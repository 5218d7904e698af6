"""Several relays: the work is shared, and handed over when one comes, stops, dies or freezes."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.sharing import Outcome, Sharers, play

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def others(market: Sharers, at: int) -> list[str]:
    """The names of all relays but one."""
    return [f"r{number}" for number in range(len(market.relays)) if number != at]


async def comes(market: Sharers) -> list[str]:
    await market.start_relay(f"r{len(market.relays)}")
    return [f"r{number}" for number in range(len(market.relays))]


async def stops(market: Sharers) -> list[str]:
    market.relays[0].terminate()
    assert await market.relays[0].wait() == 0
    return others(market, 0)


async def dies(market: Sharers) -> list[str]:
    market.relays[0].kill()
    return others(market, 0)


async def freezes(market: Sharers) -> list[str]:
    market.relays[0].send_signal(signal.SIGSTOP)
    return others(market, 0)


async def wakes(market: Sharers) -> list[str]:
    await market.shared(await freezes(market))
    await market.more(20)
    market.relays[0].send_signal(signal.SIGCONT)
    return ["r0", *others(market, 0)]


def check(found: Outcome) -> None:
    """Each message was accepted once."""
    assert found.wrong == []


@pytest.mark.parametrize("act", [comes, stops])
@pytest.mark.parametrize("relays", [2, 4])
async def test_orderly_hand_over_keeps_order(tmp_path: Path, relays: int, act: object) -> None:
    found = await play(tmp_path / "bus", relays, act)  # type: ignore[arg-type]
    check(found)
    assert found.reordered == 0


@pytest.mark.parametrize("act", [dies, freezes, wakes])
@pytest.mark.parametrize("relays", [2, 4])
async def test_lost_relay_loses_nothing(tmp_path: Path, relays: int, act: object) -> None:
    found = await play(tmp_path / "bus", relays, act)  # type: ignore[arg-type]
    check(found)
