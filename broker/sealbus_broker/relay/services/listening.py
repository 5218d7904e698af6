"""Finding out whether anybody listens to a request.

NATS answers a message with ``503`` at once if it has a reply subject and nobody is subscribed to its own. A request's delivery
comes out of a stream, which NATS does not answer for. So the relay publishes an empty message behind it, on the same subject:
subscribers ignore it, and where there are none the answer comes back here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealbus.nats.frames import pub
from sealbus.nats.hardened import HardenedClient
from sealbus.protocol.subjects import BUS

REMEMBERED: Final = 4096
"""Requests whose answer by NATS may still come: it takes a millisecond, so this is for more requests than a relay can judge."""

_NO_RESPONDERS: Final = b"NATS/1.0 503"


@dataclass(frozen=True, slots=True)
class Asked:
    """An accepted request."""

    bot: str
    subject: str
    nonce: bytes
    stamp: bytes


class Listening:
    """Asks NATS, and tells ``nobody`` of each request that nobody listens to."""

    def __init__(self, nc: HardenedClient, nobody: Callable[[Asked], None]) -> None:
        self._nc = nc
        self._nobody = nobody
        self._inbox = nc.new_inbox()
        self._asked: OrderedDict[bytes, Asked] = OrderedDict()
        self._begun = 0

    async def open(self) -> None:
        """Subscribe to NATS's answers. Call once, before :meth:`probe`."""
        await self._nc.subscribe_direct(f"{self._inbox}.*", self._on_answer)

    def probe(self, asked: Asked) -> bytes:
        """The frame that asks NATS, to be written behind the request's delivery."""
        self._begun += 1
        name = b"%b.%x" % (self._inbox.encode(), self._begun)
        self._asked[name] = asked
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        return pub(f"{BUS}.{asked.subject}".encode(), b"", name)

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, __: bytes) -> None:
        asked = self._asked.pop(subject, None)
        if asked is not None and headers.startswith(_NO_RESPONDERS):
            self._nobody(asked)
