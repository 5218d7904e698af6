"""The bus's own services, asked by a bot with few rights.

It asks for things that only operators may have, or in a form that the services do not take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sealbus.protocol.envelope import Header
from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.gate.policy import DeliveryClass
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.world import NOW, envelope, nonce

FAMILY = Family("services")
ASKING = Header("shop", "rival", "sealbus.grants", nonce("a service"), NOW, 5_000)
THEIRS = consumer_name("inventory", "orders.placed", "default")


def asked(
    subject: str,
    payload: dict[str, Any],
    delivery: DeliveryClass = DeliveryClass.LIVE,
    **changes: Any,
) -> Callable[[], tuple[Step, ...]]:
    """The rival asks a service."""
    return lambda: (
        Step(
            envelope(ASKING, payload, subject=subject, **changes),
            session="rival",
            delivery=delivery,
        ),
    )


for _name, _about, _tell, _reason in (
    (
        "a look into the quarantine",
        "a list of what other bots did wrong",
        asked("sealbus.quarantine.list", {}),
        Reason.NOT_GRANTED,
    ),
    (
        "a record of the quarantine",
        "the bytes of a message that was refused",
        asked("sealbus.quarantine.show", {"sequence": 1}),
        Reason.NOT_GRANTED,
    ),
    (
        "a list of subscriptions",
        "who receives what, from where",
        asked("sealbus.subscriptions.list", {}),
        Reason.NOT_GRANTED,
    ),
    (
        "a subscription removed",
        "the durable subscription of another bot",
        asked("sealbus.subscriptions.remove", {"consumer": THEIRS}),
        Reason.NOT_GRANTED,
    ),
    (
        "a probe of its own",
        "the message by which a relay tells that the bus works",
        asked("sealbus.health", {"from": "relay"}, DeliveryClass.STREAM),
        Reason.NOT_GRANTED,
    ),
    (
        "a service that is not there",
        "an undeclared subject below the bus's own",
        asked("sealbus.quarantine.purge", {}),
        Reason.UNDECLARED_SUBJECT,
    ),
    (
        "a service by the durable way",
        "a question that would be answered when nobody waits any more",
        asked("sealbus.grants", {}, DeliveryClass.STREAM),
        Reason.WRONG_DELIVERY,
    ),
    (
        "a subscription with a line feed",
        "a pattern that would end a line of NATS's protocol",
        asked("sealbus.subscribe", {"pattern": "stock.ask\r\n", "durable": "x", "from": "new"}),
        Reason.SCHEMA,
    ),
    (
        "a subscription under a path",
        "a durable name that would be another folder at the server",
        asked("sealbus.subscribe", {"pattern": "stock.reserved", "durable": "../x", "from": "new"}),
        Reason.SCHEMA,
    ),
    (
        "a parked message of sequence 0",
        "a number that no message has",
        asked("sealbus.park", {"consumer": THEIRS, "sequence": 0, "attempt": 1, "error": "x"}),
        Reason.SCHEMA,
    ),
    (
        "an error that steers a terminal",
        "a kind of error with control characters, for an operator to see",
        asked(
            "sealbus.park", {"consumer": THEIRS, "sequence": 1, "attempt": 1, "error": "\x1b[2J"}
        ),
        Reason.SCHEMA,
    ),
    (
        "its grants with a wish",
        "a field that nobody knows",
        asked("sealbus.grants", {"publish": ["orders.placed"]}),
        Reason.SCHEMA,
    ),
    (
        "a service with a book",
        "a payload far larger than any question to the bus",
        asked("sealbus.grants", {"note": "x" * 60_000}),
        Reason.SIZE,
    ),
    (
        "a service with a parent",
        "a cause where nobody asks for one, to fill the stream of live messages",
        asked("sealbus.grants", {}, parent=bytes(10_000)),
        Reason.CAUSE,
    ),
):
    FAMILY.request(_name, _about, _tell, _reason)

for _name, _about, _pattern in (
    ("a subscription to the orders of others", "a durable queue of all orders", "orders.placed"),
    (
        "a subscription to everything",
        "a pattern that stands for all subjects of a kind",
        "orders.>",
    ),
):
    FAMILY.favour(
        _name,
        _about,
        asked("sealbus.subscribe", {"pattern": _pattern, "durable": "mine", "from": "all"}),
        f"the policy does not let rival subscribe to {_pattern}",
    )
