"""The example of docs/testing.md, on a bus in memory and on a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples.testing import test_listener as example
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.testing import real_bus

test_listener_hears_a_greeting = example.test_listener_hears_a_greeting
test_wrong_greeting_is_refused = example.test_wrong_greeting_is_refused
test_listener_may_not_greet = example.test_listener_may_not_greet


Bus = TestBus | real_bus.RealBus


def in_memory(folder: Path) -> TestBus:
    scaffold(folder, "hello")
    return TestBus(folder)


def for_real(folder: Path) -> real_bus.RealBus:
    return real_bus.RealBus(folder)


@pytest.fixture(
    params=[
        pytest.param(in_memory, id="memory"),
        pytest.param(for_real, id="real", marks=pytest.mark.processes),
    ]
)
async def sealbus_bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    """In place of the plugin's own fixture, which reads one folder of a project."""
    async with request.param(tmp_path / "hello") as bus:
        yield bus
