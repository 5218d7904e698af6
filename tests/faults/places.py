"""The places where a running bus is stopped.

They are the steps of an acceptance, in the order of the argument in ``docs/threats.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND_S: Final = 1.0

TAKEN_OVER_S: Final = 2.5
"""Longer than a partition waits for a silent relay."""

LATE_S: Final = 10.4
"""Longer than the shelf life of a verdict and the clock difference together."""


@dataclass(frozen=True)
class Step:
    """A place where a process stops."""

    name: str
    number: str
    """The number of the step in the argument."""
    where: str
    trap: str
    """The name of the trap in :mod:`tests.faults.traps`."""
    after: str = ""
    """The trap at which the other relay must stop first, so that a process comes to this one."""
    server: bool = False
    """Whether nats-server is stopped, and not the process that comes to the trap."""
    live: bool = False
    copy: bool = False
    """Whether the message is a copy of one that was accepted before."""
    bad: bool = False
    """Whether the schema refuses the message."""
    restart: bool = False
    """Whether nats-server is killed and started again, which leads to the trap."""
    pause_s: float | None = None
    """How long the stop lasts in the short version.

    ``None`` if it lasts until the sender has its verdict from the other relay.
    """


_STREAM: Final = (
    Step("arrived", "2", "a message is delivered, and not judged", "arrived"),
    Step("judged", "3", "it is judged, and not stamped", "judged"),
    Step("stamped", "3, 4", "it is stamped, and not written", "stamped"),
    Step("written", "4, 9", "it is written, and not confirmed", "written"),
    Step("confirmed", "9", "it is confirmed, and the relay has not read that", "confirmed"),
    Step("stored", "9", "it is accepted, and its sender is not told", "stored"),
    Step("answered", "9", "its sender is told, and INGRESS is not", "answered"),
    Step(
        "copy-judged",
        "3, 7",
        "a copy of it is judged, and not stamped",
        "judged",
        copy=True,
        pause_s=TAKEN_OVER_S,
    ),
    Step(
        "copy-stamped",
        "4, 7",
        "a copy is stamped, and not written",
        "stamped",
        copy=True,
        pause_s=TAKEN_OVER_S,
    ),
    Step(
        "copy-found",
        "7",
        "the store has the id, and its copy is not read",
        "found",
        copy=True,
        pause_s=TAKEN_OVER_S,
    ),
    Step("refused", "11", "a message is refused, and INGRESS is not told", "refused", bad=True),
    Step(
        "refusal-confirmed",
        "11",
        "INGRESS is told, and the sender is not",
        "refusal-confirmed",
        bad=True,
    ),
    Step(
        "ledger-read",
        "8",
        "its ledger is read, after a restart of nats-server",
        "ledger-read",
        restart=True,
        pause_s=SECOND_S,
    ),
)
_LIVE: Final = (
    Step(
        "live-judged",
        "3",
        "a live message is judged, and not stamped",
        "judged",
        live=True,
        pause_s=SECOND_S,
    ),
    Step(
        "live-stamped",
        "3, 4",
        "it is stamped, and not written",
        "stamped",
        live=True,
        pause_s=SECOND_S,
    ),
    Step(
        "live-copy",
        "4, 7",
        "a copy is stamped, and not written",
        "stamped",
        live=True,
        copy=True,
        pause_s=SECOND_S,
    ),
    Step(
        "live-written",
        "4, 9",
        "it is written, and not confirmed",
        "written",
        live=True,
        pause_s=SECOND_S,
    ),
    Step(
        "live-stored",
        "9",
        "it is accepted, and its sender is not told",
        "stored",
        live=True,
        pause_s=SECOND_S,
    ),
)
_SERVER: Final = (
    Step(
        "server-before-write",
        "4",
        "a message is about to be written",
        "stamped",
        server=True,
        pause_s=SECOND_S,
    ),
    Step(
        "server-copy",
        "4, 7",
        "a copy is about to be written",
        "stamped",
        server=True,
        copy=True,
        pause_s=SECOND_S,
    ),
    Step(
        "server-late",
        "4, 9",
        "the same, for longer than the shelf life",
        "stamped",
        server=True,
        pause_s=LATE_S,
    ),
    Step(
        "server-written",
        "4, 9",
        "a message has just been written",
        "written",
        server=True,
        pause_s=SECOND_S,
    ),
    Step(
        "server-answered",
        "9",
        "INGRESS is about to be told",
        "answered",
        server=True,
        pause_s=SECOND_S,
    ),
    Step(
        "server-refused",
        "11",
        "it is about to be told of a refusal",
        "refused",
        server=True,
        bad=True,
        pause_s=SECOND_S,
    ),
)
OF_SUBSCRIBERS: Final = (
    Step("delivered", "4", "a message is there, and not checked", "delivered", pause_s=SECOND_S),
    Step("looked", "4", "it is not void, and its handler not called", "looked", pause_s=SECOND_S),
    Step("handled", "4", "it is handled, and not acknowledged", "handled", pause_s=SECOND_S),
    Step(
        "heard",
        "4",
        "a live message is there, and not checked",
        "heard",
        live=True,
        pause_s=SECOND_S,
    ),
    Step(
        "heard-looked",
        "4",
        "it is young enough, and its handler not called",
        "looked",
        live=True,
        pause_s=SECOND_S,
    ),
)
STEPS: Final = (*_STREAM, *_LIVE, *_SERVER, *OF_SUBSCRIBERS)

CLOSING: Final = Step(
    "closing",
    "10",
    "a message that another relay has stamped is refused, and its id is not closed",
    "closing",
    after="stamped",
)
"""Only the long version reaches it.

A message must be allowed to wait for less than the ten seconds before it is delivered again.
"""
