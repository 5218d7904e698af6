"""The two names of a session in nats-server's list of connections (CONNZ).

*The session's name* is the bot and its enrolled key. The door puts it into the session's rights, so
no client chooses it, and nats-server finds sessions by it.

*The client's name* is what the client calls itself in CONNECT. With a session key, the door admits
no other name than the one that tells the key and the times of its certificate
(:attr:`sealbus.protocol.admission.AdmissionText.client_name`). Without one, it admits no name of
that form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sealbus.protocol.keys import KeyKind, PublicKey

_CERTIFIED: Final = re.compile(r"[^ ]+ (U[A-Z2-7]{55}) ([0-9]{1,15}) ([0-9]{1,8})")
"""The name of a client with a session key. A time of six bytes has at most 15 digits, and a day in
milliseconds has eight."""


def session_name(bot: str, key: bytes) -> str:
    """Return the name of the sessions of ``bot`` with the raw enrolled key ``key``."""
    return f"{bot} {PublicKey(key, KeyKind.BOT).text}"


def read_session_name(name: str) -> tuple[str, str]:
    """Return the bot, and its public key as text (``U…``).

    The key is ``""`` in a session that an earlier version admitted.
    """
    bot, _, key = name.partition(" ")
    return bot, key


@dataclass(frozen=True, slots=True)
class Certified:
    """What a client's name tells of its session key."""

    key: str
    """The session key (``U…``)."""
    not_before_ms: int
    """The beginning of its certificate (ms since 1970)."""
    life_ms: int


def read_client_name(name: object) -> Certified | None:
    """Return what a client's name tells of a session key, or ``None`` where it tells of none.

    The door admits no name that lies. It admits any other name of a bot without a session key.
    """
    told = _CERTIFIED.fullmatch(name) if isinstance(name, str) else None
    return Certified(told[1], int(told[2]), int(told[3])) if told else None
