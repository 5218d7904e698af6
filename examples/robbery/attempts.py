"""The code of each attack. :mod:`.catalogue` says what each is and where it must end.

An attempt returns the bodies that it sent, by which the director finds them. It reports no success,
because nobody would believe it.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from examples.robbery.catalogue import ON_STAGE, SCRAPER
from examples.robbery.frames import Frame, msg, pub
from examples.robbery.thief import FAKE_ORDER, Sent, Thief, draft, now_ms, sealed, sealed_by
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SESSION_KEY_MS, SessionKey
from sealbus.protocol.codec import pack_fields, pack_json, unpack_json
from sealbus.protocol.envelope import Envelope, Parent
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import SALT_BYTES
from sealbus.protocol.seal import sign_connect
from sealbus.protocol.subjects import consumer_name
from tests.attacks.corpus import Frame as FrameCase
from tests.attacks.corpus import Vain
from tests.attacks.families import NAMED

CASES = {attack.key: attack.cases for attack in ON_STAGE}
Attempt = Callable[[Thief], Awaitable[Sent]]
ATTEMPTS: dict[str, Attempt] = {}

PRICE = {"source": "https://example.org/tea", "sku": "TEA-0001", "price_cents": 499}
DELETE = "$JS.API.STREAM.DELETE.ACCEPTED"


def attempt(key: str) -> Callable[[Attempt], Attempt]:
    """Register the code of the attack ``key``."""

    def register(function: Attempt) -> Attempt:
        ATTEMPTS[key] = function
        return function

    return register


# ---- at the door ---------------------------------------------------------------------------------


@attempt("no-key")
async def no_key(thief: Thief) -> Sent:
    await thief.knock(None, None)
    return []


async def _knock_as(thief: Thief, bot: str, own: SigningKey, *consumers: str) -> Sent:
    """Log in as ``bot`` with a session key that the attacker's ``own`` key has certified."""
    key = SessionKey.make(own, bus="shop", bot=bot, now_ms=now_ms())
    token = AdmissionText.of(key, bot, consumers).encode()
    await thief.knock(token, lambda challenge: sign_connect(key.key, challenge, token.encode()))
    return []


@attempt("unknown-key")
async def unknown_key(thief: Thief) -> Sent:
    return await _knock_as(thief, "order", thief.key)


@attempt("borrowed-name")
async def borrowed_name(thief: Thief) -> Sent:
    return await _knock_as(thief, "order", thief.scraper.key_in_memory)


@attempt("borrowed-key")
async def borrowed_key(thief: Thief) -> Sent:
    orders = thief.tap.session.login["auth_token"]
    await thief.knock(orders, lambda challenge: sign_connect(thief.key, challenge, orders.encode()))
    return []


@attempt("stolen-certificate")
async def stolen_certificate(thief: Thief) -> Sent:
    certificate = AdmissionText.decode(thief.tap.session.login["auth_token"]).certificate
    token = AdmissionText("order", thief.key.public.text, (), certificate).encode()
    await thief.knock(token, lambda challenge: sign_connect(thief.key, challenge, token.encode()))
    return []


@attempt("replayed-login")
async def replayed_login(thief: Thief) -> Sent:
    login = thief.tap.session.login
    await thief.knock(login["auth_token"], lambda _: base64.b64decode(login["sig"]))
    return []


@attempt("bare-challenge")
async def bare_challenge(thief: Thief) -> Sent:
    key = thief.scraper.new_session_key(now_ms())
    await thief.knock(AdmissionText.of(key, "scraper").encode(), key.key.sign)
    return []


@attempt("foreign-durable")
async def foreign_durable(thief: Thief) -> Sent:
    consumer = consumer_name("inventory", "orders.placed", "default")
    return await _knock_as(thief, "scraper", thief.scraper.key_in_memory, consumer)


# ---- on order's line: capture, replay, change ----------------------------------------------------


@attempt("replay-at-once")
async def replay_at_once(thief: Thief) -> Sent:
    order = await thief.next_order()
    return thief.inject(order.payload)


@attempt("replay-live")
async def replay_live(thief: Thief) -> Sent:
    order = await thief.next_order()
    return thief.inject(order.payload, live=True)


@attempt("replay-scraper")
async def replay_scraper(thief: Thief) -> Sent:
    order = await thief.next_order()
    return await thief.send(order.payload)


def _with(
    envelope: bytes, payload: dict[str, Any] | None = None, subject: str | None = None
) -> bytes:
    """A captured envelope with a change in it, with its old salt and seal."""
    version, header, parent, (body,), seal = msgpack.unpackb(envelope)
    if subject is not None:
        fields = msgpack.unpackb(header)
        fields[2] = subject
        header = msgpack.packb(fields)
    if payload is not None:
        salt, said = body[:SALT_BYTES], unpack_json(body[SALT_BYTES:])
        body = salt + pack_json({**said, **payload})
    return pack_fields((version, header, parent, [body], seal))


@attempt("replay-subject")
async def replay_subject(thief: Thief) -> Sent:
    order = await thief.next_order()
    return thief.inject(_with(order.payload, subject="orders.shipped"))


@attempt("changed-copy")
async def changed_copy(thief: Thief) -> Sent:
    order = await thief.next_order()
    return thief.inject(_with(order.payload, {"ship_to": FAKE_ORDER["ship_to"]}))


@attempt("changed-in-flight")
async def changed_in_flight(thief: Thief) -> Sent:
    changed: Sent = []

    def change(frame: Frame) -> bytes:
        changed.append(_with(frame.payload, {"ship_to": FAKE_ORDER["ship_to"]}))
        return pub("send.order", changed[0])

    await thief.next_order(change)
    return changed


@attempt("forged-receipt")
async def forged_receipt(thief: Thief) -> Sent:
    order = await thief.next_order(lambda _: b"")
    header = Envelope.decode(order.payload).header
    stamp = thief.forged_stamp(order.payload, header)
    line = thief.tap.session
    thief.tap.deliver(
        msg(f"inbox.order.{header.nonce.hex()}", line.subscriptions["inbox.order.*"], stamp)
    )
    return []


@attempt("stolen-session")
async def stolen_session(thief: Thief) -> Sent:
    return thief.inject(sealed(thief.key, draft("order", "orders.placed"), FAKE_ORDER))


@attempt("grafted-seal")
async def grafted_seal(thief: Thief) -> Sent:
    *parts, _ = msgpack.unpackb(_with_orders_certificate(thief))
    *_, seal = msgpack.unpackb(thief.tap.orders[-1])
    return thief.inject(pack_fields((*parts, seal)))


@attempt("shown-certificate")
async def shown_certificate(thief: Thief) -> Sent:
    return thief.inject(_with_orders_certificate(thief))


def _with_orders_certificate(thief: Thief) -> bytes:
    """An own order, sealed by an own key, with order's certificate, which has passed."""
    shown = Envelope.decode(thief.tap.orders[-1]).header.certificate
    return sealed_by(thief.key, draft("order", "orders.placed", certificate=shown), FAKE_ORDER)


# ---- past the relay ------------------------------------------------------------------------------


def _frames(key: str, body: Callable[[], bytes], bot: str = SCRAPER) -> list[tuple[bytes, bytes]]:
    """The corpus's own frames for this attack, each with its body."""
    cases = [NAMED[name].case for name in CASES[key]]
    bodies = [(case, body()) for case in cases if isinstance(case, FrameCase)]
    return [(case.make(said, bot), said) for case, said in bodies]


def _forged(thief: Thief) -> bytes:
    return thief.forged_delivery("order", "orders.placed", FAKE_ORDER)[0]


def _register_frames(key: str) -> None:
    @attempt(key)
    async def send(thief: Thief) -> Sent:
        for frame, _ in _frames(key, lambda: _forged(thief)):
            await thief.as_scraper(frame)
        return []


for _key in (
    "direct-delivery",
    "direct-inbox",
    "other-ingress",
    "stream-subjects",
    "stream-api",
    "system",
    "eavesdrop",
    "oversized",
):
    _register_frames(_key)


@attempt("stolen-direct")
async def stolen_direct(thief: Thief) -> Sent:
    for frame, _ in _frames("stolen-direct", lambda: _forged(thief), "order"):
        thief.tap.inject(frame)
    return []


# ---- as scraper, a bot that the policy knows -----------------------------------------------------


async def _scrape(
    thief: Thief,
    payload: Any = None,
    subject: str = "metrics.scraped",
    bot: str = "scraper",
    parent: bytes | None = None,
    **fields: Any,
) -> Sent:
    live = subject not in ("orders.placed", "stock.reserved")
    body = PRICE if payload is None else payload
    return await thief.send(
        sealed(thief.scraper.key_in_memory, draft(bot, subject, **fields), body, parent), live=live
    )


@attempt("own-seal-as-order")
async def own_seal_as_order(thief: Thief) -> Sent:
    return await _scrape(thief, FAKE_ORDER, "orders.placed", bot="order")


@attempt("no-session-key")
async def no_session_key(thief: Thief) -> Sent:
    header = draft("scraper", "metrics.scraped")
    return await thief.send(sealed_by(thief.scraper.key_in_memory, header, PRICE), live=True)


@attempt("old-session-key")
async def old_session_key(thief: Thief) -> Sent:
    key = thief.scraper.new_session_key(now_ms() - 2 * SESSION_KEY_MS)
    header = draft("scraper", "metrics.scraped")
    return await thief.send(sealed_by(key, header, PRICE), live=True)


@attempt("not-granted")
async def not_granted(thief: Thief) -> Sent:
    return await _scrape(thief, FAKE_ORDER, "orders.placed")


@attempt("undeclared")
async def undeclared(thief: Thief) -> Sent:
    return await _scrape(thief, {"open": "sesame"}, "vault.open")


@attempt("schema")
async def schema(thief: Thief) -> Sent:
    return await _scrape(thief, {**PRICE, "price_cents": "free"})


@attempt("unknown-schema")
async def unknown_schema(thief: Thief) -> Sent:
    return await _scrape(thief, FAKE_ORDER, schema="orders.placed", schema_version=1)


@attempt("expired")
async def expired(thief: Thief) -> Sent:
    return await _scrape(thief, issued_at_ms=now_ms() - 2500, ttl_ms=500)


@attempt("future")
async def future(thief: Thief) -> Sent:
    return await _scrape(thief, issued_at_ms=now_ms() + 60_000)


@attempt("long-life")
async def long_life(thief: Thief) -> Sent:
    return await _scrape(thief, ttl_ms=86_400_000)


@attempt("other-bus")
async def other_bus(thief: Thief) -> Sent:
    return await _scrape(thief, bus="shop-test")


@attempt("forged-answer")
async def forged_answer(thief: Thief) -> Sent:
    return await _scrape(
        thief, {"sku": "TEA-0001", "available": 0}, f"reply.order.{os.urandom(16).hex()}"
    )


@attempt("stolen-question")
async def stolen_question(thief: Thief) -> Sent:
    nonce, stamp = thief.stolen_question()
    subject = f"reply.order.{nonce.hex()}"
    return await _scrape(
        thief, {"sku": "TEA-0001", "available": 0}, subject, parent=Parent(stamp).encode()
    )


def _reservation(order_id: str) -> dict[str, Any]:
    return {"order_id": order_id, "lines": [{"sku": "ROB-2000", "quantity": 100}]}


def _order_id(envelope: bytes) -> str:
    """The id of the order in a captured envelope."""
    (order,) = Envelope.decode(envelope).payloads
    assert order is not None
    order_id: str = unpack_json(order)["order_id"]
    return order_id


@attempt("reservation")
async def reservation(thief: Thief) -> Sent:
    envelope, stamp = thief.stolen_parent()
    return await _scrape(
        thief,
        _reservation(_order_id(envelope)),
        "stock.reserved",
        parent=Parent(stamp, quote=envelope).encode(),
    )


@attempt("subscribe-orders")
async def subscribe_orders(thief: Thief) -> Sent:
    return await _scrape(
        thief, {"pattern": "orders.placed", "durable": "mine", "from": "all"}, "sealbus.subscribe"
    )


@attempt("operator")
async def operator(thief: Thief) -> Sent:
    return await _scrape(thief, {}, "sealbus.quarantine.list")


# ---- noise ---------------------------------------------------------------------------------------


async def _send_raw(thief: Thief, *bodies: bytes) -> Sent:
    for body in bodies:
        await thief.as_scraper(pub("send.scraper", body))
        await thief.as_scraper(pub("call.scraper", body))
    return list(bodies)


@attempt("garbage")
async def garbage(thief: Thief) -> Sent:
    return await _send_raw(
        thief, *(os.urandom(size) for size in (1, 100, 10_000, 200_000)), b"\x94\x01", b"{}"
    )


@attempt("empty")
async def empty(thief: Thief) -> Sent:
    return await _send_raw(thief, b"")


@attempt("bomb")
async def bomb(thief: Thief) -> Sent:
    return await _send_raw(
        thief,
        b"\xdd\xff\xff\xff\xff" + os.urandom(8),
        b"\x91" * 100_000,
        b"\x94\x01\xc6\xff\xff\xff\xff",
    )


@attempt("large")
async def large(thief: Thief) -> Sent:
    return await _send_raw(thief, os.urandom(512 * 1024 + 1))


async def _send_frames(thief: Thief, key: str) -> Sent:
    frames = _frames(key, lambda: os.urandom(64))
    for frame, _ in frames:
        await thief.as_scraper(frame)
    return [body for _, body in frames]


@attempt("hostile-headers")
async def hostile_headers(thief: Thief) -> Sent:
    return await _send_frames(thief, "hostile-headers")


@attempt("reply-subjects")
async def reply_subjects(thief: Thief) -> Sent:
    return await _send_frames(thief, "reply-subjects")


@attempt("expected-headers")
async def expected_headers(thief: Thief) -> Sent:
    for name in CASES["expected-headers"]:
        case = NAMED[name].case
        assert isinstance(case, Vain)
        await thief.as_scraper(case.make(os.urandom(64), SCRAPER, ""))
    return []


@attempt("ack-reply")
async def ack_reply(thief: Thief) -> Sent:
    acknowledgement = thief.tap.deliveries[-1].words[2].decode()
    for reply in (DELETE, "$JS.API.STREAM.PURGE.ACCEPTED", "bus.orders.placed"):
        thief.tap.inject(pub(acknowledgement, b"+ACK", reply))
        thief.tap.inject(pub(acknowledgement, b"+NXT", reply))
    return []


@attempt("pull-reply")
async def pull_reply(thief: Thief) -> Sent:
    consumer = consumer_name("order", "orders.shipped", "default")
    ask = json.dumps({"batch": 1, "no_wait": True}).encode()
    thief.tap.inject(pub(f"$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.{consumer}", ask, "bus.stock.check"))
    return []


# ---- into order's own line -----------------------------------------------------------------------


def _pull_line(thief: Thief) -> tuple[str, bytes]:
    """The subscription on which order gets its shipments."""
    lines = [
        (subject, sid)
        for subject, sid in thief.tap.session.subscriptions.items()
        if subject.endswith(".pull")
    ]
    return lines[-1]


@attempt("forged-shipment")
async def forged_shipment(thief: Thief) -> Sent:
    shipment = {"order_id": "ord-666666", "parcel": "par-666666", "items": 1}
    delivery, _ = thief.forged_delivery("shipping", "orders.shipped", shipment)
    consumer = consumer_name("order", "orders.shipped", "default")
    reply = f"$JS.ACK.ACCEPTED.{consumer}.1.999999999.999999999.{now_ms()}000000.0"
    thief.tap.deliver(msg("accepted.orders.shipped", _pull_line(thief)[1], delivery, reply))
    return []


@attempt("repeated-shipment")
async def repeated_shipment(thief: Thief) -> Sent:
    genuine = thief.tap.deliveries[-1]
    for _ in range(3):
        thief.tap.deliver(
            msg(genuine.subject, _pull_line(thief)[1], genuine.payload, genuine.words[2].decode())
        )
    return []


@attempt("replay-later")
async def replay_later(thief: Thief) -> Sent:
    return thief.inject(thief.tap.orders[-1])


# ---- with inventory's stolen key -----------------------------------------------------------------


async def _reserve(thief: Thief, order_id: str, parent: bytes | None) -> Sent:
    assert thief.loot is not None
    envelope = sealed(
        thief.loot.key_in_memory,
        draft("inventory", "stock.reserved"),
        _reservation(order_id),
        parent,
    )
    session = await thief.session_of(thief.loot)
    await session.say(pub("send.inventory", envelope))
    return [envelope]


@attempt("no-order")
async def no_order(thief: Thief) -> Sent:
    return await _reserve(thief, "ord-666666", None)


@attempt("thrown-out")
async def thrown_out(thief: Thief) -> Sent:
    assert thief.loot is not None
    await thief.until_cut_off(thief.loot)
    return await _knock_as(thief, "inventory", thief.loot.key_in_memory)


@attempt("own-stamp-cause")
async def own_stamp_cause(thief: Thief) -> Sent:
    _, parent = thief.forged_delivery("order", "orders.placed", FAKE_ORDER)
    return await _reserve(thief, "ord-666666", parent)


@attempt("other-order")
async def other_order(thief: Thief) -> Sent:
    envelope, stamp = thief.stolen_parent()
    return await _reserve(thief, "ord-666666", Parent(stamp, quote=envelope).encode())


@attempt("second-reservation")
async def second_reservation(thief: Thief) -> Sent:
    envelope, stamp = thief.stolen_parent()
    parent = Parent(stamp, quote=envelope).encode()
    return await _reserve(thief, _order_id(envelope), parent)
