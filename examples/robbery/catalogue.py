"""Everything that the attacker tries.

Each attack is one or several cases of the corpus (``tests/attacks``), staged in the shop. The
corpus says which part must stop a case, and the reason. The director compares each outcome with it.
This file has the descriptions for the audience.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.attacks.corpus import LESSER, Where
from tests.attacks.families import NAMED

NOT_THE_BUS = "stamp: sealed by a key that is not the bus's"
SCRAPER = "scraper"
"""The name in the shop of the bot with few rights."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the catalogue."""

    key: str
    what: str
    cases: tuple[str, ...]
    """The names of the corpus's cases. All are stopped in the same way."""
    detail: str = ""
    """The detail that the relay must have noted, if the reason has several causes."""
    victim: str = ""
    """The bot that must have counted a refused delivery."""

    @property
    def where(self) -> Where:
        """The part that must stop it."""
        return NAMED[self.cases[0]].where

    @property
    def why(self) -> str:
        """The stable reason, or the error of the relay, the server or the bot."""
        said = NAMED[self.cases[0]].reason.replace(LESSER, SCRAPER)
        if self.where is Where.NATS:
            return (
                "Publish Violation"
                if self.cases[0].startswith("pub ")
                else "Subscription Violation"
            )
        return "maximum payload" if self.where is Where.LIMIT else said

    @property
    def subjects(self) -> tuple[str, ...]:
        """The NATS subjects, each of which must have been refused."""
        if self.where is not Where.NATS:
            return ()
        return tuple(case.partition(" ")[2].replace(LESSER, SCRAPER) for case in self.cases)


@dataclass(frozen=True, slots=True)
class VeiledAttack(Attack):
    """An attack that TLS stops. It is no case of the corpus, whose bus has no TLS."""

    words: str = ""
    """The evidence in words."""

    @property
    def where(self) -> Where:
        """The part that must stop it."""
        return Where.TLS

    @property
    def why(self) -> str:
        """The evidence in words."""
        return self.words


AT_THE_DOOR = (
    Attack("no-key", "connect without a key", ("nothing_said",)),
    Attack("unknown-key", "connect as order with a key nobody knows", ("a_key_that_nobody_knows",)),
    Attack("borrowed-name", "connect as order with scraper's key", ("a_lesser_bots_key",)),
    Attack(
        "borrowed-key",
        "connect as order, naming its key, signing with another",
        ("signed_with_another_key",),
    ),
    Attack(
        "stolen-certificate",
        "connect as order, with its certificate and another key",
        ("anothers_certificate_at_the_door",),
    ),
    Attack("replayed-login", "replay order's own captured login", ("another_challenge",)),
    Attack("bare-challenge", "sign the server's bare challenge", ("the_bare_challenge",)),
    Attack(
        "foreign-durable",
        "log in as scraper, ask for inventory's durable queue",
        ("anothers_consumer",),
    ),
)
ON_THE_WIRE = (
    Attack(
        "replay-at-once",
        "captured order, replayed at once in the stolen session",
        ("replayed_at_once",),
    ),
    Attack(
        "replay-live",
        "captured order, replayed on call.order",
        ("a_durable_subject_by_the_live_way",),
    ),
    Attack(
        "replay-scraper",
        "captured order, sent from scraper's session",
        ("a_captured_envelope_in_another_session",),
    ),
    Attack(
        "replay-subject",
        "captured order, subject changed to orders.shipped",
        ("a_changed_subject",),
    ),
    Attack("changed-copy", "captured order, ship-to address changed", ("a_changed_payload",)),
    Attack(
        "changed-in-flight", "order changed on its way, original held back", ("a_changed_payload",)
    ),
    Attack(
        "forged-receipt", "order swallowed, its receipt forged", ("a_receipt_of_its_own_making",)
    ),
    Attack(
        "stolen-session", "own order in the stolen session, sealed by own key", ("a_key_of_nobody",)
    ),
    Attack(
        "grafted-seal", "own order with a captured order's seal", ("a_seal_of_another_envelope",)
    ),
    Attack(
        "shown-certificate",
        "own order with order's certificate, sealed by own key",
        ("anothers_certificate_that_is_known",),
    ),
)


def _pub(*subjects: str) -> tuple[str, ...]:
    return tuple(f"pub {subject}" for subject in subjects)


PAST_THE_RELAY = (
    Attack(
        "direct-delivery",
        "forged order with a stamp of its own, straight to delivery",
        _pub("bus.orders.placed", "bus.stock.reserved", "bus.reply.order.00"),
    ),
    Attack(
        "direct-inbox",
        "forged receipts, straight to other bots' inboxes",
        _pub("inbox.order.00", "inbox.inventory.00", "inbox.rival.00"),
    ),
    Attack(
        "other-ingress",
        "other bots' ingress, and wildcards",
        _pub("send.order", "call.inventory", "send.*", "send.>"),
    ),
    Attack(
        "stream-subjects",
        "straight into the streams",
        _pub(
            "accepted.orders.placed",
            "live.stock.check",
            "ingress.16.0.order",
            "quarantine.size.order",
        ),
    ),
    Attack(
        "stream-api",
        "delete and purge streams, consumers, messages",
        _pub(
            "$JS.API.STREAM.DELETE.ACCEPTED",
            "$JS.API.STREAM.PURGE.INGRESS",
            "$JS.API.STREAM.MSG.DELETE.ACCEPTED",
            "$JS.API.CONSUMER.DELETE.INGRESS.relay-16-0",
            "$JS.API.STREAM.CREATE.MINE",
        ),
    ),
    Attack(
        "system",
        "system subjects: kick, inspect, answer logins",
        _pub("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.X.KICK", "$SYS.REQ.USER.AUTH"),
    ),
    Attack(
        "stolen-direct",
        "the same from order's stolen session",
        _pub(
            "bus.orders.placed",
            "inbox.inventory.00",
            "send.inventory",
            "$JS.API.STREAM.DELETE.ACCEPTED",
            "$SYS.REQ.SERVER.PING",
        ),
    ),
    Attack(
        "eavesdrop",
        "listen to others: deliveries, inboxes, ingress, system",
        tuple(
            f"sub {subject}"
            for subject in (
                "bus.>",
                "bus.orders.placed",
                "inbox.>",
                "inbox.order.>",
                "send.*",
                ">",
                "$SYS.>",
                "$JS.>",
            )
        ),
    ),
)
AS_SCRAPER = (
    Attack(
        "own-seal-as-order",
        "scraper's session and key, envelope says order",
        ("another_name_inside",),
    ),
    Attack(
        "no-session-key",
        "a price, sealed by its enrolled key itself",
        ("an_enrolled_key_seals_by_itself",),
    ),
    Attack(
        "old-session-key",
        "a price, by a session key that has run out",
        ("a_stolen_session_key_that_has_run_out",),
    ),
    Attack("not-granted", "an order, as itself", ("a_subject_outside_the_grant",)),
    Attack("undeclared", "a subject that no policy knows", ("a_subject_of_nobody",)),
    Attack("schema", "a price that is a text", ("a_quantity_of_nothing",)),
    Attack("unknown-schema", "a price by the schema of orders", ("a_schema_of_another_subject",)),
    Attack("expired", "an envelope whose time is over", ("kept_for_later",)),
    Attack("future", "an envelope from the future", ("issued_ahead_of_time",)),
    Attack(
        "long-life", "an envelope that lives for a day", ("a_live_message_with_a_life_too_long",)
    ),
    Attack("other-bus", "an envelope for another bus", ("captured_on_a_test_bus",)),
    Attack(
        "forged-answer",
        "an answer to a question that nobody asked",
        ("an_answer_to_nothing",),
        detail="a parent is required",
    ),
    Attack(
        "stolen-question",
        "an answer to order's question, on its stolen stamp",
        ("an_answer_by_a_third_bot",),
        detail="may not receive",
    ),
    Attack(
        "reservation",
        "a reservation, with a real order's stolen stamp",
        ("a_subject_outside_the_grant",),
    ),
    Attack(
        "subscribe-orders",
        "ask the relay for a durable queue of orders",
        ("a subscription to the orders of others",),
    ),
    Attack("operator", "ask the relay for the quarantine", ("a look into the quarantine",)),
)
NOISE = (
    Attack("garbage", "random bytes", ("garbage",)),
    Attack("empty", "nothing at all", ("nothing_at_all",)),
    Attack(
        "bomb",
        "msgpack that promises four billion values",
        ("an_envelope_that_claims_4_billion_parts",),
    ),
    Attack("large", "an envelope too large", ("one_byte_too_large",)),
    Attack("oversized", "a message of 700 KiB", ("more than a message may have",)),
    Attack(
        "hostile-headers",
        "hostile header blocks: ids, pins, status, NUL",
        (
            "headers: an id",
            "headers: a pin",
            "headers: a record",
            "headers: a status",
            "headers: no headers",
            "headers: no end",
            "headers: control characters",
        ),
    ),
    Attack(
        "expected-headers",
        "headers that steer JetStream: rollups, schedules, TTLs",
        (
            "header Nats-Rollup: all",
            "header Nats-Rollup: sub",
            "header Nats-Expected-Stream: ACCEPTED",
            "header Nats-Expected-Last-Sequence: 0",
            "header Nats-Expected-Last-Msg-Id: x",
            "header Nats-TTL: 1s",
            "header Nats-Incr: +1",
            "header Nats-Schedule: @every 1s",
            "header Nats-Batch-Id: a",
        ),
    ),
    Attack(
        "reply-subjects",
        "reply = JetStream API, delivery: make the server speak",
        (
            "reply $JS.API.STREAM.DELETE.ACCEPTED",
            "reply $JS.API.STREAM.PURGE.INGRESS",
            "reply bus.orders.placed",
            "reply accepted.orders.placed",
            "reply inbox.order.00",
            "reply send.order",
        ),
    ),
    Attack(
        "ack-reply",
        "an ACK whose answer would delete the stream",
        (
            "acknowledgement answered at $JS.API.STREAM.DELETE.ACCEPTED",
            "acknowledgement answered at $JS.API.STREAM.PURGE.ACCEPTED",
            "acknowledgement answered at bus.orders.placed",
        ),
    ),
    Attack(
        "pull-reply",
        "a pull whose answer goes to inventory's questions",
        ("a_delivery_of_garbage",),
        victim="inventory",
    ),
)
ON_ORDERS_LINE = (
    Attack(
        "forged-shipment",
        "shipment with a stamp of its own, put into order's line",
        ("a_delivery_of_its_own_making",),
        victim="order",
    ),
    Attack(
        "repeated-shipment",
        "a genuine shipment, delivered a second time",
        ("a_delivery_shown_again",),
    ),
)
LATER = (
    Attack("replay-later", "captured order, replayed after its time-to-live", ("kept_for_later",)),
)
INSIDE = (
    Attack(
        "no-order",
        "reservation without an order",
        ("a_shipment_of_nothing",),
        detail="a parent is required",
    ),
    Attack(
        "own-stamp-cause",
        "order proven by its own stamp",
        ("a_stamp_of_its_own_making",),
        detail=NOT_THE_BUS,
    ),
    Attack(
        "other-order",
        "reservation from another order's stamp",
        ("shipped_to_another_order",),
        detail="/order_id differs",
    ),
    Attack("second-reservation", "second reservation for an order", ("shipped_twice",)),
)
THROWN_OUT = (
    Attack(
        "thrown-out",
        "stay in inventory's session, and log in again",
        ("a_key_that_leaked",),
    ),
)

READ = VeiledAttack("read-line", "read an order on order's line", (), words="nothing can be read")
NO_CERTIFICATE = VeiledAttack(
    "no-certificate",
    "connect without a certificate",
    (),
    words="client didn't provide a certificate",
)
UNDER_TLS = (READ, NO_CERTIFICATE)

ACTS: dict[str, tuple[Attack, ...]] = {
    "At the door": AT_THE_DOOR,
    "On order's line, without its key": ON_THE_WIRE,
    "Past the relay": PAST_THE_RELAY,
    "As scraper, which the policy knows": AS_SCRAPER,
    "Garbage, and messages that make NATS answer": NOISE,
    "Into order's ear": ON_ORDERS_LINE,
    "Later": LATER,
    "With inventory's stolen signing key": INSIDE,
    "Once that key is revoked": THROWN_OUT,
    "Once the operator has turned TLS on": UNDER_TLS,
}
"""The acts in the order in which they are tried."""

ATTACKS: tuple[Attack, ...] = tuple(attack for act in ACTS.values() for attack in act)

ON_STAGE: tuple[Attack, ...] = tuple(attack for attack in ATTACKS if attack not in UNDER_TLS)
"""The attacks in the shop without TLS, which the attacker's own process carries out."""

NEEDS_AN_ORDER: frozenset[str] = frozenset(attack.key for attack in ON_THE_WIRE[:7])
"""Attacks that wait for an order to pass."""
