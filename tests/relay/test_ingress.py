"""What a partition's worker makes of what the server says about its requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import sentinel

import pytest

from sealbus_broker.relay.ingress import IngressWorker

TIMEOUT, NOT_PINNED = b"NATS/1.0 408 Request Timeout\r\n\r\n", b"NATS/1.0 423 Nats-Pin-Id mismatch\r\n\r\n"


class Connection:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def new_inbox(self) -> str:
        return "_INBOX.relay"

    def write(self, frames: Sequence[bytes]) -> None:
        self.frames += frames


@pytest.mark.parametrize("status", [TIMEOUT, NOT_PINNED])
async def test_what_is_said_of_an_earlier_request_does_not_end_this_one(status: bytes) -> None:
    """Each such word would otherwise leave one request more at the server, for ever."""
    connection = Connection()
    worker = IngressWorker(cast("Any", connection), 0, sentinel.process)
    worker._ask()
    worker._ended()
    worker._ask()
    first, second = (frame.split(b" ", 3)[2] for frame in connection.frames)
    worker._on_message(first, b"", status, b"")
    assert worker._asking is not None
    worker._on_message(second, b"", status, b"")
    assert worker._asking is None
