"""The cells of the matrix of rights, and the rules for each.

The rules are those of ``docs/protocol.md``, section 9. They are written anew here, and share no
code with the product.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from random import Random  # noqa: TID251  # with a seed
from typing import Final

from sealbus.protocol.subjects import beyond_stars, consumer_name, overlap

NAMES: Final = ("a", "a-b", "ab", "b")
"""Bots. The first name is a prefix of the next two."""

STRANGER: Final = "a-b-c"
"""A name that no bot has."""

PLANNED: Final = (
    ("news.a.b",),
    ("news.*.b",),
    ("news.a.*", "work.*", "newsy.*.*"),
    ("news.*.*",),
    ("news.*.b.*",),
    ("news.*",),
    ("news.>", "news.a.*"),
    ("news.*.>", "news.a.b", "news.*.b"),
    ("news.a.*.b.*",),
    ("work",),
)
"""Some bot has each of these: ``*`` in each place, ``>``, two stars, and grants that overlap."""

FIRST: Final = ("news", "newsy", "work")
"""The first tokens of grants. One is a prefix of another."""


class Operation(Enum):
    """What a session tries."""

    PUBLISH = "publishes on"
    REQUEST = "sends a request on"
    SUBSCRIBE = "subscribes to"


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing that a session tries."""

    operation: Operation
    subject: str
    queue: str = ""
    """The queue group, if it is a subscription in one."""

    def __str__(self) -> str:
        group = f" in the queue group {self.queue}" if self.queue else ""
        return f"{self.operation.value} {self.subject}{group}"


@dataclass(frozen=True, slots=True)
class Rules:
    """The rights of one bot, and the rules about them."""

    name: str
    grants: tuple[str, ...]
    consumers: tuple[str, ...]
    """Those that its session has asked for."""

    def __str__(self) -> str:
        return f"{self.name} ({', '.join((*self.grants, *self.consumers))})"

    def allows(self, cell: Cell) -> bool:
        """Whether nats-server takes the frame."""
        if cell.operation is Operation.SUBSCRIBE:
            return self._may_subscribe(cell.subject, cell.queue)
        subject = cell.subject
        if self.pulls(subject) or self.acknowledges(subject):
            return True
        return self.sends(subject) or self.reads(subject)

    def sends(self, subject: str) -> bool:
        """Whether ``subject`` is one on which the bot sends envelopes to the relays."""
        return subject in (f"send.{self.name}", f"call.{self.name}")

    def pulls(self, subject: str) -> bool:
        """Whether ``subject`` asks a consumer of the session for messages."""
        return subject in [f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{one}" for one in self.consumers]

    def acknowledges(self, subject: str) -> bool:
        """Whether ``subject`` acknowledges messages of a consumer of the session."""
        return any(stands_for(f"$JS.ACK.ACCEPTED.{one}.>", subject) for one in self.consumers)

    def reads(self, subject: str) -> bool:
        """Whether ``subject`` reads the list of the bus's keys, which each bot may."""
        return subject == "$JS.API.DIRECT.GET.KEYRING.keyring"

    def is_answered(self, subject: str) -> bool:
        """Whether JetStream answers a request on ``subject``: a pull, a complete subject of
        acknowledgements, or the list of keys."""
        complete = subject.endswith((".1.1.1.1.0", ".*.*.*.*.*"))
        if self.pulls(subject) or self.reads(subject):
            return True
        return complete and self.acknowledges(subject)

    def may_receive(self, subject: str) -> bool:
        """Whether a message on ``subject`` may come to the bot."""
        own = self._is_own(subject)
        return own or any(stands_for(f"bus.{grant}", subject) for grant in self.grants)

    def _may_subscribe(self, pattern: str, queue: str) -> bool:
        if self._is_own(pattern):
            # No other bot may subscribe there, so the group takes messages away from nobody.
            return True
        return queue in ("", self.name) and (
            self.may_receive(pattern) or self.goes_beyond_a_star(pattern)
        )

    def goes_beyond_a_star(self, pattern: str) -> bool:
        """Whether nats-server takes a subscription that is wider than a grant.

        It does where ``>`` stands in the place of the last ``*`` of a grant. What goes on below the
        grant does not arrive.
        """
        wider = pattern.endswith(">") and not self.may_receive(pattern)
        return wider and self.may_receive(f"{pattern[:-1]}*")

    def _is_own(self, subject: str) -> bool:
        """Whether ``subject`` is below the inbox of the bot, or an answer to the bot."""
        return subject.startswith((f"inbox.{self.name}.", f"bus.reply.{self.name}."))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\*", r"[^.>]+")
    return re.compile(re.sub(">$", ".+", text))


def stands_for(pattern: str, subject: str) -> bool:
    """Whether ``pattern`` stands for ``subject``, or for all that the pattern ``subject`` does."""
    return _compiled(pattern).fullmatch(subject) is not None


# ---- policies ------------------------------------------------------------------------------------


def policy(seed: int) -> list[Rules]:
    """Four bots. Each has planned and random grants, and two consumers, one of them in use."""
    random = Random(seed)
    bots = []
    for at, name in enumerate(NAMES):
        grants = [*PLANNED[(len(NAMES) * seed + at) % len(PLANNED)]]
        for _ in range(random.randrange(4)):
            more = _a_grant(random)
            if _loads([*grants, more]):
                grants.append(more)
        bots.append(Rules(name, tuple(grants), (consumer(name, in_use=True),)))
    return bots


def consumer(name: str, *, in_use: bool) -> str:
    """A consumer of the bot: one that its session asks for, or another one."""
    return consumer_name(name, "orders.>", "used" if in_use else "spare")


def _a_grant(random: Random) -> str:
    tokens = [random.choice("ab*") for _ in range(random.randrange(4))]
    if tokens and random.random() < 0.3:
        tokens[-1] = ">"
    return ".".join([random.choice(FIRST), *tokens])


def _loads(grants: list[str]) -> bool:
    """Whether a policy may have these grants of one bot: the loader's rule."""
    deep = beyond_stars(grants).values()
    return not any(overlap(one, grant) for one in deep for grant in grants)


# ---- subjects ------------------------------------------------------------------------------------

WIDE: Final = (
    *(">", "*", "*.>", "*.*", "*.*.*", "*.*.*.*"),
    *("bus.>", "bus.*", "bus.*.>", "bus.*.*", "bus.*.*.*", "bus.reply.>", "bus.reply.*.*"),
    *("inbox.>", "inbox.*", "inbox.*.*", "inbox.*.>", "*.a.*", "*.a.>"),
    *("send.>", "send.*", "call.>", "call.*", "send.*.*", "ingress.>", "accepted.>", "live.>"),
    *("quarantine.>", "health.>", "progress.>", "relay.>", "relay.*"),
    *("_INBOX.>", "_INBOX.*", "_R_.>", "$JS.>", "$SYS.>", "$SRV.>", "$JS.*.*", "$SYS.*.*"),
)

INSIDE: Final = (
    *("bus", "inbox", "send", "call", "bus.reply", "bus.sealbus.closed", "bus.sealbus.genesis"),
    *("bus.sealbus.grants", "bus.sealbus.subscribe", "relay.ping", "relay.ping.x"),
    *("relay.reload", "relay.unheard", "health.probe", "progress.a", "_INBOX.x", "_INBOX.x.y"),
    *("_R_.x", "_GR_.x.y", "$SRV.PING", "$SRV.INFO.x", "$SRV.STATS.x.y", "$KV.x.y", "$O.x.C.y"),
)

SERVER: Final = (
    *("$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO", "$SYS.REQ.SERVER.PING"),
    *("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.x.CONNZ", "$SYS.REQ.SERVER.x.KICK"),
    *("$SYS.REQ.SERVER.x.LDM", "$SYS.REQ.SERVER.x.RELOAD", "$SYS.REQ.SERVER.*.KICK"),
    *("$SYS.REQ.ACCOUNT.BOTS.CONNZ", "$SYS.REQ.ACCOUNT.BUS.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ"),
    *("$SYS.REQ.ACCOUNT.BOTS.SUBSZ", "$SYS.ACCOUNT.BOTS.CONNECT", "$SYS.ACCOUNT.BOTS.DISCONNECT"),
    *("$SYS.ACCOUNT.>", "$SYS.SERVER.x.STATSZ", "$SYS.SERVER.*.CLIENT.AUTH.ERR"),
    *("$SYS.REQ.CLAIMS.UPDATE", "$SYS.DEBUG.SUBSCRIBERS", "$SYS.LATENCY.x"),
)

JETSTREAM: Final = (
    *("INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.CREATE.MINE", "STREAM.TEMPLATE.NAMES"),
    *("META.LEADER.STEPDOWN", "SERVER.REMOVE", "ACCOUNT.PURGE.BUS", ">", "CONSUMER.>"),
    *("CONSUMER.MSG.NEXT.>", "CONSUMER.MSG.NEXT.ACCEPTED.*", "CONSUMER.MSG.NEXT.ACCEPTED"),
)
"""After ``$JS.API.``."""

OF_STREAM: Final = (
    *("STREAM.INFO.{}", "STREAM.UPDATE.{}", "STREAM.DELETE.{}", "STREAM.PURGE.{}"),
    *("STREAM.SNAPSHOT.{}", "STREAM.RESTORE.{}", "STREAM.PEER.REMOVE.{}"),
    *("STREAM.MSG.GET.{}", "STREAM.MSG.DELETE.{}", "DIRECT.GET.{}", "DIRECT.GET.{}.accepted.a"),
    *("DIRECT.GET.{}.keyring", "DIRECT.GET.{}.*", "DIRECT.GET.{}.>", "DIRECT.GET.{}.record.x.y"),
    *("CONSUMER.NAMES.{}", "CONSUMER.LIST.{}", "CONSUMER.CREATE.{}"),
)

OF_CONSUMER: Final = (
    *("$JS.API.CONSUMER.MSG.NEXT.{}", "$JS.API.CONSUMER.MSG.NEXT.{}.x"),
    *("$JS.API.CONSUMER.INFO.{}", "$JS.API.CONSUMER.CREATE.{}", "$JS.API.CONSUMER.CREATE.{}.x"),
    *("$JS.API.CONSUMER.DURABLE.CREATE.{}", "$JS.API.CONSUMER.DELETE.{}"),
    *("$JS.API.CONSUMER.PAUSE.{}", "$JS.API.CONSUMER.UNPIN.{}", "$JS.API.CONSUMER.RESET.{}"),
    *("$JS.API.CONSUMER.LEADER.STEPDOWN.{}", "$JS.ACK.{}", "$JS.ACK.{}.1.1.1.1.0"),
    *("$JS.ACK.{}.x", "$JS.ACK.{}.>", "$JS.ACK.{}.*.*.*.*.*", "$JS.ACK.D.A.{}.1.1.1.1.0"),
    *("$JS.FC.{}.x", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}"),
)
"""``{}`` stands for stream and consumer."""

OF_BOT: Final = (
    *("send.{}", "send.{}.x", "send.{}.*", "send.{}.>", "call.{}", "call.{}.x"),
    *("inbox.{}", "inbox.{}.00ff", "inbox.{}.receipts", "inbox.{}.notice", "inbox.{}.pull.1"),
    *("inbox.{}.*", "inbox.{}.>", "inbox.{}.*.>", "inbox.{}x.y"),
    *("bus.reply.{}", "bus.reply.{}.00ff", "bus.reply.{}.*", "bus.reply.{}.>", "bus.*.{}.*"),
    *("ingress.16.0.{}", "quarantine.size.{}", "bus.{}", "bus.inbox.{}.00ff", "{}"),
)


def subjects(bots: list[Rules]) -> list[str]:
    """Every subject that the sessions of a policy are tried with."""
    found = [*WIDE, *INSIDE, *SERVER, *(f"$JS.API.{one}" for one in JETSTREAM)]
    found += [form.format(name) for name in (*NAMES, STRANGER) for form in OF_BOT]
    for stream in ("ACCEPTED", "INGRESS", "QUARANTINE", "KEYRING", "RECORDS"):
        found += [f"$JS.API.{form.format(stream)}" for form in OF_STREAM]
    owned = [consumer(name, in_use=used) for name in NAMES for used in (True, False)]
    places = [*(f"ACCEPTED.{one}" for one in owned), f"LIVE.{owned[0]}", "INGRESS.relay-16-0"]
    found += [form.format(place) for place in (*places, "ACCEPTED.*") for form in OF_CONSUMER]
    around = {one for bot in bots for grant in bot.grants for one in _around(grant)}
    found += [f"bus.{one}" for one in sorted(around)]
    plain = sorted(one for one in around if is_literal(one))
    found += [f"{stream}.{one}" for stream in ("accepted", "live") for one in plain]
    return list(dict.fromkeys(found))


def is_literal(subject: str) -> bool:
    """Whether ``subject`` has no wildcard."""
    return not {"*", ">"}.intersection(subject.split("."))


def _around(grant: str) -> Iterator[str]:
    """The grant, its subjects, and wider, narrower, deeper and shallower ones, and others."""
    tokens = grant.split(".")
    # ``>`` for one token and for two.
    for plain in _filled(tokens):
        for form in (tokens, plain):
            yield ".".join(form)
            yield from (".".join([*form[:at], ">"]) for at in range(1, len(form)))
            yield from (
                ".".join([*form[:at], other, *form[at + 1 :]])
                for at in range(1, len(form))
                for other in "*az"
            )
            yield ".".join(form[:-1] or form)
            if form[-1] != ">":
                yield from (".".join([*form, *more]) for more in ("a", "*", ">", "ab", ["*", ">"]))


def _filled(tokens: list[str]) -> Iterator[list[str]]:
    for filling in ("a", "b"):
        plain = [filling if token in "*>" else token for token in tokens]
        yield plain
        if tokens[-1] == ">":
            yield [*plain, filling]


def subscriptions(rules: Rules, tried: Iterable[str]) -> list[Cell]:
    """The subscriptions of one bot to try: alone, and in queue groups of all kinds of names."""
    groups = ("", *NAMES, STRANGER, "relays", "*", ">", f"{rules.name}.x")
    made = []
    for subject in tried:
        grouped = subject.startswith(("bus.", "inbox.", "send."))
        made += [
            Cell(Operation.SUBSCRIBE, subject, group)
            for group in (groups if grouped else groups[:1])
        ]
    return made
