"""The seal: bytes that another party sealed, that nobody sealed, or that changed afterwards."""

from __future__ import annotations

import asyncio
import os

from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal
from sealbus.protocol.sender_links import sign_link
from tests.attacks.corpus import Family
from tests.attacks.line import Line
from tests.gate.bus import Step
from tests.gate.parts import Parts
from tests.gate.world import (
    FORGED_BUS_KEY,
    KEYS,
    ORDER,
    SHIPPED,
    envelope,
    flip,
    nonce,
    reseal,
    sealed_stamp,
    shipment,
    told_at,
)
from tests.scene import now_ms

FAMILY = Family("seal")
attack = FAMILY.attack


@attack("check_seal", Reason.BAD_SEAL)
def a_changed_payload() -> Step:
    """A man in the middle changes the quantity."""
    data = envelope()
    return Step(data.replace(b"\xa8quantity\x03", b"\xa8quantity\x09"))


@attack("check_seal", Reason.BAD_SEAL, without="undeclared-subject")
def a_changed_subject() -> Step:
    """A man in the middle changes the subject of a captured order to ``orders.copied``."""
    return Step(envelope().replace(b"\xadorders.placed", b"\xadorders.copied"))


@attack("check_seal", Reason.BAD_SEAL)
def a_changed_nonce() -> Step:
    """A man in the middle gives a captured envelope a nonce of its own."""
    return Step(envelope().replace(nonce("placed"), nonce("another")))


@attack("check_seal", Reason.BAD_SEAL)
def a_changed_signature() -> Step:
    """One bit of the signature is flipped."""
    data = envelope()
    return Step(flip(data, len(data) - 40))


@attack("check_seal", Reason.BAD_SEAL)
def no_signature_at_all() -> Step:
    """The bot's own key, and 64 zeros in place of its signature."""
    data = envelope()
    return Step(reseal(data, Seal(KEYS["order"].public.raw, bytes(64), 0, ())))


@attack("check_seal", Reason.BAD_SEAL)
def a_seal_of_another_envelope() -> Step:
    """The seal of one honest envelope on the parts of another."""
    return Step(envelope()[:-98] + envelope(nonce=nonce("another"))[-98:])


@attack("check_seal", Reason.BAD_SEAL)
def sealed_in_another_context() -> Step:
    """The bot's own signature over these very bytes, made for a stamp."""
    return Step(Parts.of(envelope()).sealed(KEYS["order"], Context.STAMP))


@attack("check_seal", Reason.BAD_SEAL)
def the_key_swapped() -> Step:
    """A stranger's signature with the order bot's key written over the stranger's."""
    data = envelope(key=KEYS["stranger"])
    return Step(data.replace(KEYS["stranger"].public.raw, KEYS["order"].public.raw))


# ---- on a bot's line -----------------------------------------------------------------------------

NOT_THE_BUS = "stamp: sealed by a key that is not the bus's"


@FAMILY.line(NOT_THE_BUS)
async def a_delivery_of_its_own_making(line: Line) -> None:
    """A shipment that nobody sent, with a stamp that is valid except for its key."""
    with told_at(now_ms(), os.urandom(8)):
        data = shipment()
        line.deliver(pack_delivery(data, sealed_stamp(data, SHIPPED, key=FORGED_BUS_KEY)))


@FAMILY.line("pinned sender: another key than the pinned ones")
async def a_delivery_by_a_thief_of_the_bus_key(line: Line) -> None:
    """A shipment that a stranger sealed, with a stamp by the bus key itself.

    The bot pins the key of the sender, and believes no other.
    """
    with told_at(now_ms(), os.urandom(8)):
        data = shipment(key=KEYS["stranger"])
        line.deliver(pack_delivery(data, sealed_stamp(data, SHIPPED)))


@FAMILY.line("pinned sender: a link that its old key has not signed")
async def a_link_by_a_thief_of_the_bus_key(line: Line) -> None:
    """The same with a link from the pinned key to the stranger's, which the stranger signed."""
    at = now_ms()
    pinned, thief = KEYS["shipping"].public.raw, KEYS["stranger"]
    link = sign_link(thief, thief.public.raw, bus="shop", bot="shipping", at_ms=at)
    with told_at(at, os.urandom(8)):
        data = shipment(key=thief)
        forged = pinned + link[len(pinned) :]
        line.deliver(pack_delivery(data, sealed_stamp(data, SHIPPED), forged))


@FAMILY.line(NOT_THE_BUS)
async def a_receipt_of_its_own_making(line: Line) -> None:
    """An order is lost, and a forged receipt says that it was accepted.

    The sender ignores the receipt, and sends again.
    """
    publishing = asyncio.create_task(line.bot.publish("orders.placed", ORDER))
    order = await line.tap.next_order(lambda _: b"")
    header = Envelope.decode(order.payload).header
    with told_at(now_ms(), b""):
        line.receipt(header.nonce, sealed_stamp(order.payload, header, key=FORGED_BUS_KEY))
    await publishing
