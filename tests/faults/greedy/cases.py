"""The attacks, their bounds, and the figures that show that a bound held.

``docs/threats.md`` lists the bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sealbus.grants import GRANTS
from sealbus.own import OWN, PARK, PROGRESS, SUBSCRIBE
from sealbus.protocol.limits import MAX_PULL
from sealbus_broker.door.pauses import FIRST_MS
from sealbus_broker.door.throttle import LINES, PERIOD_S
from sealbus_broker.gate.policy import PROGRESS_BYTES, Limits
from sealbus_broker.nats.config import (
    LOG_BYTES,
    LOG_FILES,
    MAX_BOT_PAYLOAD_BYTES,
    MAX_SUBSCRIPTIONS,
)
from sealbus_broker.relay.ingress.refusal_pace import MOST_REFUSED
from sealbus_broker.relay.ingress.senders import LATELY
from sealbus_broker.relay.judging.counters import QUIET_S
from tests.faults.greedy.gauges import MIB, Watched
from tests.faults.greedy.stage import BURST, RATE, SHARE_BYTES

RELAY_MIB: Final = 1024
SERVER_MIB: Final = 2048
"""The memory that ``compose.yaml`` gives a relay and nats-server, in MiB.

The kernel ends a process that uses more.
"""

SUBSCRIBER_MIB: Final = 256
"""The bound for a subscriber, in MiB.

Waiting messages take 108 MiB in the largest case, and the interpreter 45.
"""

UNDER_WAY_BYTES: Final = 2 * MIB
"""The bytes that still pass when a share of ACCEPTED is full.

They are two pulls of a partition, and the messages of the honest bots.
"""

LIMITS: Final = Limits()


@dataclass
class Seen:
    """The figures of an attack."""

    seconds: float
    """The time from its beginning until the relay was asked to stop."""
    logged_s: float
    """The time from its beginning until the relay had ended. So long it could write log lines."""
    sent: Counter[str] = field(default_factory=Counter)
    """The attacker's counts."""
    most: Counter[str] = field(default_factory=Counter)
    """The highest value of each gauge during the attack."""
    verdicts: Counter[str] = field(default_factory=Counter)
    """The relay's counts."""
    lines: Counter[str] = field(default_factory=Counter)
    """The lines of the relay's log, by event."""
    log_bytes: int = 0
    server_log_bytes: int = 0
    honest_lost: int = 0
    """How often an honest bot lost its connection."""


@dataclass(frozen=True)
class Figure:
    """A measured value and its bound.

    A figure without a bound is reported, and not judged.
    """

    what: str
    value: float
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the bound was kept."""
        return self.most is None or self.value <= self.most

    def __str__(self) -> str:
        value = f"{self.what} {_number(self.value)}"
        return value if self.most is None else f"{value} of {_number(self.most)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


Figures = Callable[[Seen], Iterator[Figure]]


@dataclass(frozen=True)
class Case:
    """One attack on one resource."""

    name: str
    bounds: tuple[str, ...]
    """The names of the attacked bounds in the list of ``docs/threats.md``."""
    figures: Figures
    watched: tuple[Watched, ...] = ()


def resident(seen: Seen) -> Iterator[Figure]:
    """The memory of the relay and of nats-server, which all bots share.

    Each attack has this bound.
    """
    yield Figure("relay MiB", seen.most["relay MiB"], RELAY_MIB)
    yield Figure("nats-server MiB", seen.most["nats-server MiB"], SERVER_MIB)


def _nothing_accepted(seen: Seen) -> Iterator[Figure]:
    yield Figure("accepted", seen.most["ACCEPTED messages"], 0)


def _bundles(seen: Seen) -> Iterator[Figure]:
    yield from _nothing_accepted(seen)
    yield Figure("bundles", seen.sent["NATS messages"])


def _bursts(seen: Seen) -> Iterator[Figure]:
    yield from _nothing_accepted(seen)
    yield Figure("envelopes", seen.sent["NATS messages"])


def _within_rate(seen: Seen) -> Iterator[Figure]:
    yield Figure("accepted", seen.most["ACCEPTED messages"], RATE * (seen.seconds + 1) + BURST)


def _schema(seen: Seen) -> Iterator[Figure]:
    yield Figure("accepted", seen.most["ACCEPTED messages"], 4 * (seen.seconds + 1) + 8)


def _once_each(seen: Seen) -> Iterator[Figure]:
    yield Figure("accepted", seen.most["ACCEPTED messages"], 100)


def _services(seen: Seen) -> Iterator[Figure]:
    rates = [
        rate for subject in (GRANTS, SUBSCRIBE, PARK) if (rate := OWN[subject].rate) is not None
    ]
    most = sum(rate.per_second * (seen.seconds + 1) + rate.burst for rate in rates)
    yield Figure("answers", seen.most["LIVE messages"], most)


def _notes(seen: Seen) -> Iterator[Figure]:
    rate = OWN[PROGRESS].rate
    assert rate is not None
    yield Figure(
        "notes", seen.most["PROGRESS messages"], rate.per_second * (seen.seconds + 1) + rate.burst
    )
    share = PROGRESS_BYTES * LIMITS.bot_share / 100
    yield Figure("MiB in PROGRESS", seen.most["PROGRESS bytes"] / MIB, share / MIB)


def _ingress(seen: Seen) -> Iterator[Figure]:
    yield Figure("messages in INGRESS", seen.most["INGRESS messages"], LIMITS.ingress_messages)
    # One MiB is for the stream's own framing and the honest messages.
    most = 1 + LIMITS.ingress_messages * MAX_BOT_PAYLOAD_BYTES / MIB
    yield Figure("MiB in INGRESS", seen.most["INGRESS bytes"] / MIB, most)


def _floods(seen: Seen) -> Iterator[Figure]:
    # Each pause is at least as long as the first one.
    most = 1 + seen.logged_s // (FIRST_MS / 1000)
    yield Figure("floods that were ended", seen.lines["bot.flooding"], most)
    yield Figure("sessions that NATS ended", seen.sent["cut off"])


def _refusals(seen: Seen) -> Iterator[Figure]:
    refused = sum(count for name, count in seen.verdicts.items() if "." in name)
    # At first a relay does not know that the bot is greedy.
    yield Figure("refused", refused, MOST_REFUSED * (seen.logged_s + 1) + 2 * LATELY)


def _turns(seen: Seen) -> Iterator[Figure]:
    yield from _ingress(seen)
    # Nothing judges this figure, because it depends on the machine.
    yield Figure("ms until the relay told its health, at most", seen.most["health ms"])


def _accepted(seen: Seen) -> Iterator[Figure]:
    # JetStream counts the bytes of all bots together.
    each = seen.sent["bytes"] / seen.sent["messages"]
    used = seen.most["ACCEPTED messages"] * each
    yield Figure("MiB in ACCEPTED", used / MIB, (SHARE_BYTES + UNDER_WAY_BYTES) / MIB)


def _quarantine(seen: Seen) -> Iterator[Figure]:
    yield Figure(
        "MiB in QUARANTINE",
        seen.most["QUARANTINE bytes"] / MIB,
        (SHARE_BYTES + UNDER_WAY_BYTES) / MIB,
    )


def _live(seen: Seen) -> Iterator[Figure]:
    share = LIMITS.live_bytes * LIMITS.bot_share / 100
    yield Figure("MiB in LIVE", seen.most["LIVE bytes"] / MIB, (share + 64 * MIB) / MIB)
    yield Figure("dropped before judgment", seen.verdicts["dropped"])


def _sessions(seen: Seen) -> Iterator[Figure]:
    yield Figure("sessions", seen.most["sessions"], LIMITS.connections)


def _strangers(seen: Seen) -> Iterator[Figure]:
    yield Figure(
        "lines of the relay",
        seen.lines["admission.denied"],
        LINES * (1 + seen.logged_s // PERIOD_S),
    )
    yield Figure(
        "KiB of nats-server's log", seen.server_log_bytes / 1024, LOG_FILES * LOG_BYTES / 1024
    )


def _violations(seen: Seen) -> Iterator[Figure]:
    kinds = sum("." in name for name in seen.verdicts)
    yield Figure(
        "lines of the relay", seen.lines["message.refused"], kinds * (1 + seen.logged_s // QUIET_S)
    )


def _durable(seen: Seen) -> Iterator[Figure]:
    yield Figure("subscriptions", seen.most["ACCEPTED consumers"] - 1, LIMITS.subscriptions)


def _session_subscriptions(seen: Seen) -> Iterator[Figure]:
    yield Figure(
        "subscriptions of a session", seen.most["subscriptions of a session"], MAX_SUBSCRIPTIONS
    )
    yield Figure("sessions that NATS ended", seen.sent["cut off"])


def _pulls(seen: Seen) -> Iterator[Figure]:
    yield Figure("MiB that one request brings, at most", MAX_PULL * 60_600 / MIB)
    yield Figure("requests", seen.sent["requests"])
    yield Figure("times that an honest bot was cut off", seen.honest_lost)


def _subscriber(seen: Seen) -> Iterator[Figure]:
    yield Figure("subscriber MiB", seen.most["subscriber MiB"], SUBSCRIBER_MIB)


def _silent(seen: Seen) -> Iterator[Figure]:
    yield Figure("sessions", seen.most["sessions"], LIMITS.connections)
    yield Figure("sessions that NATS ended", seen.sent["cut off"])


_GOODS: Final = ("ACCEPTED", "accepted.goods.>")
_RATED: Final = ("ACCEPTED", "accepted.rated.>")
_FLASH: Final = ("LIVE", "live.flash.>")
_INGRESS: Final = ("INGRESS", "ingress.*.greedy")

CASES: Final = (
    Case("bytes", ("bytes of a payload",), _nothing_accepted, (_GOODS,)),
    Case("values", ("values of a payload",), _live, (_FLASH,)),
    Case(
        "values-stored",
        (
            "values of a payload",
            "a relay's time without a pause",
            "messages pulled ahead of a relay's judging",
        ),
        _turns,
        (_INGRESS,),
    ),
    Case("bundles", ("envelopes in a bundle",), _bundles, (_GOODS,)),
    Case("bursts", ("messages in an envelope",), _bursts, (_GOODS,)),
    Case("parents", ("a parent",), _nothing_accepted, (_GOODS,)),
    Case("schema", ("processor time of a schema",), _schema, (("ACCEPTED", "accepted.costly.>"),)),
    Case("rate", ("messages a second",), _within_rate, (_RATED,)),
    Case("copies", ("copies of old messages",), _once_each, (_RATED,)),
    Case(
        "services", ("requests to the bus itself",), _services, (("LIVE", "live.reply.greedy.>"),)
    ),
    Case("notes", ("notes of progress",), _notes, (("PROGRESS", "progress.>"),)),
    Case("ingress", ("messages in INGRESS",), _ingress, (_INGRESS,)),
    Case("pour-garbage", ("messages and bytes that reach nats-server",), _floods),
    Case("pace-badly-sealed", ("worthless envelopes",), _floods),
    Case("pace-refused", ("refusals",), _refusals),
    Case("ingress-bundles", ("messages in INGRESS",), _ingress, (_INGRESS,)),
    Case("accepted", ("bytes in ACCEPTED and LIVE",), _accepted, (_GOODS,)),
    Case(
        "quarantine",
        ("bytes in the quarantine",),
        _quarantine,
        (("QUARANTINE", "quarantine.*.greedy"),),
    ),
    Case("live", ("live messages that wait in a relay",), _live, (_FLASH,)),
    Case("sessions", ("sessions",), _sessions),
    Case("silent", ("memory for sessions that do not read",), _silent, (_FLASH,)),
    Case("logins", ("sessions",), _sessions),
    Case(
        "strangers",
        ("log lines of refused strangers", "log lines of the embedded nats-server"),
        _strangers,
    ),
    Case("violations", ("log lines about a bot's violations",), _violations),
    Case("durable-subscriptions", ("durable subscriptions",), _durable, (_GOODS,)),
    Case("subscriptions-of-a-session", ("subscriptions of a connection",), _session_subscriptions),
    Case("pulls", ("messages of one request to a durable subscription",), _pulls, (_GOODS,)),
    Case(
        "subscriber", ("messages that wait in a subscriber for a handler",), _subscriber, (_FLASH,)
    ),
)
