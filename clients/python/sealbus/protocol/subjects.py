"""Names of bots and buses, subjects and patterns, and where each lives in NATS.

A *subject* is the topic of a message (``orders.placed``). On its way in it stands in the envelope's
signed header alone; on its way out it is a NATS subject too:

======================== =====================================================================
``send.<bot>``           a bot's envelopes on their way in, stored before they are judged (stream)
``call.<bot>``           a bot's envelopes on their way in, judged at once (live)
``bus.<subject>``        envelope and stamp on their way out to subscribers
``inbox.<bot>.<nonce>``  the relay's stamp for the bot that sent the message with that nonce
``inbox.<bot>.receipts`` several such stamps in one NATS message
``inbox.<bot>.notice``   the relay's notice that it ends sessions of the bot
======================== =====================================================================

So no NATS subject that a relay reads has a part that a bot chose: nats-server lets a client publish
to subjects with bytes that are not text, and with wildcards taken literally, and a client library
that meets one in a delivery may not survive it (ADR 3).

A *pattern* is a subject in which ``*`` stands for one token and a final ``>`` for one or more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from sealbus.errors import InvalidInput
from sealbus.protocol.limits import (
    MAX_NAME_CHARS,
    MAX_SCHEMA_VERSION,
    MAX_SUBJECT_BYTES,
    MAX_SUBJECT_TOKENS,
    MAX_TOKEN_CHARS,
)

RELAY: Final = "sealbus"
"""The name under which the relay itself speaks. No bot may have it."""

RESERVED: Final = frozenset({"sealbus", "reply"})
"""First tokens that belong to the bus: its own services, and answers to requests."""

SEND: Final = "send"
CALL: Final = "call"
BUS: Final = "bus"
INBOX: Final = "inbox"
REPLY: Final = "reply"
RECEIPTS: Final = "receipts"
NOTICE: Final = "notice"

GENESIS: Final = f"{RELAY}.genesis"
CLOSED: Final = f"{RELAY}.closed"
_BOOKKEEPING: Final = (GENESIS.encode(), CLOSED.encode())

DURABLE: Final = r"[a-z0-9][a-z0-9_-]{0,63}"
"""A durable subscription's name, as a regular expression: one token of a subject."""

CONSUMER: Final = rf"[a-z0-9-]{{1,{MAX_NAME_CHARS}}}_[a-z2-7]{{16}}"
"""The names that :func:`consumer_name` makes, as a regular expression."""

_DURABLE = re.compile(DURABLE)
_CONSUMER = re.compile(CONSUMER)
NAME_HINT: Final = (
    f"use 1-{MAX_NAME_CHARS} characters of a-z, 0-9 and -, beginning with a letter or digit"
)
"""The hint of an error about the name of a bot or a bus."""

_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{MAX_NAME_CHARS - 1}}}")
_TOKEN = rf"[a-z0-9][a-z0-9_-]{{0,{MAX_TOKEN_CHARS - 1}}}"
_SUBJECT = re.compile(rf"{_TOKEN}(?:\.{_TOKEN}){{0,{MAX_SUBJECT_TOKENS - 1}}}")
_PATTERN = re.compile(
    rf"(?:>|(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*)){{0,{MAX_SUBJECT_TOKENS - 1}}}(?:\.>)?)"
)


def is_name(text: str) -> bool:
    """Whether ``text`` can name a bot or a bus: 1-32 of ``a-z 0-9 -``, not beginning with ``-``."""
    return len(text) <= MAX_NAME_CHARS and _matches(_NAME, text)


def is_subject(text: str) -> bool:
    """Whether ``text`` is a subject: 1-16 tokens of ``a-z 0-9 _ -`` joined by dots, at most 200
    bytes."""
    return len(text) <= MAX_SUBJECT_BYTES and _matches(_SUBJECT, text)


@lru_cache(maxsize=4096)
def _matches(grammar: re.Pattern[str], text: str) -> bool:
    """Remembered, because a bus has few names and uses them all the time. Texts are short: at worst
    this keeps about 4 MiB."""
    return grammar.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Whether ``text`` is a subject, or one with ``*`` tokens and/or a final ``>``, which counts as
    a token."""
    return (
        len(text) <= MAX_SUBJECT_BYTES
        and text.count(".") < MAX_SUBJECT_TOKENS
        and _PATTERN.fullmatch(text) is not None
    )


def is_own(subject: str) -> bool:
    """Whether ``subject`` is one of the bus's own: a service that the relay alone answers, or its
    health."""
    return subject.partition(".")[0] == RELAY


def check_name(text: object, what: str = "bot") -> str:
    """Return ``text`` if it is a name, else raise :class:`InvalidInput` that says which characters
    it may have."""
    if not isinstance(text, str) or not is_name(text):
        raise InvalidInput(
            f"{what} name {text!r} is not valid",
            hint=NAME_HINT,
        )
    return text


def check_subject(text: object) -> str:
    """Return ``text`` if it is a subject, else raise :class:`InvalidInput`."""
    if not isinstance(text, str) or not is_subject(text):
        raise InvalidInput(
            f"subject {text!r} is not valid",
            hint="use tokens of a-z, 0-9, _ and - joined by dots, like orders.placed; no wildcards",
        )
    return text


def check_pattern(text: object) -> str:
    """Return ``text`` if it is a pattern, else raise :class:`InvalidInput`."""
    if not isinstance(text, str) or not is_pattern(text):
        raise InvalidInput(
            f"pattern {text!r} is not valid",
            hint="use a subject like orders.placed, with * for one token or a final > for one or "
            "more",
        )
    return text


def check_durable(text: object) -> str:
    """Return ``text`` if it can name a durable subscription, else raise :class:`InvalidInput`."""
    if not isinstance(text, str) or not _DURABLE.fullmatch(text):
        raise InvalidInput(
            f"durable name {text!r} is not valid",
            hint="use 1-64 characters of a-z, 0-9, _ and -, beginning with a letter or digit",
        )
    return text


def split_schema(name: object) -> tuple[str, int]:
    """``orders.placed.v1`` as the envelope's two fields: schema id ``orders.placed`` and version
    ``1``.

    Raises :class:`InvalidInput` unless the name is a subject, ``.v`` and a number of 1 to 65,535
    without leading zero.
    """
    identity, dot, number = name.rpartition(".v") if isinstance(name, str) else ("", "", "")
    good = (
        bool(dot)
        and is_subject(identity)
        and number.isascii()
        and number.isdigit()
        and number[0] != "0"
    )
    if not good or len(number) > 5 or int(number) > MAX_SCHEMA_VERSION:
        raise InvalidInput(
            f"schema name {name!r} is not valid",
            hint="use a subject and a version, like orders.placed.v1",
        )
    return identity, int(number)


def matches(pattern: str, subject: str) -> bool:
    """Whether ``subject`` (or a pattern, taken as the set it stands for) lies wholly within
    ``pattern``."""
    wanted, given = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(given) > at
        if at >= len(given) or given[at] == ">" or token not in ("*", given[at]):
            return False
    return len(given) == len(wanted)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if "*" not in (a, b) and a != b:
            return False
    return len(left) == len(right)


def beyond_stars(patterns: Iterable[str]) -> dict[str, str]:
    """The pattern of the subjects that go on where those of a pattern end, by that pattern.

    For each of ``patterns`` that ends with ``*``, unless another one covers all of these subjects.
    """
    given = dict.fromkeys(patterns)
    beyond = {one: f"{one}.>" for one in given if one.rsplit(".", maxsplit=1)[-1] == "*"}
    return {
        one: deep
        for one, deep in beyond.items()
        if not any(matches(other, deep) for other in given)
    }


def reply_subject(requester: str, nonce: bytes) -> str:
    """The subject of answers to the request with ``nonce`` that ``requester`` sent:
    ``reply.<bot>.<nonce hex>``."""
    return f"{REPLY}.{requester}.{nonce.hex()}"


def ingress_subject(bot: str, *, live: bool) -> str:
    """The NATS subject on which ``bot`` sends its envelopes: ``call.<bot>`` for live messages, else
    ``send.<bot>``."""
    return f"{CALL if live else SEND}.{bot}"


def receipt_subject(bot: str, nonce: bytes) -> str:
    """The NATS subject on which ``bot`` gets the relay's stamp for its message with ``nonce``."""
    return f"{INBOX}.{bot}.{nonce.hex()}"


def receipts_subject(bot: str) -> str:
    """The NATS subject on which ``bot`` gets several stamps together."""
    return f"{INBOX}.{bot}.{RECEIPTS}"


def notice_subject(bot: str) -> str:
    """The NATS subject on which ``bot`` gets notices (:mod:`sealbus.protocol.notice`)."""
    return f"{INBOX}.{bot}.{NOTICE}"


def is_bookkeeping(subject: bytes, prefix: str) -> bool:
    """Whether a NATS subject, below ``prefix``, is one on which relays keep notes of their own
    beside the accepted messages.

    Whoever subscribes to ``>`` sees them too. They are for no subscriber.
    """
    return subject.removeprefix(prefix.encode() + b".") in _BOOKKEEPING


def consumer_name(bot: str, pattern: str, durable: str) -> str:
    """The JetStream consumer behind a bot's durable subscription.

    It begins with the bot's name and ``_`` (which no bot's name contains), so that a session can be
    given its own bot's consumers and no other's; the rest is 80 bits of SHA-256 over pattern and
    durable name.
    """
    digest = hashlib.sha256(f"{pattern}\0{durable}".encode()).digest()[:10]
    return f"{bot}_{base64.b32encode(digest).decode().lower()}"


def consumer_owner(consumer: str) -> str | None:
    """The bot that the JetStream consumer ``consumer`` belongs to; ``None`` where that is not the
    name of a durable subscription's consumer."""
    return consumer.rpartition("_")[0] if _CONSUMER.fullmatch(consumer) else None


def nonce_in(subject: bytes) -> bytes | None:
    """The nonce that the NATS subject ``subject`` ends with, if it does."""
    try:
        return bytes.fromhex(subject.rpartition(b".")[2].decode("ascii"))
    except ValueError:
        return None
