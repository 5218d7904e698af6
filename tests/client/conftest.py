"""Fixtures that several tests of the client share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sealbus.sending import sender as sender_module
from sealbus.sending.publisher import Publisher
from tests.client.servers import Serve, serving
from tests.client.wire import Wire, publisher_on
from tests.waiting import PATIENCE_S


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with serving(tmp_path) as start:
        yield start


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def publisher(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Publisher]:
    """It sends nothing again by itself.

    A machine that stands still for 2 s would make it send a message a second time, in the middle of
    any test. A test that needs more attempts asks for ``retrying``.
    """
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 10 * PATIENCE_S)
    async with publisher_on(wire) as made:
        yield made


@pytest.fixture
def retrying(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the publisher send each message again and again, from 0.01 s on."""
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 0.01)
