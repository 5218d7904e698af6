"""The two names of a session in nats-server's list of connections (CONNZ).

*The session's name* is the bot and its enrolled key. The door puts it into the session's rights, so
no client chooses it, and nats-server finds sessions by it.

*The client's name* is what the client calls itself in CONNECT. The door admits no other name than
the one that tells the session key and the times of its certificate
(:attr:`sealbus.protocol.admission.AdmissionText.client_name`).
"""

from __future__ import annotations

from sealbus.protocol.keys import KeyKind, PublicKey


def session_name(bot: str, key: bytes) -> str:
    """Return the name of the sessions of ``bot`` with the raw enrolled key ``key``."""
    return f"{bot} {PublicKey(key, KeyKind.BOT).text}"


def read_session_name(name: str) -> tuple[str, str]:
    """Return the bot, and its public key as text (``U…``).

    The key is ``""`` in a session that an earlier version admitted.
    """
    bot, _, key = name.partition(" ")
    return bot, key


def read_client_name(name: str) -> tuple[str, tuple[int, int]]:
    """Return the session key (``U…``), and the beginning (ms since 1970) and the life (ms) of its
    certificate.

    ``""`` and zeros where the name tells none: the bot logged in with its enrolled key, or an
    earlier version admitted it.
    """
    words = name.split(" ")
    if len(words) != 4 or not all(one.isascii() and one.isdigit() for one in words[2:]):
        return "", (0, 0)
    return words[1], (int(words[2]), int(words[3]))
