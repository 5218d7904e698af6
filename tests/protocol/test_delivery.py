"""The checks of a subscriber.

The vectors have every refusal. These tests take out each check of the reader in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sealbus.errors import Malformed
from sealbus.protocol import delivery, sealed, stamp
from sealbus.protocol import envelope as envelope_module
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import Message, open_delivery, pack_delivery, split_delivery
from sealbus.protocol.envelope import Envelope, Parent
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from tests.gate.world import BUS_KEYS, ORDER, PLACED, burst, envelope, sealed_stamp
from tests.protocol.mutation import without_each_check
from tests.vectors.make_deliveries import bad_deliveries, shown
from tests.vectors.make_stamps import bad_stamps

BAD_DELIVERIES = list(bad_deliveries())
BAD_STAMPS = list(bad_stamps())


def outcome(read: Callable[[], object]) -> str:
    try:
        read()
    except Malformed as refused:
        return refused.what
    except (ValueError, TypeError, LookupError, AttributeError):  # only without a check
        return "raises"
    return "believed"


def read_deliveries(reader: Callable[..., Any]) -> dict[str, str]:
    def read(data: bytes) -> object:
        return reader(data, "orders.placed", bus="shop", bus_keys=BUS_KEYS, verifier=Verifier())

    return {name: outcome(partial(read, data)) for name, _, data in BAD_DELIVERIES}


def read_stamps(reader: Callable[..., Any]) -> dict[str, str]:
    return {
        name: outcome(lambda data=data: reader(data, BUS_KEYS, Verifier()))  # type: ignore[misc]
        for name, _, data in BAD_STAMPS
    }


def opened(data: bytes) -> list[Message]:
    return open_delivery(
        data, "orders.placed", bus="shop", bus_keys=BUS_KEYS, verifier=Verifier(), attempt=3
    )


def test_message_has_the_fields_that_the_bus_sealed() -> None:
    data = envelope()
    (message,) = opened(pack_delivery(data, sealed_stamp(data)))
    assert (message.bot, message.subject, message.payload) == ("order", "orders.placed", ORDER)
    assert (message.nonce, message.issued_at_ms) == (PLACED.nonce, PLACED.issued_at_ms)
    assert (message.stamp_data, message.envelope.data) == (sealed_stamp(data), data)
    assert (message.index, message.attempt) == (0, 3)


def test_a_burst_is_opened_without_its_refused_payloads() -> None:
    messages = opened(shown(burst(ORDER, 1, 2, 3), 1))
    assert [(one.index, one.payload) for one in messages] == [(0, ORDER), (2, 2), (3, 3)]
    assert len({(one.bot, one.nonce, one.stamp_data) for one in messages}) == 1
    assert {one.attempt for one in messages} == {3}


def test_delivery_is_opened_with_its_parent_or_without() -> None:
    data = envelope(parent=b"a parent")
    (with_it,) = opened(shown(data))
    (without,) = opened(shown(data, parent=True))
    assert (with_it.envelope.parent, without.envelope.parent) == (b"a parent", None)
    assert with_it.envelope.digest == without.envelope.digest


def test_the_largest_delivery_can_be_opened() -> None:
    """A bot's envelope of the largest size, with as many payloads withheld as can be."""
    spare = MAX_ENVELOPE_BYTES - len(burst(*[b""] * 255, pack_json("x" * 70_000)))
    data = burst(*[b""] * 255, pack_json("x" * (70_000 + spare)))
    assert len(data) == MAX_ENVELOPE_BYTES
    (message,) = opened(shown(data, *range(255)))
    assert (message.index, len(message.payload)) == (255, 70_000 + spare)


def test_a_message_can_be_followed_from() -> None:
    data = envelope()
    sealed = sealed_stamp(data)
    (message,) = opened(pack_delivery(data, sealed))
    assert Parent.decode(message.as_parent()) == Parent(sealed)
    assert Parent.decode(message.as_parent(with_envelope=True)) == Parent(sealed, 0, data)


def test_message_of_a_burst_is_quoted_alone() -> None:
    for data, accepted in (
        (shown(burst(ORDER, 1, 2)), [0, 1, 2]),
        (shown(burst(ORDER, 1, 2), 1), [0, 2]),
    ):
        messages = opened(data)
        assert [one.index for one in messages] == accepted
        for message in messages:
            parent = Parent.decode(message.as_parent(with_envelope=True))
            assert (parent.stamp, parent.index) == (message.stamp_data, message.index)
            assert parent.quote is not None
            quote = Envelope.decode_shown(parent.quote)
            assert quote.digest == message.stamp.envelope
            assert [at for at, one in enumerate(quote.payloads) if one is not None] == [
                message.index
            ]


def test_quote_does_not_show_the_parent() -> None:
    (message,) = opened(shown(envelope(parent=b"a parent")))
    parent = Parent.decode(message.as_parent(with_envelope=True))
    assert parent.quote is not None
    assert Envelope.decode_shown(parent.quote).hides_parent


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
    without_each_check(sealed.open_body),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_check_a_bad_stamp_is_read_otherwise(
    condition: str, weaker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = read_stamps(open_stamp)
    monkeypatch.setattr(stamp, "open_body", weaker)
    assert read_stamps(open_stamp) != sound, condition


@pytest.mark.parametrize(
    ("condition", "weaker"),
    # A class method's function.
    without_each_check(Stamp.decode.__func__),  # type: ignore[attr-defined]
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


@pytest.mark.parametrize(
    ("condition", "weaker"),
    without_each_check(stamp._read_refused),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_rule_a_bad_list_is_read_otherwise(
    condition: str, weaker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = read_stamps(open_stamp)
    monkeypatch.setattr(stamp, "_read_refused", weaker)
    assert read_stamps(open_stamp) != sound, condition


@pytest.mark.parametrize(
    ("function", "condition", "weaker"),
    [
        (function, *check)
        for function in ("_split", "_outline", "_hidden")
        for check in without_each_check(getattr(envelope_module, function))
        if "MAX_PARENT_BYTES" not in check[0]
        and "PROTOCOL_VERSION" not in check[0]  # headers.json has these two
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_rule_an_odd_envelope_is_read_otherwise(
    function: str, condition: str, weaker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = read_deliveries(open_delivery)
    monkeypatch.setattr(envelope_module, function, weaker)
    assert read_deliveries(open_delivery) != sound, condition


def test_the_reader_has_the_checks_that_are_taken_out() -> None:
    assert len(without_each_check(open_delivery)) == 6
    assert len(without_each_check(sealed.open_body)) == 3
    assert len(without_each_check(stamp._read_refused)) == 7
    assert delivery.open_delivery is open_delivery
