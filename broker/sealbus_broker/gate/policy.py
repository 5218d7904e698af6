"""The policy as the gate sees it: immutable values, compiled once.

:mod:`sealbus_broker.policy` makes one from a folder of files, and tests make them by hand. Nothing
here reads a file or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sealbus.protocol import streams
from sealbus.protocol.bus_keys import end_of
from sealbus.protocol.limits import LIVE_WAIT_MS, most_values
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.reason import Reason
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.subjects import RELAY, matches
from sealbus.protocol.together import WIDEST, Together
from sealbus_broker.gate.identities import Identity
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.gate.subject_table import SubjectTable

HEALTH: Final = "sealbus.health"
"""The subject of probes, by which relays see whether a message gets through the bus."""

QUARANTINE_SHARE_MS: Final = 24 * 3_600_000
"""The time of a bot's share of the quarantine. The quarantine keeps records until it is full, and
an operator looks once a day."""

PROGRESS_BYTES: Final = 16 * 1024 * 1024
"""PROGRESS keeps a note of about 150 bytes for each envelope that a subscription put back, of the
last 100,000. A note that is pushed out costs a repetition."""

PROGRESS_SHARE_MS: Final = 600_000
"""The time of a bot's share of PROGRESS. With half of it, a bot may note 13 deliveries a second for
ever. It then takes two hours to push out the notes of all others, which need them for minutes."""

WINDOW_MARGIN_MS: Final = 1_000
"""A margin for the rounding of times to milliseconds, and larger than all of it."""

DEFAULT_PAYLOAD_BYTES: Final = 64 * 1024
"""The largest payload by default. An order, a reading or a page of text needs far less. A payload
of this size costs a relay 5 ms to decode at most."""


REPLICAS: Final = (1, 3, 5)
"""How many nodes may keep a stream. The stream goes on while more than half of them run, so two
nodes survive no more losses than one, and four no more than three. JetStream keeps five at most."""

MOST_PARTITIONS: Final = 24
"""Most partitions. A lone relay asks for 592 KiB of each at a time (``relay/ingress/pulling.py``),
and nats-server lets 16 MiB wait for one connection."""


NEVER_MS: Final = 2**53
"""The end of a key that has none: the largest integer that every reader of JSON keeps exact."""


class DeliveryClass(StrEnum):
    """The delivery class of a subject's messages."""

    STREAM = "stream"
    """They are stored before they are judged, and before they are delivered. Subscribers may be
    durable."""
    LIVE = "live"
    """They are judged at once, and kept in memory only: telemetry, requests and replies."""


class Store(StrEnum):
    """The streams that bots share."""

    ACCEPTED = streams.ACCEPTED
    LIVE = streams.LIVE
    QUARANTINE = streams.QUARANTINE
    PROGRESS = streams.PROGRESS


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a store one bot may fill in a time."""

    most_bytes: int
    window_ms: int
    store_bytes: int
    """How much the store holds, of all bots."""


class Disposition(StrEnum):
    """Whether a refused message is kept."""

    DROP = "drop"
    """It is counted, and its sender is told."""
    QUARANTINE = "quarantine"
    """Its bytes are also kept, for operators."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that an operator may set. Times are in milliseconds, sizes in bytes, and the rest
    are counts."""

    ttl_ms: int = 60_000
    live_ttl_ms: int = 10_000
    clock_skew_ms: int = 2_000
    ingress_wait_ms: int = 300_000
    session_ms: int = 600_000
    session_key_ms: int = 3_600_000
    """How long a session key is valid at most, whatever its certificate says."""
    retention_ms: int = 7 * 24 * 3_600_000
    accepted_bytes: int = 4 * 1024**3
    ingress_bytes: int = 1024**3
    quarantine_bytes: int = 1024**3
    live_bytes: int = 256 * 1024**2
    payload_bytes: int = DEFAULT_PAYLOAD_BYTES
    """The largest payload on a subject without a ``max_bytes`` of its own."""
    ingress_messages: int = 256
    """How many NATS messages of one bot may wait for a relay. With 128 KiB of the most expensive
    envelopes each, they take a relay 12 s."""
    bot_share: int = 50
    """How much of ACCEPTED, LIVE or QUARANTINE one bot may fill, in per cent."""
    policy_age_ms: int | None = None
    """How long a relay judges by a policy whose folder it cannot read any more. ``None``: for
    ever."""
    key_age_ms: int | None = None
    """How old a bot's key may be before ``sealbus check`` notes it. ``None``: as old as it is."""
    attempts: int = 10
    """How often a failing message is delivered to one durable subscription."""
    subscriptions: int = 32
    """How many durable subscriptions a bot may have."""
    connections: int = 64
    """How many sessions a bot may have at a time. Thirty processes that all renew their sessions at
    once have 60. It takes 127 such bots to use up the 8,128 connections that nats-server takes from
    bots."""
    replicas: int = 1
    """On how many nodes of a cluster each stream is kept: one of :data:`REPLICAS`."""
    partitions: int = 16
    """The number of parts of INGRESS. With 16, two to four relays have even shares within 12 % of
    the bots. With four, three relays cannot (ADR 43)."""
    flood_messages: int = 10_000
    """How many NATS messages a second one bot may send, in all its sessions. Beyond that its
    sessions end, and it has to pause. A bot of the client library sends 1,300 a second at its best,
    with 64 envelopes in each, and acknowledges some thousand deliveries."""
    flood_bytes: int = 64 * 1024**2
    """The same in bytes a second: twice the bytes of a bot of the client library at its best."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How long the ledgers remember an id (ms)."""

    stream_ms: int = 0
    live_ms: int = 0

    @property
    def longest_ms(self) -> int:
        """The longer one of both. With a long ``live_ttl`` that is the one of live messages."""
        return max(self.stream_ms, self.live_ms)

    def widened(self, other: Windows) -> Windows:
        """Return the longer one of each."""
        return Windows(max(self.stream_ms, other.stream_ms), max(self.live_ms, other.live_ms))


NO_WINDOWS: Final = Windows()
"""Windows that bound nothing."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A bound on one bot's messages on one subject: ``per_second``, and ``burst`` of them at
    once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class CauseRule:
    """The message that must come before another one: see ``docs/policy.md``."""

    subject: str
    """The pattern that the parent's subject must match."""
    within_ms: int
    """How old the parent may be."""
    match: tuple[str, ...] = ()
    """The JSON pointers (RFC 6901) at which both payloads must be equal."""
    once: bool = False
    """Whether only one message may follow from a parent."""
    show: bool = False
    """Whether subscribers see the parent. Otherwise it is withheld from the store once it is
    judged."""


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """One entry under ``subjects:``."""

    pattern: str
    delivery: DeliveryClass
    schemas: Mapping[str, Schema]
    """By full name (``orders.placed.v1``), in the order of the policy. The first is the default."""
    rate: Rate | None = None
    reply: Schema | None = None
    """The schema of answers. ``None``: the subject takes none."""
    cause: CauseRule | None = None
    on_violation: Mapping[Reason, Disposition] = field(default_factory=lambda: MappingProxyType({}))
    max_bytes: int = DEFAULT_PAYLOAD_BYTES
    """The largest payload here, answers included."""
    together: Together = WIDEST
    """The bounds of an envelope of several payloads. They follow from the work of the schemas, so
    that such an envelope takes no longer to judge than one payload may."""

    @property
    def max_values(self) -> int:
        """How many values a payload may have, map keys included.

        They bound the cost of decoding and judging it, which its bytes do not.
        """
        return most_values(self.max_bytes)


@dataclass(frozen=True, slots=True)
class BotKey:
    """One public key of a bot. Times are in ms since 1970 UTC."""

    raw: bytes
    not_before_ms: int
    not_after_ms: int | None = None
    revoked_ms: int | None = None
    sessions_from_ms: int = 0
    """Certificates by it that begin earlier are void."""
    link: bytes | None = None
    """The sender link to it from the key before (:mod:`sealbus.protocol.sender_links`)."""

    @property
    def ends_ms(self) -> int:
        """When it is valid no more (ms since 1970), whether it expires or is revoked."""
        return self.ends_for(0)

    def revoked_for(self, skew_ms: int) -> int:
        """When it is revoked (ms since 1970), for a clock that may be ``skew_ms`` behind that of
        the operator.

        Otherwise such a clock would believe the key for that time after its revocation.
        """
        return NEVER_MS if self.revoked_ms is None else self.revoked_ms - skew_ms

    def ends_for(self, skew_ms: int) -> int:
        """When it is valid no more, for such a clock."""
        revoked_ms = self.revoked_for(skew_ms)
        return revoked_ms if self.not_after_ms is None else min(revoked_ms, self.not_after_ms)

    def opens(self, now_ms: int, skew_ms: int = 0) -> bool:
        """Whether a session may begin with it at ``now_ms`` (ms since 1970), by such a clock."""
        return self.not_before_ms <= now_ms < self.ends_for(skew_ms)


@dataclass(frozen=True, slots=True)
class Invitation:
    """One open invitation of a bot. Times are in ms since 1970 UTC."""

    raw: bytes
    """The raw public key of the token."""
    not_before_ms: int
    not_after_ms: int
    approve: bool = False
    """Whether an operator has to accept the key that comes."""

    def is_open(self, now_ms: int, skew_ms: int = 0) -> bool:
        """Whether a key may come at ``now_ms`` (ms since 1970), by a clock that may be ``skew_ms``
        behind that of the operator."""
        return self.not_before_ms - skew_ms <= now_ms < self.not_after_ms


@dataclass(frozen=True, slots=True)
class BotRule:
    """One bot with all its grants, those of its roles included."""

    name: str
    keys: Mapping[bytes, BotKey]
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    seals_directly: bool = False
    """Whether its enrolled keys may seal and log in themselves, without a session key."""
    certificate_names: tuple[str, ...] = ()
    """The names of the certificates by which it may connect. None: any certificate, or none."""
    invitations: Mapping[bytes, Invitation] = field(default_factory=lambda: MappingProxyType({}))
    """By the raw public key of the token. Such a key opens nothing but the way to a first key."""
    identities: tuple[Identity, ...] = ()
    """Whose tokens are exchanged for a session certificate of this bot. Where there is one, the
    bus's session-issuer keys are among :attr:`keys`."""
    links: Mapping[bytes, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """By raw enrolled key: the sender links that lead to it from older keys of the bot, the newest
    first, as a delivery has them. Keys without any are not in it."""
    _publish: SubjectTable[bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_publish", SubjectTable((pattern, True) for pattern in self.publish)
        )

    def may_publish(self, subject: str) -> bool:
        """Whether the bot may publish on ``subject``."""
        return self._publish.find(subject) is not None

    def may_subscribe(self, pattern: str) -> bool:
        """Whether the bot may receive every subject that ``pattern`` covers."""
        return any(matches(grant, pattern) for grant in self.subscribe)


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything by which the gate judges."""

    bus: str
    digest: bytes
    """SHA-256 over the names and contents of the folder's files (32 bytes). Stamps have it."""
    bus_keys: frozenset[bytes]
    """The raw public keys whose stamps count as proof in a parent."""
    bots: Mapping[str, BotRule]
    subjects: tuple[SubjectRule, ...]
    limits: Limits = field(default_factory=Limits)
    on_violation: Mapping[Reason, Disposition] = field(default_factory=lambda: MappingProxyType({}))
    default_disposition: Disposition = Disposition.QUARANTINE
    session_issuers: Mapping[bytes, BotKey] = field(default_factory=lambda: MappingProxyType({}))
    """The bus's session-issuer keys by raw public key, with their times. They sign certificates for
    bots with :attr:`BotRule.identities`, and nothing else."""
    _rules: SubjectTable[SubjectRule] = field(init=False, repr=False, compare=False)
    _relay: BotRule = field(init=False, repr=False, compare=False)
    _shares: Mapping[Store, Share] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "_rules", SubjectTable((rule.pattern, rule) for rule in self.subjects)
        )
        keys = {raw: BotKey(raw, 0, end_of(self.bus_keys, raw)) for raw in self.bus_keys}
        limits = self.limits
        part = self.limits.bot_share / 100
        accepted_ms = max(limits.retention_ms, self.ledger_window_ms)
        stores = {
            Store.ACCEPTED: (limits.accepted_bytes, accepted_ms),
            Store.LIVE: (limits.live_bytes, self.live_window_ms),
            Store.QUARANTINE: (limits.quarantine_bytes, QUARANTINE_SHARE_MS),
            Store.PROGRESS: (PROGRESS_BYTES, PROGRESS_SHARE_MS),
        }
        shares = {
            store: Share(int(size * part), window_ms, size)
            for store, (size, window_ms) in stores.items()
        }
        object.__setattr__(self, "_shares", shares)
        object.__setattr__(self, "_relay", BotRule(RELAY, keys, (HEALTH,), seals_directly=True))

    def sender(self, name: str) -> BotRule | None:
        """Return who may send as ``name``: a bot, or the relays, with the bus key and on
        ``sealbus.health`` alone.

        Nobody logs in as the relays, because they are not among :attr:`bots`.
        """
        return self._relay if name == RELAY else self.bots.get(name)

    def links_to(self, bot: str, enrolled: bytes) -> bytes:
        """Return the sender links for a delivery of ``bot`` under the raw key ``enrolled``, or
        nothing."""
        rule = self.bots.get(bot)
        return b"" if rule is None else rule.links.get(enrolled, b"")

    def own_keys(self, name: str) -> Iterator[tuple[bytes, BotKey]]:
        """Give the keys in the file of a bot, or of the relays: their session-issuer keys."""
        if name == RELAY:
            yield from self.session_issuers.items()
        elif name in self.bots:
            for raw, key in self.bots[name].keys.items():
                if raw not in self.session_issuers:
                    yield raw, key

    def rule(self, subject: str) -> SubjectRule | None:
        """Return the rule that declares ``subject``, or ``None``."""
        return self._rules.find(subject)

    def overlapping(self, patterns: Iterable[str]) -> list[SubjectRule]:
        """Return the rules that have a subject in common with one of ``patterns``, in the policy's
        order."""
        found = {rule.pattern for one in patterns for rule in self._rules.overlapping(one)}
        return [rule for rule in self.subjects if rule.pattern in found]

    def disposition(self, reason: Reason, rule: SubjectRule | None = None) -> Disposition:
        """Return whether a refused message is kept.

        The subject's own choice goes before the policy's, and that before its default.
        """
        if rule is not None and reason in rule.on_violation:
            return rule.on_violation[reason]
        return self.on_violation.get(reason, self.default_disposition)

    def share(self, store: Store) -> Share:
        """Return how much of ``store`` one bot may fill."""
        return self._shares[store]

    def span_ms(self, delivery: DeliveryClass) -> int:
        """Return how long after the birth of its nonce a message may be judged for the last time.

        It is sealed for the last time at the end of the nonce's life, arrives when its time-to-live
        is nearly over, and then waits for a relay. By clocks that differ it may be one
        ``clock_skew`` later.
        """
        live = delivery is DeliveryClass.LIVE
        life = life_ms(live=live)
        ttl = self.limits.live_ttl_ms if live else self.limits.ttl_ms
        wait = LIVE_WAIT_MS if live else self.limits.ingress_wait_ms
        return life + ttl + wait

    @property
    def ledger_window_ms(self) -> int:
        """How long the ledger of stored messages must remember an id: see :meth:`_window_ms`."""
        return self._window_ms(DeliveryClass.STREAM)

    @property
    def live_window_ms(self) -> int:
        """The same for live messages."""
        return self._window_ms(DeliveryClass.LIVE)

    @property
    def windows(self) -> Windows:
        """Both of them."""
        return Windows(self.ledger_window_ms, self.live_window_ms)

    def _window_ms(self, delivery: DeliveryClass) -> int:
        """Return how long an id is remembered: from the first store under it until none is possible
        any more.

        - A message under it is stored for the first time when its nonce is born, or later. The
          server's clock says so. It may be behind the sender's by the policy's skew, and behind the
          last server's by as much.
        - A message under it is judged for the last time a span after that (:meth:`span_ms`). Where
          a cause allows one consequence, that is ``within`` later still. It is stored within the
          shelf life of the verdict. A message that is stored later is void.

        The sum has three skews of the policy (first arrival, last arrival, ``store-by``) and two
        between servers (the first store, and the ids that a new leader forgets early).
        """
        longest = max(self.span_ms(delivery), self._once_ms(delivery))
        shelf_life = shelf_life_ms(live=delivery is DeliveryClass.LIVE)
        policy_skews = 3 * self.limits.clock_skew_ms
        server_skews = 2 * self.limits.clock_skew_ms
        return longest + shelf_life + policy_skews + server_skews + WINDOW_MARGIN_MS

    def _once_ms(self, delivery: DeliveryClass) -> int:
        """Return how long after the birth of its cause's nonce the one consequence may be judged,
        at most.

        That is on the subjects of one delivery class.
        """
        rules = (rule.cause for rule in self.subjects if rule.delivery is delivery)
        within = [cause.within_ms for cause in rules if cause is not None and cause.once]
        spans = [
            max(self.span_ms(DeliveryClass.STREAM), self.span_ms(DeliveryClass.LIVE)) + one
            for one in within
        ]
        if delivery is DeliveryClass.LIVE:  # an answer: its cause is a request
            spans.append(self.span_ms(DeliveryClass.LIVE) + self.limits.live_ttl_ms)
        return max(spans, default=0)
