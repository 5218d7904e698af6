"""A seal is bound to one bus and one way. Messages for another bus or another way are refused."""

from __future__ import annotations

from sealbus.protocol.reason import Reason
from tests.attacks.corpus import Family
from tests.attacks.line import Line
from tests.gate.bus import Step
from tests.gate.scenarios import live
from tests.gate.world import (
    PULSE,
    answer,
    envelope,
)

FAMILY = Family("binding")
attack = FAMILY.attack


@attack("check_bus", Reason.WRONG_BUS)
def captured_on_a_test_bus() -> Step:
    """A message that the same key sealed for the test bus."""
    return Step(envelope(bus="shop-test"))


@attack("check_delivery", Reason.WRONG_DELIVERY)
def a_durable_subject_by_the_live_way() -> Step:
    """An order that bypasses the durable store."""
    return live(envelope(ttl_ms=5_000))


@attack("check_delivery", Reason.WRONG_DELIVERY, without="ttl-too-long")
def a_durable_subject_by_the_live_way_with_its_usual_life() -> Step:
    """The same with a lifetime that only a stored message may have.

    The reason is the way, not the lifetime.
    """
    return live(envelope())


@attack("check_delivery", Reason.WRONG_DELIVERY)
def a_live_subject_by_the_durable_way() -> Step:
    """A pulse that would fill the durable store."""
    return Step(envelope(PULSE))


@attack("check_delivery", Reason.WRONG_DELIVERY)
def an_answer_by_the_durable_way() -> Step:
    """An answer by the durable way: answers are live."""
    return Step(answer(), session="inventory")


@FAMILY.line("stamped for another subject than it arrived on")
async def a_delivery_on_another_subject(line: Line) -> None:
    """The owner of a bot's line lets a genuine shipment arrive as an order."""
    line.deliver(line.genuine, subject="accepted.orders.placed")
