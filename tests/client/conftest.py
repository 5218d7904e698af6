"""Fixtures that several tests of the client share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sealbus.sending.publisher import Publisher
from tests.client.wire import Wire, publisher_on


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def publisher(wire: Wire) -> AsyncIterator[Publisher]:
    async with publisher_on(wire) as made:
        yield made
