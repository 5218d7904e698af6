"""The events that a process writes down, and the histories of a bus.

A process appends each event to its diary as a line of JSON, in one write, so that a process that is
killed leaves whole lines. Only the last line may be broken. The times are those of the machine's
monotonic clock, which all processes share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

SENDER: Final = "sender"
SUBSCRIBER: Final = "subscriber"


@dataclass(frozen=True)
class Event:
    """One event.

    A sender's are ``begin`` of a message, and then ``accepted``, ``refused``, ``unresolved``,
    ``unsent`` (the bus never got it), ``doubted`` (a refusal that is not the last word), or
    ``too-late`` or ``closed`` (its outcome cannot be found out any more). A live message has
    ``live``. An asker's questions are ``ask`` and ``asked``.
    A subscriber's are ``handle`` when the handler is called, and ``handled`` or ``failed``.
    Both have ``ready``, ``lost`` (the connection), and ``stopping``.
    The attacker's are ``copy``, before he sends one.
    """

    at: float
    what: str
    number: int = -1
    bot: str = ""
    """The sender of a message."""
    nonce: str = ""
    index: int = 0
    stamp: str = ""
    """The SHA-256 of a stamp: two acceptances have two stamps."""
    reason: str = ""
    record: int | None = None
    """The number of a refused message in the quarantine."""
    digest: str = ""
    """The digest (hex) of the envelope that was refused, as its receipt has it."""
    live: bool = False


class Diary:
    """Writes down the events of one process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, what: str, number: int = -1, **fields: object) -> None:
        """Write an event down, before returning."""
        line = {"at": time.monotonic(), "what": what, "number": number, **fields}
        self._file.write(json.dumps(line).encode() + b"\n")


def events(path: Path) -> Iterator[Event]:
    """The events of a diary so far."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield Event(**json.loads(line))
        except ValueError:  # the last line of a process that was killed
            return


@dataclass
class Life:
    """One process of a bot, from its start to its end."""

    role: str
    """``sender``, ``subscriber`` or ``attacker``."""
    bot: str
    name: str
    mode: str = ""
    """How a sender works. Of a subscriber: ``one`` or ``shared``."""
    events: list[Event] = field(default_factory=list)
    killed_at: float | None = None
    told_at: float | None = None
    """When it was told to stop."""
    revoked_at: float | None = None
    """When the revocation of its key was complete."""
    code: int | None = None
    """Its exit code, if it has ended by itself."""
    disturbed: bool = False
    """Whether it was paused or cut off, so that a connection may be lost."""


@dataclass(frozen=True)
class Stored:
    """An accepted message in the stream ACCEPTED."""

    bot: str
    nonce: str
    index: int
    number: int
    sequence: int
    relay: str
    void: bool = False
    """Whether it was stored too late, so that nobody handles it."""


@dataclass(frozen=True)
class Kept:
    """A record of the quarantine."""

    sequence: int
    reason: str
    session: str
    nonce: str
    position: int | None
    """Of an undeliverable message: its sequence in ACCEPTED."""
    payloads: tuple[int, ...] | None
    """The places of the payloads in the envelope. ``None``: all."""
    digest: str = ""
    """The digest (hex) of the bytes that are kept, if they are an envelope. Withheld payloads do
    not change it, and other payloads would."""
    whole: tuple[int, ...] = ()
    """The places of the payloads that are not withheld from these bytes."""


@dataclass(frozen=True)
class Disturbance:
    """A fault that happened."""

    kind: str
    began: float
    healed: float


@dataclass
class History:
    """The events that all processes of a bus saw, and the messages that it holds in the end."""

    lives: list[Life] = field(default_factory=list)
    stored: list[Stored] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    waiting: list[tuple[str, str]] = field(default_factory=list)
    """Bot and nonce of messages that INGRESS had stored, and no relay had judged."""
    relays: int = 1
    nodes: int = 1
    memory: dict[str, int] = field(default_factory=dict)
    """The most resident bytes that each relay, server and subscriber ever had."""
    stuck: list[str] = field(default_factory=list)
    """What did not end, or did not go on, within its bound."""
    starved: bool = False
    """Whether the machine gave the harness no turn for so long that timers may have run out."""

    def of(self, role: str) -> list[Life]:
        """The lives of one role."""
        return [life for life in self.lives if life.role == role]

    def text(self) -> str:
        """All of it, as lines of JSON."""
        parts: list[object] = [
            *(asdict(life) for life in self.lives),
            *map(asdict, self.stored),
            *map(asdict, self.kept),
            *map(asdict, self.disturbances),
            {"waiting": self.waiting, "memory": self.memory, "stuck": self.stuck},
        ]
        return "".join(json.dumps(part) + "\n" for part in parts)
