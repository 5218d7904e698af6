"""Several relays: the work is shared, and handed over when one comes, stops, dies or freezes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.sharing import ACTS, Outcome, Sharers, play, stored
from tests.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.slow, pytest.mark.processes]

PLAYS = 3
"""So often one act is played at most, where a busy machine disturbs it."""


def check(found: Outcome) -> None:
    """Each message was accepted once."""
    assert found.wrong == []


async def in_order(folder: Path, relays: int, act: str) -> Outcome:
    """Play ``act``, which keeps the order. Play again if a busy machine explains another order.

    A relay that has no turn for two seconds loses its partitions, as if it were dead.
    """
    plays = 0
    while True:
        plays += 1
        found = await play(folder / f"bus-{plays}", relays, ACTS[act])
        check(found)
        if plays == PLAYS or not (found.reordered and found.starved):
            return found


@pytest.mark.parametrize("act", ["comes", "stops"])
@pytest.mark.parametrize("relays", [2, 4])
async def test_orderly_hand_over_keeps_order(tmp_path: Path, relays: int, act: str) -> None:
    assert (await in_order(tmp_path, relays, act)).reordered == 0


@pytest.mark.parametrize("act", ["has fewer partitions", "has more partitions"])
async def test_change_of_their_number_keeps_order(tmp_path: Path, act: str) -> None:
    assert (await in_order(tmp_path, 2, act)).reordered == 0


async def test_relay_that_dies_in_a_change_loses_nothing(tmp_path: Path) -> None:
    check(await play(tmp_path / "bus", 2, ACTS["has other partitions and dies"]))


@pytest.mark.parametrize("act", ["dies", "freezes", "wakes"])
@pytest.mark.parametrize("relays", [2, 4])
async def test_lost_relay_loses_nothing(tmp_path: Path, relays: int, act: str) -> None:
    check(await play(tmp_path / "bus", relays, ACTS[act]))


@pytest.mark.parametrize("relays", [2, 4])
async def test_relays_share_the_messages_of_fifty_bots(tmp_path: Path, relays: int) -> None:
    names = [f"r{number}" for number in range(relays)]
    async with Sharers(tmp_path / "bus", 50) as market:
        for name in names:
            await market.start_relay(name)
        sent, counts = 0, Counter[str]()

        async def nothing_moved() -> bool:
            """Trade. A relay that has no turn for two seconds loses its partitions meanwhile."""
            nonlocal sent, counts
            held = await market.shared(names)
            before = Counter(one.relay for one in await stored(market))
            sent += 20
            async with market.trading(most=sent):
                await market.more(20)
            counts = Counter(one.relay for one in await stored(market)) - before
            return held == await market.shared(names)

        await until(nothing_moved, "each relay keeps its partitions")
    even = counts.total() / relays
    assert all(abs(counts[name] - even) <= 0.2 * even for name in names), counts


async def test_frozen_relay_gets_no_live_message(tmp_path: Path) -> None:
    """Once the others have noticed, nats-server has ended its connection, and that of its door."""
    async with Sharers(tmp_path / "bus", 1) as market:
        for name in ("r0", "r1"):
            await market.start_relay(name)
        await market.shared(["r0", "r1"])
        await market.shared(await ACTS["freezes"](market))
        nc = await market.nats()
        try:
            for _ in range(20):
                # Each relay answers in turn. A frozen one would not.
                answer = await nc.request("relay.ping", b"", PATIENCE_S)
                assert json.loads(answer.data)["relay"] == "r1"
        finally:
            await nc.close()
        async with market.bot("t0") as bot:
            for number in range(20):
                await bot.publish("pulse.a", {"number": number}, timeout=25)
