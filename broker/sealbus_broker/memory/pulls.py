"""Requests for messages that wait at a consumer, and which of them is served next. Pure.

A consumer of the bus's ingress is *pinned*: one client at a time is given messages, and it names
its pin in each request. The requests of the others wait. A request that names an old pin ends with
the status 423.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from sealbus_broker.memory.accounts import Target
from sealbus_broker.memory.times import NS_PER_S


@dataclass(slots=True, eq=False)
class Request:
    """One request for messages."""

    target: Target
    """Where its messages and its status go."""
    batch: int
    """Messages that it may still bring."""
    max_bytes: int
    """Bytes that it may still bring; 0: any number."""
    no_wait: bool
    """Whether it ends when there is no message."""
    expires_ns: int | None
    """When it ends, by the server's clock; ``None``: it has no end of its own."""
    group: str | None
    """The priority group; ``None``: none was named."""
    pin: str
    """The pin that it names, or is given with its first message. Empty: none."""
    delivered: int = 0
    """Messages that it has brought."""

    @property
    def pending(self) -> dict[str, object]:
        """The messages and bytes that it did not bring, as headers of its status."""
        return {"Nats-Pending-Messages": self.batch, "Nats-Pending-Bytes": self.max_bytes}


class BadRequest(Exception):
    """A request that is refused, with a status and a sentence."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def read(body: bytes, target: Target, config: dict[str, Any], at_ns: int) -> Request:
    """Read one request. Raises :class:`BadRequest`. ``config``: the consumer's."""
    wanted = _fields(body)
    batch, expires = int(wanted.get("batch") or 1), int(wanted.get("expires") or 0)
    most, longest = config.get("max_batch") or 0, config.get("max_expires") or 0
    if most and batch > most:
        raise BadRequest(409, f"Exceeded MaxRequestBatch of {most}")
    if longest and expires > longest:
        raise BadRequest(409, f"Exceeded MaxRequestExpires of {longest // NS_PER_S}s")
    group, pin = wanted.get("group"), str(wanted.get("id") or "")
    is_pinned = config.get("priority_policy") == "pinned_client"
    if pin and not is_pinned:
        raise BadRequest(400, "Bad Request - Not a Pinned Client Priority consumer")
    if is_pinned and group is None:
        raise BadRequest(400, "Bad Request - Priority Group missing")
    if is_pinned and group not in config.get("priority_groups", ()):
        raise BadRequest(400, "Bad Request - Invalid Priority Group")
    return Request(
        target,
        batch,
        int(wanted.get("max_bytes") or 0),
        bool(wanted.get("no_wait")),
        at_ns + expires if expires else None,
        group,
        pin,
    )


def _fields(body: bytes) -> dict[str, Any]:
    text = body.strip()
    if not text.startswith(b"{"):
        return {"batch": int(text)} if text.isdigit() else {}
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BadRequest(400, "Bad Request - not JSON") from None
    return found


class Waiting:
    """The requests in their order."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()
        """The next one comes first."""

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Any:
        return iter(list(self._requests))

    def add(self, request: Request) -> None:
        """Put it behind the others."""
        self._requests.append(request)

    def remove(self, request: Request) -> None:
        """Take it out."""
        self._requests.remove(request)

    def first(self) -> Request | None:
        """The next one."""
        return self._requests[0] if self._requests else None

    def skip(self) -> None:
        """Put the next one behind the others."""
        self._requests.rotate(-1)

    def served(self, request: Request) -> None:
        """It, the first, brought one message. It goes behind the others, or ends."""
        request.delivered += 1
        request.batch -= 1
        self._requests.popleft()
        if request.batch > 0:
            self._requests.append(request)
