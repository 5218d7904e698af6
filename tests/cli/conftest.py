"""One bus for all tests of the command line that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.bus import RunningBus, running_bus


@pytest.fixture(scope="package")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBus]:
    """The bus that the README starts with."""
    with running_bus(tmp_path_factory.mktemp("hello")) as bus:
        yield bus
