"""Handlers that count as quick, however busy the machine is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from sealbus.receiving import window
from tests.waiting import PATIENCE_S


@pytest.fixture
def quick_handlers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A bot fetches by the number of messages that it has handled, and not by their times.

    One handling that a busy machine holds up for a quarter of a second makes a window of one
    message, and then nothing waits behind the message at work. A call of the result ends this.
    """
    begin_s = window.BEGIN_S
    monkeypatch.setattr(window, "BEGIN_S", PATIENCE_S)
    return partial(monkeypatch.setattr, window, "BEGIN_S", begin_s)
