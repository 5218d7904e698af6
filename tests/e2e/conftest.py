"""A running shop for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.shop import Shop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """The example shop: a nats-server and one relay."""
    async with Shop(tmp_path / "shop") as running:
        await running.start_relay()
        yield running
