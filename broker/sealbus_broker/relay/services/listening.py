"""Finding out whether anybody listens to a request.

NATS answers a message that has a reply subject with ``503`` at once, if nobody is subscribed to its
subject. It gives no such answer for the delivery of a request, which comes out of a stream. So the
relay publishes an empty message behind the delivery, on the same subject. Subscribers ignore it.
Where there is no subscriber, the 503 comes back here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.subjects import BUS

REMEMBERED: Final = 4096
"""How many requests are remembered until NATS may have answered. It answers within a millisecond,
so these are more requests than a relay can judge in that time."""

_NO_RESPONDERS: Final = b"NATS/1.0 503"


@dataclass(frozen=True, slots=True)
class Asked:
    """An accepted request."""

    bot: str
    """The requester."""
    subject: str
    nonce: bytes
    stamp: bytes
    """The sealed stamp that accepted it."""


class Listening:
    """Asks NATS about requests."""

    def __init__(self, nc: HardenedClient, nobody: Callable[[Asked], None]) -> None:
        """``nobody`` is called with each request to which nobody listens."""
        self._nc = nc
        self._nobody = nobody
        self._inbox = nc.new_inbox()
        """The subject of NATS's answers, without its last token, the request's number."""
        self._asked: OrderedDict[bytes, Asked] = OrderedDict()
        """The requests about which NATS was asked, by the subject of its answer, oldest first."""
        self._begun = 0
        """How many requests there were."""

    async def open(self) -> None:
        """Subscribe to NATS's answers. Call once, before :meth:`probe`."""
        await self._nc.subscribe_direct(f"{self._inbox}.*", self._on_answer)

    def probe(self, asked: Asked) -> bytes:
        """Return the frame that asks NATS. Write it behind the request's delivery."""
        self._begun += 1
        name = b"%b.%x" % (self._inbox.encode(), self._begun)
        self._asked[name] = asked
        # Where somebody listens, NATS answers nothing. So most entries leave only here.
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        return pub(f"{BUS}.{asked.subject}".encode(), b"", name)

    def _on_answer(self, subject: bytes, _: bytes, headers: bytes, __: bytes) -> None:
        asked = self._asked.pop(subject, None)
        if asked is not None and headers.startswith(_NO_RESPONDERS):
            self._nobody(asked)
