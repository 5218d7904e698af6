"""Everything the attacker tries, and where each must be stopped. The director holds the outcome against this list, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Where(StrEnum):
    """What stops an attack, and what the director looks at to know."""

    DOOR = "admission"
    """No session: the relay's log says that it refused one, and why."""
    NATS = "NATS permissions"
    """nats-server refuses the frame: its own log says so, for the very subject."""
    LIMIT = "NATS limits"
    """nats-server refuses the frame for its size, and hangs up: its own log says so."""
    GATE = "relay: gate"
    """The quarantine holds these very bytes, with this reason."""
    LEDGER = "relay: ledger"
    """The same, found by the nonce ledger."""
    SERVICE = "relay: service"
    """The request was in order, what it asks for is not granted: what it would have made does not exist."""
    STREAMS = "NATS streams"
    """JetStream stores it or not, but nothing comes of it: every stream is as it was, nobody received anything."""
    ACCOUNTS = "NATS accounts"
    """The server's answer goes where nobody listens: every stream is as it was, nobody received anything."""
    BOT = "the bot itself"
    """The receiving bot has counted a delivery that it did not believe, and why; or has noticed, and sent again."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One row."""

    key: str
    what: str
    where: Where
    why: str
    """The stable reason, or the words in which relay, server or bot say why."""
    subjects: tuple[str, ...] = ()
    """NATS subjects, each of which must have been refused."""
    detail: str = ""
    """What the relay must have noted beside the reason: of several things that a reason stands for, this one."""
    victim: str = ""
    """The bot that must have counted a refused delivery."""


NO_KEY = "no admission text, signature or challenge"
NOT_ITS_KEY = "the key is not one of this bot's"
NO_SIGNATURE = "the signature does not hold over the challenge and the admission text"
NOT_ITS_CONSUMER = "a consumer that is not the bot's own"
NO_DELIVERY = "not one complete msgpack value, or one with far too many parts"
NOT_THE_BUS = "stamp: sealed by a key that is not the bus's"

AT_THE_DOOR = (
    Attack("no-key", "connect without a key", Where.DOOR, NO_KEY),
    Attack("unknown-key", "connect as order with a key nobody knows", Where.DOOR, NOT_ITS_KEY),
    Attack("borrowed-name", "connect as order with scraper's key", Where.DOOR, NOT_ITS_KEY),
    Attack("borrowed-key", "connect as order, naming its key, signing with another", Where.DOOR, NO_SIGNATURE),
    Attack("replayed-login", "replay order's own captured login", Where.DOOR, NO_SIGNATURE),
    Attack("bare-challenge", "sign the server's bare challenge", Where.DOOR, NO_SIGNATURE),
    Attack("foreign-durable", "log in as scraper, ask for inventory's durable queue", Where.DOOR, NOT_ITS_CONSUMER),
)
ON_THE_WIRE = (
    Attack("replay-at-once", "captured order, replayed at once in the stolen session", Where.LEDGER, "replay"),
    Attack("replay-live", "captured order, replayed on call.order", Where.GATE, "wrong-delivery"),
    Attack("replay-scraper", "captured order, sent from scraper's session", Where.GATE, "unknown-key"),
    Attack("replay-subject", "captured order, subject changed to orders.shipped", Where.GATE, "bad-seal"),
    Attack("changed-copy", "captured order, ship-to address changed", Where.GATE, "bad-seal"),
    Attack("changed-in-flight", "order changed on its way, original held back", Where.GATE, "bad-seal"),
    Attack("forged-receipt", "order swallowed, its receipt forged", Where.BOT, NOT_THE_BUS),
    Attack("stolen-session", "own order in the stolen session, sealed by own key", Where.GATE, "unknown-key"),
    Attack("grafted-seal", "own order with a captured order's seal", Where.GATE, "bad-seal"),
)
PAST_THE_RELAY = (
    Attack(
        "direct-delivery",
        "forged order with a stamp of its own, straight to delivery",
        Where.NATS,
        "Publish Violation",
        ("bus.orders.placed", "bus.stock.reserved", "bus.reply.order.00"),
    ),
    Attack(
        "direct-inbox",
        "forged receipts, straight to other bots' inboxes",
        Where.NATS,
        "Publish Violation",
        ("inbox.order.00", "inbox.inventory.00", "inbox.scraper.00"),
    ),
    Attack(
        "other-ingress",
        "other bots' ingress, and wildcards",
        Where.NATS,
        "Publish Violation",
        ("send.order", "call.inventory", "send.*", "send.>"),
    ),
    Attack(
        "stream-subjects",
        "straight into the streams",
        Where.NATS,
        "Publish Violation",
        ("accepted.orders.placed", "live.stock.check", "ingress.0.order", "quarantine.size.order"),
    ),
    Attack(
        "stream-api",
        "delete and purge streams, consumers, messages",
        Where.NATS,
        "Publish Violation",
        (
            "$JS.API.STREAM.DELETE.ACCEPTED",
            "$JS.API.STREAM.PURGE.INGRESS",
            "$JS.API.STREAM.MSG.DELETE.ACCEPTED",
            "$JS.API.CONSUMER.DELETE.INGRESS.relay-0",
            "$JS.API.STREAM.CREATE.MINE",
        ),
    ),
    Attack(
        "system",
        "system subjects: kick, inspect, answer logins",
        Where.NATS,
        "Publish Violation",
        ("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.X.KICK", "$SYS.REQ.USER.AUTH"),
    ),
    Attack(
        "stolen-direct",
        "the same from order's stolen session",
        Where.NATS,
        "Publish Violation",
        (
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
        Where.NATS,
        "Subscription Violation",
        ("bus.>", "bus.orders.placed", "inbox.>", "inbox.order.>", "send.*", ">", "$SYS.>", "$JS.>"),
    ),
)
AS_SCRAPER = (
    Attack("own-seal-as-order", "scraper's session and key, envelope says order", Where.GATE, "wrong-bot"),
    Attack("not-granted", "an order, as itself", Where.GATE, "not-granted"),
    Attack("undeclared", "a subject that no policy knows", Where.GATE, "undeclared-subject"),
    Attack("schema", "a price that is a text", Where.GATE, "schema"),
    Attack("unknown-schema", "a price by the schema of orders", Where.GATE, "unknown-schema"),
    Attack("expired", "an envelope whose time is over", Where.GATE, "expired"),
    Attack("future", "an envelope from the future", Where.GATE, "issued-in-future"),
    Attack("long-life", "an envelope that lives for a day", Where.GATE, "ttl-too-long"),
    Attack("other-bus", "an envelope for another bus", Where.GATE, "wrong-bus"),
    Attack(
        "forged-answer", "an answer to a question that nobody asked", Where.GATE, "cause", detail="a parent is required"
    ),
    Attack(
        "stolen-question",
        "an answer to order's question, on its stolen stamp",
        Where.GATE,
        "cause",
        detail="may not receive",
    ),
    Attack("reservation", "a reservation, with a real order's stolen stamp", Where.GATE, "not-granted"),
    Attack("subscribe-orders", "ask the relay for a durable queue of orders", Where.SERVICE, "no such durable"),
    Attack("operator", "ask the relay for the quarantine", Where.GATE, "not-granted"),
)
NOISE = (
    Attack("garbage", "random bytes", Where.GATE, "encoding"),
    Attack("empty", "nothing at all", Where.GATE, "encoding"),
    Attack("bomb", "msgpack that promises four billion values", Where.GATE, "encoding"),
    Attack("large", "an envelope too large", Where.GATE, "size"),
    Attack("oversized", "a message of 700 KiB", Where.LIMIT, "maximum payload"),
    Attack("hostile-headers", "hostile header blocks: ids, pins, status, NUL", Where.GATE, "encoding"),
    Attack(
        "expected-headers", "headers that steer JetStream: rollups, schedules, TTLs", Where.STREAMS, "nothing accepted"
    ),
    Attack("reply-subjects", "reply = JetStream API, delivery: have the server speak", Where.GATE, "encoding"),
    Attack("ack-reply", "an ACK whose answer would delete the stream", Where.ACCOUNTS, "no JetStream beyond the wall"),
    Attack(
        "pull-reply", "a pull whose answer goes to inventory's questions", Where.BOT, NO_DELIVERY, victim="inventory"
    ),
)
ON_ORDERS_LINE = (
    Attack(
        "forged-shipment",
        "shipment with a stamp of its own, put into order's line",
        Where.BOT,
        NOT_THE_BUS,
        victim="order",
    ),
    Attack("repeated-shipment", "a genuine shipment, delivered a second time", Where.BOT, "known by its nonce"),
)
LATER = (Attack("replay-later", "captured order, replayed after its time-to-live", Where.GATE, "expired"),)
INSIDE = (
    Attack("no-order", "reservation without an order", Where.GATE, "cause", detail="a parent is required"),
    Attack("own-stamp-cause", "order proven by its own stamp", Where.GATE, "cause", detail=NOT_THE_BUS),
    Attack("other-order", "reservation from another order's stamp", Where.GATE, "cause", detail="/order_id differs"),
    Attack("second-reservation", "second reservation for an order", Where.LEDGER, "already-answered"),
)

ACTS: dict[str, tuple[Attack, ...]] = {
    "At the door": AT_THE_DOOR,
    "On order's line, without its key": ON_THE_WIRE,
    "Past the relay": PAST_THE_RELAY,
    "As scraper, which the policy knows": AS_SCRAPER,
    "Garbage, and what makes NATS speak": NOISE,
    "Into order's ear": ON_ORDERS_LINE,
    "Later": LATER,
    "With inventory's stolen signing key": INSIDE,
}
"""In the order in which they are tried."""

ATTACKS: tuple[Attack, ...] = tuple(attack for act in ACTS.values() for attack in act)

NEEDS_AN_ORDER: frozenset[str] = frozenset(attack.key for attack in ON_THE_WIRE[:7])
"""Attacks that wait for an order to pass."""
