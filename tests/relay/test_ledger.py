"""The time from which a ledger is complete, as the relay concludes it from the stream's state."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import sentinel

import pytest
from structlog.testing import capture_logs

from sealbus_broker.relay.store.ledger import READS_AT_ONCE, Copy, Ledger


def a_ledger(*, in_memory: bool = False) -> Ledger:
    return Ledger(sentinel.no_connection_is_used, "ACCEPTED", in_memory=in_memory)


def test_a_young_stream_is_complete_from_its_first_message_on() -> None:
    ledger = a_ledger()
    ledger.set_state(5_000, 1, 6_000)
    assert ledger.since_ms == 5_000


def test_a_stream_whose_first_message_aged_out_is_complete() -> None:
    ledger = a_ledger()
    ledger.set_state(None, 100, 6_000)
    assert ledger.since_ms is None


def test_a_stream_that_came_back_shorter_begins_anew_for_good() -> None:
    ledger = a_ledger()
    ledger.set_state(None, 100, 6_000)
    ledger.set_state(None, 50, 7_000)
    assert ledger.since_ms == 7_000
    ledger.set_state(None, 60, 8_000)
    assert ledger.since_ms == 7_000


def test_shorter_stream_has_lost_ids() -> None:
    ledger = a_ledger()
    ledger.set_state(1_000, 1, 2_000)
    ledger.remember(40)
    ledger.set_state(1_000, 39, 9_000)
    assert ledger.since_ms == 9_000


def test_a_new_stream_in_memory_begins_alike_for_all_relays() -> None:
    """If one relay refuses a message as older than the ledger, another must not accept it."""
    first, second = a_ledger(in_memory=True), a_ledger(in_memory=True)
    for ledger, noticed_ms in ((first, 7_000), (second, 9_000)):
        ledger.set_state(1_000, 40, 2_000)
        ledger.set_state(6_000, 1, noticed_ms)
    assert first.since_ms == second.since_ms == 6_000


@pytest.mark.parametrize(
    ("in_memory", "said"),
    [
        (
            False,
            {
                "event": "ledger.shrank",
                "log_level": "error",
                "stream": "ACCEPTED",
                "was": 40,
                "now": 39,
            },
        ),
        (True, {"event": "ledger.replaced", "log_level": "info", "stream": "ACCEPTED"}),
    ],
)
def test_the_log_says_that_a_ledger_lost_ids(in_memory: bool, said: dict[str, object]) -> None:
    """It is an error, unless the server was restarted and had the stream in memory."""
    ledger = a_ledger(in_memory=in_memory)
    with capture_logs() as logs:
        ledger.set_state(1_000, 40, 2_000)
        ledger.set_state(1_000, 39, 9_000)
        ledger.set_state(1_000, 39, 9_500)
    assert logs == [said]


async def test_few_reads_of_stored_messages_are_under_way_at_once() -> None:
    """With 256 reads of 0.5 MB at once nats-server would cut the relay off (``max_pending``)."""
    under_way, most = 0, 0

    class Connection:
        async def request(self, *_: Any) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            headers = {
                "Nats-Subject": "accepted.orders.placed",
                "Nats-Time-Stamp": "1970-01-01T00:00:01.001999999Z",
            }
            return SimpleNamespace(headers=headers, data=b"stored")

    ledger = Ledger(cast("Any", Connection()), "ACCEPTED")
    assert await asyncio.gather(*map(ledger.copy, range(256))) == [Copy(b"stored", 1_001)] * 256
    assert most == READS_AT_ONCE
