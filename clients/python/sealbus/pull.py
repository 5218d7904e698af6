"""Pulling from one JetStream consumer on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from typing import Any, Final

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from sealbus.frames import pub
from sealbus.hardened import HardenedClient

PULL_MESSAGES: Final = 128
"""Most messages in hand: asked for, or waiting for the handler. Each must be handled within 30 s, or the server delivers it again."""

PULL_S: Final = 5.0
"""How long a request for messages waits at the server; also how soon a lost one is noticed."""

REFUSED_S: Final = 1.0
"""Pause before the next request where the server would not have the last one (too many of them, or no such consumer any more)."""

_ENDED: Final = (b"NATS/1.0 404", b"NATS/1.0 408")
"""Nothing there; its time is over."""


class Pull:
    """Requests for messages to one consumer on one connection, one at a time, and what came for them."""

    def __init__(self, client: HardenedClient, consumer: str, inbox: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer}".encode()
        self._inbox = inbox
        self._requests = 0
        self._reply = b""
        """Of the last request, and of no other: what the server says of an earlier one is not about this one."""
        self._changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.waiting: deque[tuple[bytes, bytes, bytes]] = deque()
        """Subject, reply and body of each message that came and was not taken yet."""
        self.outstanding = 0
        """How many messages the request under way may still bring; 0: there is none."""

    async def open(self, stop: asyncio.Task[Any]) -> None:
        """Subscribe; :meth:`changed` also returns when ``stop`` is done or the connection is closed."""
        self._subscription = await self._client.subscribe_direct(f"{self._inbox}.*.pull", self._receive)
        self._client.when_closed.add(self._changed.set)
        stop.add_done_callback(self._wake)
        self._stop = stop

    async def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is None:
            return
        if self._ending is not None:
            self._ending.cancel()
        self._stop.remove_done_callback(self._wake)
        self._client.when_closed.discard(self._changed.set)
        with contextlib.suppress(NatsError, OSError):
            await self._subscription.unsubscribe()

    def _wake(self, _: object) -> None:
        self._changed.set()

    def ask(self) -> None:
        """Ask for more, once the last request is over and little of what came is left: the server need not wait for the handler."""
        if self.outstanding or len(self.waiting) > PULL_MESSAGES // 2:
            return
        self._requests += 1
        self._reply = f"{self._inbox}.{self._requests}.pull".encode()
        self.outstanding = PULL_MESSAGES - len(self.waiting)
        wanted = {"batch": self.outstanding, "expires": int(PULL_S * 1e9)}
        self._client.write([pub(self._subject, json.dumps(wanted).encode(), self._reply)])
        self._end_in(PULL_S + 1)

    def _end_in(self, seconds: float) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        """Nothing more will come for what has been asked."""
        if self._ending is not None:
            self._ending.cancel()
        self.outstanding = 0
        self._changed.set()

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if reply:
            self.waiting.append((subject, reply, data))
            self.outstanding -= 1
            if self.outstanding <= 0:
                self._end()
            self._changed.set()
        elif subject == self._reply:  # a status: this request is over
            if headers.startswith(_ENDED):
                self._end()
            else:
                self._end_in(REFUSED_S)

    async def changed(self) -> None:
        """Wait until something came or ended."""
        self._changed.clear()
        await self._changed.wait()
