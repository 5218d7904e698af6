"""Past the relay: what a lesser bot says or hears where NATS itself must not let it."""

from __future__ import annotations

from examples.robbery.catalogue import PAST_THE_RELAY
from sealbus.subjects import consumer_name
from tests.attacks.corpus import Family

FAMILY = Family("grants")

for _subject, _about in {
    "bus.orders.placed": "a delivery, straight to whoever is subscribed",
    "bus.stock.ask": "a question that no relay has stamped",
    "bus.reply.order.00": "an answer, straight to who has asked",
    "bus.orders.>": "a delivery to a pattern",
    "inbox.order.00": "a receipt of its own making",
    "inbox.rival.00": "a receipt to itself, which only the relay writes",
    "send.order": "a message in the order bot's session",
    "call.order": "a live message in the order bot's session",
    "send.rival.x": "a token more than its own way in",
    "send.*": "a message in everybody's session",
    "send.>": "a message below every session",
    "ingress.0.order": "straight into the stream of what has come in",
    "accepted.orders.placed": "straight into the stream of what was accepted",
    "live.stock.ask": "straight into the stream of live messages",
    "quarantine.size.order": "a record that another bot did wrong",
    "health.probe": "the relay's own message about itself",
    "relay.ping": "the bus's own question about health",
    "$JS.API.INFO": "JetStream's own account of itself",
    "$JS.API.STREAM.NAMES": "a list of all streams",
    "$JS.API.STREAM.INFO.ACCEPTED": "what a stream holds",
    "$JS.API.STREAM.CREATE.MINE": "a stream of its own",
    "$JS.API.STREAM.UPDATE.ACCEPTED": "other limits for the ledger",
    "$JS.API.STREAM.DELETE.ACCEPTED": "the ledger deleted",
    "$JS.API.STREAM.PURGE.INGRESS": "what waits to be judged, purged",
    "$JS.API.STREAM.MSG.GET.QUARANTINE": "a look at what was refused",
    "$JS.API.STREAM.MSG.DELETE.ACCEPTED": "one message out of the ledger",
    "$JS.API.DIRECT.GET.ACCEPTED": "a message out of the ledger, read directly",
    "$JS.API.CONSUMER.CREATE.ACCEPTED": "a consumer without the relay",
    "$JS.API.CONSUMER.DELETE.INGRESS.relay-0": "the relay's own consumer deleted",
    "$JS.API.CONSUMER.PAUSE.INGRESS.relay-0": "the relay's own consumer paused",
    "$JS.API.CONSUMER.MSG.NEXT.INGRESS.relay-0": "what waits to be judged, fetched in the relay's place",
    f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer_name('inventory', 'orders.placed', 'default')}": (
        "what another bot's durable subscription holds"
    ),
    f"$JS.ACK.ACCEPTED.{consumer_name('inventory', 'orders.placed', 'default')}.1.1.1.1.0": (
        "an acknowledgement in another bot's place, which would lose it the message"
    ),
    "$JS.ACK.INGRESS.relay-0.1.1.1.1.0": "an acknowledgement in the relay's place",
    "$SYS.REQ.USER.AUTH": "an answer to a login, in the relay's place",
    "$SYS.REQ.SERVER.PING": "the server asked about itself",
}.items():
    FAMILY.forbidden("PUB", _subject, _about)

for _subject, _about in {
    ">": "everything",
    "bus.>": "every delivery",
    "bus.orders.placed": "deliveries that it may not receive",
    "bus.*.ask": "a pattern that is wider than its grant",
    "bus.reply.order.>": "the answers to another bot",
    "bus.reply.*.*": "the answers to every bot",
    "inbox.order.>": "the receipts of another bot",
    "inbox.>": "the receipts of every bot",
    "send.order": "what another bot sends",
    "send.*": "what every bot sends",
    "call.*": "what every bot sends live",
    "ingress.>": "what waits to be judged",
    "accepted.>": "what was accepted",
    "quarantine.>": "what was refused",
    "$JS.>": "JetStream's own traffic",
    "$JS.EVENT.>": "what JetStream tells about itself",
    "$SYS.>": "what the server tells about itself",
    "$SYS.REQ.USER.AUTH relays": "logins, in the relay's queue group",
    "bus.stock.> inventory": "a share of what another bot's processes share",
}.items():
    FAMILY.forbidden("SUB", _subject, _about)

_known = {attack.name for attack in FAMILY.attacks}
for _attack in PAST_THE_RELAY:  # what the demo tries is tried here too
    _verb = "SUB" if _attack.why == "Subscription Violation" else "PUB"
    for _subject in _attack.subjects:
        if f"{_verb.lower()} {_subject}" not in _known:
            _known.add(f"{_verb.lower()} {_subject}")
            FAMILY.forbidden(_verb, _subject, _attack.what)
