"""A running shop for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealbus.receiving import listener, parking
from sealbus.sending import sender
from tests.e2e.shop import Shop
from tests.waiting import PATIENCE_S


@pytest.fixture
async def empty_shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The example shop without a relay."""
    async with Shop(tmp_path / "shop") as running:
        yield running


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The example shop: a nats-server and one relay."""
    async with Shop(tmp_path / "shop") as running:
        await running.start_relay()
        yield running


@pytest.fixture
def patient_parking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bots wait for the answer of a relay that parks a message, also when they close.

    Otherwise a bot gives the message back when a busy machine gives the relay no turn for seconds.
    """
    monkeypatch.setattr(parking, "PARKED_S", PATIENCE_S)
    monkeypatch.setattr(listener, "REQUEST_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def each_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client send each message only once, for tests that count messages.

    Otherwise a client sends again when a busy machine gives the relay no turn for a second.
    """
    monkeypatch.setattr(sender, "RETRY_FIRST_S", PATIENCE_S)
