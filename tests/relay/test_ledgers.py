"""Both ledgers, read from a NATS that is lost at the worst moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import sentinel

import pytest

from sealbus_broker.relay import ledgers as module
from sealbus_broker.relay.clocks import Apart
from sealbus_broker.relay.ledger import LedgerState
from sealbus_broker.relay.ledgers import Ledgers


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

    async def agree(_: Ledgers) -> None: ...

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
