"""Handlers that count as quick, however busy the machine is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sealbus.receiving import window
from tests.waiting import PATIENCE_S


@pytest.fixture
def quick_handlers() -> Iterator[pytest.MonkeyPatch]:
    """A bot fetches by the number of messages that it has handled, and not by their times.

    One handling that a busy machine holds up for a quarter of a second makes a window of one
    message, and then nothing waits behind the message at work. ``undo()`` ends this early.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(window, "BEGIN_S", PATIENCE_S)
        yield patched
