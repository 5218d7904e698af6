"""The rights of a bot's session in nats-server, inside the account BOTS. Pure.

A session has these rights, and no others:

========== =========================================================================================
publish    ``send.<bot>`` and ``call.<bot>``. For each consumer in the admission text, asking it for
           messages, and acknowledging them. By its name it must be the bot's own. Reading the list
           of the bus's keys.
subscribe  ``inbox.<bot>.>``, ``bus.reply.<bot>.>``, and ``bus.<pattern>`` for each grant. To a
           grant in a queue group only under the bot's own name, because in another bot's group it
           would take that bot's messages away.
========== =========================================================================================

nats-server takes ``bus.news.>`` for a subject that ``bus.news.*`` covers (2.15.1). So for a grant
that ends with ``*`` the session is denied everything below it. Such a grant cannot stand beside one
for a part of that: the loader refuses it (:mod:`sealbus_broker.policy.cross_checks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealbus.nats.acks import ack_subjects
from sealbus.nats.pull import next_subject
from sealbus.nats.records import KEYRING_READ
from sealbus.protocol.streams import ACCEPTED
from sealbus.protocol.subjects import BUS, INBOX, REPLY, beyond_stars, ingress_subject
from sealbus_broker.gate.policy import BotRule


@dataclass(frozen=True, slots=True)
class Rights:
    """The permissions of one session. Each entry is a pattern of NATS subjects."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    """``<pattern> <queue>`` allows that queue group, and no other."""
    deny: tuple[str, ...]
    """The session receives nothing on these, whatever it subscribes to."""


def rights(bot: BotRule, consumers: Sequence[str]) -> Rights:
    """Return the rights of a session.

    Args:
        bot: The bot with its grants.
        consumers: The consumers that the session may use. The caller has checked that they are the
            bot's own.
    """
    name = bot.name
    return Rights(
        publish=(
            ingress_subject(name, live=False),
            ingress_subject(name, live=True),
            *(next_subject(ACCEPTED, consumer) for consumer in consumers),
            *(ack_subjects(ACCEPTED, consumer) for consumer in consumers),
            # Everybody, because each bot has to follow the bus to its next key.
            KEYRING_READ,
        ),
        subscribe=(
            f"{INBOX}.{name}.>",
            f"{BUS}.{REPLY}.{name}.>",
            *(f"{BUS}.{pattern}" for pattern in bot.subscribe),
            # nats-server reads "subject queue". Where there is such an entry, the session may join
            # no other queue group.
            *(f"{BUS}.{pattern} {name}" for pattern in bot.subscribe),
        ),
        deny=tuple(f"{BUS}.{deep}" for deep in beyond_stars(bot.subscribe).values()),
    )
