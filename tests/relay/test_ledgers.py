"""Both ledgers, read from a NATS that is lost at the worst moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import sentinel

import pytest

from sealbus.protocol.streams import LIVE
from sealbus_broker.errors import ClocksApart
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.nats.jetstream import Json
from sealbus_broker.relay.store import ledgers as module
from sealbus_broker.relay.store.clocks import Apart
from sealbus_broker.relay.store.ledger import Ledger, LedgerState
from sealbus_broker.relay.store.ledgers import Ledgers
from tests.waiting import PATIENCE_S


async def test_answers_from_before_a_loss_count_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last answer comes, and then the connection ends, before the relay works on it."""
    answers = iter([1_000, 1_000, 5_000, 6_000])

    async def state(_: object, stream: str) -> LedgerState:
        since_ms = next(answers)
        if (stream, since_ms) == ("LIVE", 1_000):
            ledgers.invalidate()
        return LedgerState(since_ms, 1)

    async def agree(*_: object) -> None: ...

    monkeypatch.setattr(module, "ledger_state", state)
    monkeypatch.setattr(Ledgers, "_check_clocks", agree)
    ledgers = Ledgers(
        nc=sentinel.not_used,
        policy=cast("Any", SimpleNamespace),
        now_ms=lambda: 9_000,
        apart=Apart(),
    )
    await ledgers.read()
    since = {ledger.stream: ledger.since_ms for ledger in ledgers.by_delivery.values()}
    assert since == {"ACCEPTED": 5_000, "LIVE": 6_000}


async def test_ledger_without_a_leader_does_not_hold_up_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LIVE of a cluster may have no leader for minutes."""
    has_leader = asyncio.Event()

    async def state(_: object, stream: str, **__: object) -> LedgerState:
        if stream == "LIVE":
            await has_leader.wait()
        return LedgerState(7_000, 1)

    async def agree(*_: object) -> None: ...

    async def made(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(module, "ledger_state", state)
    monkeypatch.setattr(module, "provision", made)
    monkeypatch.setattr(Ledgers, "_check_clocks", agree)
    policy = cast("Any", lambda: None)
    policy.windows = None
    ledgers = Ledgers(nc=sentinel.not_used, policy=policy, now_ms=lambda: 9_000, apart=Apart())
    ledgers.invalidate()
    goes_on = asyncio.Event()
    reading = asyncio.create_task(ledgers.reread(goes_on.set))
    async with asyncio.timeout(PATIENCE_S):
        await goes_on.wait()
        await ledgers.by_delivery[DeliveryClass.STREAM].wait_valid()
        assert not reading.done()
        has_leader.set()
        await reading
        await ledgers.by_delivery[DeliveryClass.LIVE].wait_valid()


@pytest.mark.parametrize("stream", ["INGRESS", "ACCEPTED", "LIVE"])
async def test_the_clock_of_each_leader_counts(
    monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    """Each stream of a cluster may be led by another node, which dates its messages."""

    async def info(_: object, call: str, *__: object) -> dict[str, str]:
        minute = "01" if call.endswith(stream) else "00"
        return {"ts": f"1970-01-01T00:{minute}:00Z"}

    monkeypatch.setattr(module, "ask_well", info)
    limits = SimpleNamespace(clock_skew_ms=1_000)
    policy = cast("Any", lambda: SimpleNamespace(limits=limits))
    ledgers = Ledgers(nc=sentinel.not_used, policy=policy, now_ms=lambda: 0, apart=Apart())
    with pytest.raises(ClocksApart, match=stream):
        await ledgers.read()


def a_reader(monkeypatch: pytest.MonkeyPatch, look: Json) -> Ledgers:
    """Ledgers of which LIVE's has come to 10. The next look at LIVE finds ``look``, and reading it
    again gives a ledger from 7,000 on."""

    async def clock(*_: object) -> Json:
        return {"ts": "1970-01-01T00:00:00Z"}

    async def info(*_: object) -> Json:
        return look

    async def state(*_: object, **__: object) -> LedgerState:
        return LedgerState(7_000, 3)

    async def made(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(module, "ask_well", clock)
    monkeypatch.setattr(module, "ask", info)
    monkeypatch.setattr(module, "ledger_state", state)
    monkeypatch.setattr(module, "provision", made)
    limits = SimpleNamespace(clock_skew_ms=60_000)
    policy = cast("Any", lambda: SimpleNamespace(limits=limits))
    policy.windows = None
    ledgers = Ledgers(nc=sentinel.not_used, policy=policy, now_ms=lambda: 0, apart=Apart())
    ledgers.by_delivery[DeliveryClass.LIVE].set_state(None, 10, 0)
    return ledgers


@pytest.mark.parametrize("stored", [False, True])
async def test_live_that_began_anew_is_read_again(
    monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """All nodes of a cluster may lose it in a row, and the relay keeps its connection.

    ``stored``: the answer to a message has shown it first.
    """
    ledgers = a_reader(monkeypatch, {"created": "one", "state": {"last_seq": 3}})
    live = ledgers.by_delivery[DeliveryClass.LIVE]
    if stored:
        assert live.is_of_another(1, 10)
        assert not live.is_valid
    await ledgers._look_at_live()
    assert (live.since_ms, live.last_sequence, live.is_valid) == (7_000, 3, True)


async def test_live_that_goes_on_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = a_reader(monkeypatch, {"created": "one", "state": {"last_seq": 10}})
    for _ in range(2):
        await ledgers._look_at_live()
    assert ledgers.by_delivery[DeliveryClass.LIVE].since_ms is None


async def test_live_that_was_made_again_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it has as many messages as before."""
    look: Json = {"created": "one", "state": {"last_seq": 10}}
    ledgers = a_reader(monkeypatch, look)
    await ledgers._look_at_live()
    look["created"] = "another time"
    await ledgers._look_at_live()
    assert ledgers.by_delivery[DeliveryClass.LIVE].since_ms == 7_000


NO_LEADER: list[Json] = [
    {"cluster": {"name": "shop"}, "state": {"last_seq": 10}},
    {"error": {"code": 503, "err_code": 10008}},
]
MISSING: Json = {"error": {"code": 404, "err_code": 10059}}


@pytest.mark.parametrize("look", NO_LEADER, ids=["no leader", "not available"])
async def test_ledger_of_a_live_without_a_leader_is_invalid(
    monkeypatch: pytest.MonkeyPatch, look: Json
) -> None:
    """Any relay may delete it, and this one may not take a message by the ledger before."""
    ledgers = a_reader(monkeypatch, look)
    live = ledgers.by_delivery[DeliveryClass.LIVE]
    await ledgers._look_at_live()
    assert not live.is_valid
    look.clear()
    look.update({"created": "one", "state": {"last_seq": 10}})
    await ledgers._look_at_live()
    assert (live.is_valid, live.since_ms) == (True, 7_000)


async def test_a_missing_live_is_made_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = a_reader(monkeypatch, MISSING)
    made = list[object]()

    async def make(*_: object, only: object, **__: object) -> None:
        made.append(only)

    monkeypatch.setattr(module, "provision", make)
    await ledgers._look_at_live()
    assert made == [(LIVE,)]
    assert ledgers.by_delivery[DeliveryClass.LIVE].since_ms == 7_000


@pytest.mark.slow
async def test_clocks_are_compared_while_live_has_no_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledgers = a_reader(monkeypatch, NO_LEADER[0])
    stopping, looks = asyncio.Event(), 0

    async def clock(*_: object) -> Json:
        nonlocal looks
        looks += 1
        if looks == 3 * len(module.DATING):
            stopping.set()
        return {"ts": "1970-01-01T00:00:00Z"}

    monkeypatch.setattr(module, "RETRY_S", 0)
    monkeypatch.setattr(module, "ask_well", clock)
    async with asyncio.timeout(PATIENCE_S):
        await ledgers.compare_clocks(stopping)


def test_only_a_ledger_in_memory_is_replaced() -> None:
    """One on disk that is shorter than it was has lost ids, and a reading says so."""
    live, accepted = (Ledger(sentinel.not_used, LIVE, in_memory=one) for one in (True, False))
    for ledger in (live, accepted):
        ledger.set_state(None, 10, 0)
    assert not live.is_of_another(11, 10)
    assert live.is_valid
    assert not accepted.is_of_another(1, 10)
    assert accepted.is_valid
