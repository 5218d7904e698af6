"""Messages in hand, and copies of them."""

from __future__ import annotations

from typing import cast

import pytest

from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.streams import ACK_WAIT_S
from sealbus_broker.relay.ingress.holding import Holding
from sealbus_broker.relay.ingress.waiting import Pulled
from sealbus_broker.relay.judging.arrivals import Place


@pytest.fixture
def holding() -> Holding:
    """Nothing is in hand, and nobody is told."""
    return Holding(cast("HardenedClient", None))


def pulled(deliveries: int = 1, *, stored_ms: int = 5, asked: float = 1.0) -> Pulled:
    """The message at sequence 7, delivered so often."""
    place = Place("order", deliveries, 7, stored_ms)
    return Pulled.of(b"ingress.16.0.order", b"ack.%d" % deliveries, b"x", place, asked)


def test_a_copy_takes_the_place_of_a_message_that_waits(holding: Holding) -> None:
    """Another relay may have judged it in between, so it counts as one that came again."""
    first, copy = pulled(), pulled(2, asked=20.0)
    assert holding.add(first)
    assert not holding.add(copy)
    assert holding.in_order() == [first]
    assert (first.place, first.reply) == (copy.place, copy.reply)
    assert holding.sure_until([first]) == 20.0 + ACK_WAIT_S


def test_a_copy_changes_no_message_in_a_batch(holding: Holding) -> None:
    """It is judged by its first place. So no refusal of it may be told."""
    first = pulled()
    holding.add(first)
    holding.begin([first])
    assert not holding.add(pulled(2, asked=20.0))
    assert first.place.deliveries == 1
    assert holding.sure_until([first]) == 1.0 + ACK_WAIT_S


def test_another_message_at_the_same_place_is_no_copy(holding: Holding) -> None:
    """The stream was lost, and began anew. Each message comes with its own facts."""
    first = pulled()
    holding.add(first)
    holding.add(pulled(2, stored_ms=6))
    assert first.place == pulled().place


def test_a_settled_message_may_come_again(holding: Holding) -> None:
    """Its relay may have failed to store it."""
    first = pulled()
    holding.add(first)
    holding.begin([first])
    holding.settle([first])
    assert len(holding) == 0
    assert holding.add(pulled(2))
