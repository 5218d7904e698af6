"""Pull requests to one JetStream consumer: their numbers, their text, and the count of messages to
come.

A request names how many messages it may bring. Each has a reply subject of its own, so that a
*status* (a message of the server without a reply subject) says which request it is about: a status
of an earlier request must not end the one under way. The messages of a request do not say so; they
count for the last one.

A bot's durable subscription (:mod:`sealbus.nats.pull`) and a relay's partition
(``sealbus_broker.relay.ingress.pulling``) have this in common. Each of them decides when a request
is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from sealbus.nats.frames import pub


class PullRequests:
    """The requests to one consumer, one after the other."""

    def __init__(self, subject: str, inbox: str, *, ending: str = "") -> None:
        """
        Args:
            subject: takes the requests.
            inbox: a subject that nobody else uses. Tokens are added to it.
            ending: put behind the number of each request.
        """
        self._subject = subject.encode()
        self._inbox = inbox
        self._ending = ending
        self._reply = b""
        """Reply subject of the last request."""
        self.made = 0
        """How many requests there were."""
        self.outstanding = 0
        """How many messages the last request may still bring."""

    @property
    def answers(self) -> str:
        """The pattern of the subjects on which messages and statuses come."""
        return f"{self._inbox}.*{self._ending}"

    def next(self, count: int, terms: Mapping[str, object]) -> bytes:
        """The frame of another request for ``count`` messages, which is the last one from now on.

        ``terms``: all fields of the request but the count.
        """
        self.made += 1
        self._reply = f"{self._inbox}.{self.made}{self._ending}".encode()
        self.outstanding = count
        text = json.dumps({"batch": count, **terms})
        return pub(self._subject, text.encode(), self._reply)

    def is_last(self, subject: bytes) -> bool:
        """Whether a status on ``subject`` is about the last request."""
        return subject == self._reply

    def brought_all(self) -> bool:
        """Count a message; return whether the last request can bring no other."""
        self.outstanding -= 1
        return self.outstanding <= 0
