"""A message on its way from NATS to a handler: verified, remembered, and answered to the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final

from sealbus.credentials import Credentials
from sealbus.delivery import Message, open_delivery
from sealbus.errors import Malformed
from sealbus.frames import pub
from sealbus.seal import Verifier
from sealbus.session import Session

log = logging.getLogger("sealbus")

PROGRESS_S: Final = 10.0
"""A handler that works longer says so this often: the server waits 30 s before it delivers again."""

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0
"""Before a message whose handler failed is delivered again: doubled with each attempt."""

REMEMBERED: Final = 65_536
"""Nonces of handled messages kept: minutes of a busy subject, about 8 MiB."""


class Seen:
    """The last messages that were handled, by sender and nonce: a nonce is its bot's own, and another may use the same."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bytes], None] = {}

    def __contains__(self, message: Message) -> bool:
        return (message.bot, message.nonce) in self._seen

    def add(self, message: Message) -> None:
        """Remember ``message``, and forget the oldest where there are too many."""
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[message.bot, message.nonce] = None


class Opener:
    """Turns what arrived into messages, and counts what was not one."""

    def __init__(self, credentials: Credentials, verifier: Verifier) -> None:
        self._credentials = credentials
        self._verifier = verifier
        self.refused: Counter[str] = Counter()
        """How many deliveries were refused, by what did not hold."""

    def open(self, subject: bytes, data: bytes, prefix: str) -> Message | None:
        """The verified message in ``data``, whose NATS subject begins with ``prefix`` and a dot; ``None`` for anything else."""
        credentials = self._credentials
        name = subject.decode("utf-8", "replace").removeprefix(f"{prefix}.")
        try:
            return open_delivery(data, name, credentials.bus, credentials.bus_keys, self._verifier)
        except Malformed as error:
            self.refuse(error.what)
            return None

    def refuse(self, why: str) -> None:
        """Count a delivery that is not believed."""
        self.refused[why] += 1
        log.warning("a delivery was refused: %s", why)


@dataclass(slots=True, eq=False)
class PendingMessage:
    """One message in hand. Live ones need no acknowledgement; for them the methods do nothing.

    As a context it is *in progress*: while the body runs, the server is told that it does.
    """

    message: Message
    _session: Session
    _reply: bytes = b""
    _attempt: int = 1
    _telling: asyncio.TimerHandle | None = None

    @property
    def is_durable(self) -> bool:
        """Whether the server delivers it again unless it is acknowledged."""
        return bool(self._reply)

    @property
    def attempt(self) -> int:
        """How often it has been delivered: 1 is the first time."""
        return self._attempt

    def acknowledge(self) -> None:
        """It is done: the server forgets it. Where this is lost the message comes again, and is known by its nonce."""
        self._answer(b"+ACK")

    def fail(self) -> None:
        """It is not done: the server delivers it again, later each time."""
        delay_s = min(RETRY_FIRST_S * 2 ** (self._attempt - 1), RETRY_MOST_S)
        self._answer(b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode())

    def __enter__(self) -> None:
        if self._reply:
            self._telling = asyncio.get_running_loop().call_later(PROGRESS_S, self._tell)

    def __exit__(self, *_: object) -> None:
        if self._telling is not None:
            self._telling.cancel()

    def _tell(self) -> None:
        self._answer(b"+WPI")
        self._telling = asyncio.get_running_loop().call_later(PROGRESS_S, self._tell)

    def _answer(self, text: bytes) -> None:
        if self._reply:
            self._session.write_soon(pub(self._reply, text))
