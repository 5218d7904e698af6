"""More than was granted: a bot sends or receives on subjects that the gate or NATS must refuse."""

from __future__ import annotations

from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import consumer_name
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.scenarios import live
from tests.gate.world import PULSE, envelope

FAMILY = Family("grants")
attack = FAMILY.attack
THEIRS = consumer_name("inventory", "orders.placed", "default")


@attack("check_granted", Reason.NOT_GRANTED)
def a_subject_outside_the_grant() -> Step:
    """The shipping bot places an order."""
    return Step(envelope(bot="shipping"), session="shipping")


@attack("check_granted", Reason.NOT_GRANTED)
def anothers_token_of_a_pattern() -> Step:
    """The order bot sends on a declared pattern's other subject."""
    return live(envelope(PULSE, subject="pulse.inventory", payload=72))


# ---- past the relay: NATS must refuse it ---------------------------------------------------------

FAMILY.forbidden(
    "PUB",
    {
        "bus.orders.placed": "a delivery, straight to its subscribers",
        "bus.stock.reserved": "the same on a subject of another bot",
        "bus.stock.ask": "a question that no relay has stamped",
        "bus.reply.order.00": "an answer, straight to the bot that asked",
        "bus.orders.>": "a delivery to a pattern",
        "inbox.order.00": "a receipt of its own making",
        "inbox.inventory.00": "a receipt to a third bot",
        "inbox.rival.00": "a receipt to itself, which only the relay writes",
        "send.order": "a message in the order bot's session",
        "call.order": "a live message in the order bot's session",
        "send.inventory": "a message in a third bot's session",
        "call.inventory": "a live message in a third bot's session",
        "send.rival.x": "a token more than its own way in",
        "send.*": "a message in everybody's session",
        "send.>": "a message below every session",
        "ingress.16.0.order": "straight into the stream of messages that have come in",
        "accepted.orders.placed": "straight into the stream of accepted messages",
        "live.stock.ask": "straight into the stream of live messages",
        "live.stock.check": "into the stream of live messages, on a subject of another policy",
        "quarantine.size.order": "a record that another bot did wrong",
        "health.probe": "the relay's own message about itself",
        "relay.ping": "the bus's own question about health",
        "relay.here": "a relay that is not there, and takes partitions",
        "relay.door": "a door that is not there",
        "relay.hello": "the question that all relays answer",
        "relay.pauses": "a pause for another bot",
        "relay.admitted": "another bot's name for a session",
        "relay.disconnected": "the word that a relay is gone",
        "$JS.API.INFO": "JetStream's own account of itself",
        "$JS.API.STREAM.NAMES": "a list of all streams",
        "$JS.API.STREAM.INFO.ACCEPTED": "the contents of a stream",
        "$JS.API.STREAM.CREATE.MINE": "a stream of its own",
        "$JS.API.STREAM.UPDATE.ACCEPTED": "other limits for the ledger",
        "$JS.API.STREAM.DELETE.ACCEPTED": "the ledger deleted",
        "$JS.API.STREAM.PURGE.INGRESS": "the messages that wait to be judged, purged",
        "$JS.API.STREAM.MSG.GET.QUARANTINE": "a look at the refused messages",
        "$JS.API.STREAM.MSG.DELETE.ACCEPTED": "one message out of the ledger",
        "$JS.API.DIRECT.GET.ACCEPTED": "a message out of the ledger, read directly",
        "$JS.API.CONSUMER.CREATE.ACCEPTED": "a consumer without the relay",
        "$JS.API.CONSUMER.DELETE.INGRESS.relay-16-0": "the relay's own consumer deleted",
        "$JS.API.CONSUMER.PAUSE.INGRESS.relay-16-0": "the relay's own consumer paused",
        "$JS.API.CONSUMER.MSG.NEXT.INGRESS.relay-16-0": "a message that waits for the relay",
        f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{THEIRS}": "a message of another bot's subscription",
        f"$JS.ACK.ACCEPTED.{THEIRS}.1.1.1.1.0": (
            "an acknowledgement in another bot's place, which would lose the message"
        ),
        "$JS.ACK.INGRESS.relay-16-0.1.1.1.1.0": "an acknowledgement in the relay's place",
        "$SYS.REQ.USER.AUTH": "an answer to a login, in the relay's place",
        "$SYS.REQ.SERVER.PING": "the server asked about itself",
        "$SYS.REQ.SERVER.X.KICK": "the end of another bot's connection",
        "$SYS.REQ.SERVER.PING.VARZ": "each node asked about itself",
        "$SYS.REQ.SERVER.X.ROUTEZ": "the addresses of all nodes",
        "$SYS.REQ.SERVER.X.JSZ": "the state of JetStream",
        "$SYS.REQ.ACCOUNT.BOTS.CONNZ": "a list of all sessions",
        "$SYS.REQ.ACCOUNT.BOTS.STATZ": "how much all bots have sent",
    },
)

FAMILY.forbidden(
    "SUB",
    {
        ">": "everything",
        "bus.>": "every delivery",
        "bus.orders.placed": "deliveries that it may not receive",
        "bus.*.ask": "a pattern that is wider than its grant",
        "bus.reply.order.>": "the answers to another bot",
        "bus.reply.*.*": "the answers to every bot",
        "inbox.order.>": "the receipts of another bot",
        "inbox.>": "the receipts of every bot",
        "send.order": "the messages that another bot sends",
        "send.*": "the messages that every bot sends",
        "call.*": "the live messages that every bot sends",
        "ingress.>": "the messages that wait to be judged",
        "relay.>": "the words of relays and doors to each other",
        "accepted.>": "the accepted messages",
        "quarantine.>": "the refused messages",
        "$JS.>": "JetStream's own traffic",
        "$JS.EVENT.>": "JetStream's events about itself",
        "$SYS.>": "the server's events about itself",
        "$SYS.REQ.USER.AUTH relays": "logins, in the relay's queue group",
        "bus.stock.> inventory": "a share of the messages of another bot's processes",
    },
)
