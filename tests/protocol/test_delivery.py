"""The checks of a subscriber.

The vectors have every refusal. These tests take out each check of the reader in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sealbus.errors import Malformed
from sealbus.protocol import delivery, stamp
from sealbus.protocol.delivery import open_delivery, pack_delivery, split_delivery
from sealbus.protocol.envelope import Parent
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from tests.gate.world import BUS_KEYS, ORDER, PLACED, envelope, sealed_stamp
from tests.protocol.mutation import without_each_check
from tests.vectors.make_deliveries import bad_deliveries, bad_stamps


def outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except Malformed as refused:
        return refused.what
    except ValueError:  # an enum, asked for a word that it does not have
        return "raises"
    return "believed"


def read_deliveries(reader: Callable[..., Any]) -> dict[str, str]:
    def read(data: bytes) -> object:
        return reader(data, "orders.placed", bus="shop", bus_keys=BUS_KEYS, verifier=Verifier())

    return {name: outcome(partial(read, data)) for name, _, data in bad_deliveries()}


def read_stamps(reader: Callable[..., Any]) -> dict[str, str]:
    return {
        name: outcome(lambda data=data: reader(data, BUS_KEYS, Verifier()))  # type: ignore[misc]
        for name, _, data in bad_stamps()
    }


def test_message_has_the_fields_that_the_bus_sealed() -> None:
    data = envelope()
    message = open_delivery(
        pack_delivery(data, sealed_stamp(data)),
        "orders.placed",
        bus="shop",
        bus_keys=BUS_KEYS,
        verifier=Verifier(),
    )
    assert (message.bot, message.subject, message.payload) == ("order", "orders.placed", ORDER)
    assert (message.nonce, message.issued_at_ms) == (PLACED.nonce, PLACED.issued_at_ms)
    assert (message.stamp_data, message.envelope.data) == (sealed_stamp(data), data)


def test_a_message_can_be_followed_from() -> None:
    data = envelope()
    message = open_delivery(
        pack_delivery(data, sealed_stamp(data)),
        "orders.placed",
        bus="shop",
        bus_keys=BUS_KEYS,
        verifier=Verifier(),
    )
    assert Parent.decode(message.as_parent()) == Parent(sealed_stamp(data), None)
    assert Parent.decode(message.as_parent(with_envelope=True)) == Parent(sealed_stamp(data), data)


def test_delivery_is_split_into_its_packed_parts() -> None:
    assert split_delivery(pack_delivery(b"envelope", b"stamp")) == (b"envelope", b"stamp")


def test_no_bad_delivery_is_believed() -> None:
    assert "believed" not in read_deliveries(open_delivery).values()


def test_no_bad_stamp_is_believed() -> None:
    assert "believed" not in read_stamps(open_stamp).values()


@pytest.mark.parametrize(
    ("condition", "weaker"),
    without_each_check(open_delivery),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_check_a_bad_delivery_is_read_otherwise(
    condition: str, weaker: Callable[..., Any]
) -> None:
    assert read_deliveries(weaker) != read_deliveries(open_delivery), condition


@pytest.mark.parametrize(
    ("condition", "weaker"),
    without_each_check(open_stamp),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_check_a_bad_stamp_is_read_otherwise(
    condition: str, weaker: Callable[..., Any]
) -> None:
    assert read_stamps(weaker) != read_stamps(open_stamp), condition


@pytest.mark.parametrize(
    ("condition", "weaker"),
    without_each_check(Stamp.decode.__func__),  # type: ignore[attr-defined]  # a class method's function
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_rule_a_bad_stamp_body_is_believed(
    condition: str, weaker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = read_stamps(open_stamp)
    monkeypatch.setattr(stamp.Stamp, "decode", classmethod(weaker))
    changed = {
        name: after for name, after in read_stamps(open_stamp).items() if after != sound[name]
    }
    assert changed, condition
    assert set(changed.values()) == {"believed"}


def test_the_reader_has_the_checks_that_are_taken_out() -> None:
    assert len(without_each_check(open_delivery)) == 5
    assert len(without_each_check(open_stamp)) == 3
    assert delivery.open_delivery is open_delivery
