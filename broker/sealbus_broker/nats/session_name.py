"""The name of a session in nats-server's list of connections (CONNZ).

It is the client's own name in CONNECT. The door admits no other name than the one that follows from
the admission text (:attr:`sealbus.protocol.admission.AdmissionText.client_name`). So the list tells
the truth of each session that a door has admitted under the name: whose session it is, which
enrolled key answers for it, and which session key it has.
nats-server takes the name from the client, and the rights of a session give it no name of their
own: at each reload, nats-server would look for that name in its configuration, find no such user,
and end the session (ADR 39).

An admitted client may send CONNECT again, with any bytes as its name. nats-server lists that name
for some milliseconds, until the door has refused it. So a name counts only if its bot and its keys
have the right form: a relay writes them into subjects. It may still be another bot's, whose public
key is no secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import is_name

_KEY: Final = "U[A-Z2-7]{55}"
_NAME: Final = re.compile(rf"([^ ]+) ({_KEY})(?: ({_KEY}) ([0-9]{{1,15}}) ([0-9]{{1,8}}))?")
"""A time of six bytes has at most 15 digits, and a day in milliseconds has eight."""


@dataclass(frozen=True, slots=True)
class Certified:
    """What a name tells of a session key."""

    key: str
    """The session key (``U…``)."""
    not_before_ms: int
    """The beginning of its certificate (ms since 1970)."""
    life_ms: int


@dataclass(frozen=True, slots=True)
class SessionName:
    """A name, taken apart."""

    bot: str
    """``""``: the name is nobody's, and no door admits it."""
    key: str
    """The enrolled key (``U…``). ``""``: the login is an errand, which reads one record."""
    certified: Certified | None
    """The session key. ``None``: the enrolled key seals itself."""


def read_session_name(name: str) -> SessionName:
    """Take a name apart. Of a name in another form, only the first word counts, as the bot."""
    told = _NAME.fullmatch(name)
    if told is None:
        bot = name.partition(" ")[0]
        return SessionName(bot if is_name(bot) else "", "", None)
    bot, key, session_key, begin, life = told.groups()
    if not is_name(bot) or not all(_is_key(one) for one in (key, session_key) if one):
        return SessionName("", "", None)
    certified = Certified(session_key, int(begin), int(life)) if session_key else None
    return SessionName(bot, key, certified)


# A check of the point takes longer than the rest of a session's row, and each list has the same
# names again.
@lru_cache(maxsize=8192)
def _is_key(text: str) -> bool:
    try:
        PublicKey.parse(text, KeyKind.BOT)
    except InvalidInput:
        return False
    return True
