"""The name by which nats-server knows a session: the bot, and the key that it logged in with.

The door puts it into the session's rights, so no client chooses it. nats-server's list of
connections (CONNZ) shows it, and finds sessions by it.
"""

from __future__ import annotations

from sealbus.protocol.keys import KeyKind, PublicKey


def session_name(bot: str, key: bytes) -> str:
    """Return the name of the sessions of ``bot`` with the raw public key ``key``."""
    return f"{bot} {PublicKey(key, KeyKind.BOT).text}"


def read_session_name(name: str) -> tuple[str, str]:
    """Return the bot, and its public key as text (``U…``).

    The key is ``""`` in a session that an earlier version admitted.
    """
    bot, _, key = name.partition(" ")
    return bot, key
