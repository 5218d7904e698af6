"""The gate answers any bytes with a verdict and never with an exception.

It accepts nothing that its bot did not seal bit by bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.protocol.codec import pack_fields, pack_json, unpack_json
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Envelope, Header, Parent
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp
from sealbus_broker.gate.ledger import settle
from sealbus_broker.gate.policy import DeliveryClass
from sealbus_broker.gate.verdict import Judgment
from tests.attacks.families import SCENARIOS as ATTACKS
from tests.gate.bus import ACCEPTED, PureBus, Step, stamp_of
from tests.gate.honest import HONEST
from tests.gate.parts import Parts
from tests.gate.world import (
    BUS_KEYS,
    KEYS,
    NOW,
    ORDER,
    PLACED,
    POLICY,
    SHIPPED,
    envelope,
    odd,
    parent,
    sealed_stamp,
    shipment,
)
from tests.protocol.strategies import damaged, odd_values, spellings

pytestmark = pytest.mark.slow

SMALL = 4096
STEPS = [
    step
    for scenario in (*HONEST, *ATTACKS)
    for step in scenario.steps
    if 0 < len(step.data) < SMALL
]
HONEST_STEPS = [scenario.steps[0] for scenario in HONEST if len(scenario.steps[0].data) < SMALL]
SEALED = {step.data for step in STEPS}

sessions = st.sampled_from(["order", "inventory", "shipping", "rival", "ghost", ""])
deliveries = st.sampled_from(DeliveryClass)


def judged(data: bytes, session: str, delivery: DeliveryClass, **more: Any) -> Judgment:
    position = 7 if delivery is DeliveryClass.STREAM else None
    judgment = PureBus().judge(
        Step(data, session=session, delivery=delivery, position=position, **more)
    )
    if judgment.reason is None:
        assert judgment.envelope is not None
        assert judgment.proven
        assert judgment.ledger_id
    made = stamp_of(judgment, POLICY) if session else None
    if made is not None:
        assert Stamp.decode(made.encode()) == made
    return judgment


@given(st.binary(max_size=400), sessions, deliveries)
def test_any_bytes_are_refused(data: bytes, session: str, delivery: DeliveryClass) -> None:
    assert judged(data, session, delivery).reason in (Reason.ENCODING, Reason.SIZE)


@given(odd_values, sessions, deliveries)
def test_any_msgpack_is_refused(value: object, session: str, delivery: DeliveryClass) -> None:
    assert judged(msgpack.packb(value), session, delivery).reason is Reason.ENCODING


@given(st.sampled_from(STEPS), st.data(), sessions, deliveries)
def test_a_damaged_envelope_is_never_accepted(
    step: Step, data: st.DataObject, session: str, delivery: DeliveryClass
) -> None:
    hurt = data.draw(damaged(step.data))
    for who, way in ((session, delivery), (step.session, step.delivery)):
        judgment = judged(hurt, who, way)
        assert judgment.reason is not None or hurt in SEALED


@given(st.sampled_from(HONEST_STEPS), st.data())
def test_another_spelling_of_an_envelope_is_never_accepted(step: Step, data: st.DataObject) -> None:
    spelt = data.draw(spellings(msgpack.unpackb(step.data)))
    reason = judged(spelt, step.session, step.delivery).reason
    assert spelt == step.data or reason is Reason.ENCODING


@given(st.sampled_from(HONEST_STEPS), st.data())
def test_respelled_header_is_refused_with_old_and_new_seal(step: Step, data: st.DataObject) -> None:
    taken = Parts.of(step.data)
    spelt = data.draw(spellings(msgpack.unpackb(taken.header)))
    for again in (
        replace(taken, header=spelt).sealed(KEYS[step.session]),
        replace(taken, header=spelt).data,
    ):
        reason = judged(again, step.session, step.delivery).reason
        assert spelt == taken.header or reason is Reason.ENCODING


@given(st.lists(st.sampled_from(HONEST_STEPS), min_size=3, max_size=3))
def test_parts_of_several_envelopes_make_no_new_one(steps: list[Step]) -> None:
    one, two, three = (Parts.of(step.data) for step in steps)
    data = Parts(one.header, two.payloads, two.parent, three.seal).data
    for step in steps:
        judgment = judged(data, step.session, step.delivery)
        assert judgment.reason is not None or data in SEALED


headers = st.lists(
    odd_values | st.sampled_from(["shop", "order", "orders.placed", bytes(16), NOW, 30_000, None]),
    min_size=6,
    max_size=9,
)
near_headers = st.tuples(st.integers(0, 7), odd_values).map(
    lambda change: [*_FIELDS[: change[0]], change[1], *_FIELDS[change[0] + 1 :]]
)
_FIELDS: list[object] = list(msgpack.unpackb(PLACED.encode()))


@given(headers | near_headers, st.binary(max_size=30) | st.just(pack_json(ORDER)), deliveries)
def test_a_bot_that_seals_any_header_is_judged(
    header: list[object], payload: bytes, delivery: DeliveryClass
) -> None:
    packed = msgpack.packb(header)
    judgment = judged(odd(packed, payload), "order", delivery)
    if judgment.reason is None:
        assert Header.decode(packed).encode() == packed
        assert pack_json(unpack_json(payload)) == payload


@given(odd_values.map(msgpack.packb) | st.binary(max_size=60))
def test_a_bot_that_seals_any_payload_is_judged(payload: bytes) -> None:
    judgment = judged(odd(PLACED.encode(), payload), "order", DeliveryClass.STREAM)
    if judgment.reason is None:
        assert pack_json(unpack_json(payload)) == payload


GOOD_PARENT = parent(envelope(), carry=True)


def shipped_for(given_parent: bytes) -> str:
    return (
        judged(shipment(parent=given_parent), "shipping", DeliveryClass.STREAM).reason or ACCEPTED
    )


@given(st.data())
def test_a_damaged_parent_is_no_cause(data: st.DataObject) -> None:
    hurt = data.draw(damaged(GOOD_PARENT))
    assert shipped_for(GOOD_PARENT) == ACCEPTED
    assert shipped_for(hurt) == (ACCEPTED if hurt == GOOD_PARENT else Reason.CAUSE)


@given(
    odd_values.map(msgpack.packb) | st.binary(max_size=60),
    odd_values.map(msgpack.packb) | st.none(),
)
def test_any_bytes_as_a_parent_are_no_cause(one: bytes, other: bytes | None) -> None:
    for given_parent in (
        one,
        pack_fields((one, 0, other)),
        pack_fields((sealed_stamp(envelope()), 0, other)),
    ):
        assert shipped_for(given_parent) == Reason.CAUSE


@given(st.sampled_from(STEPS), st.data())
def test_a_damaged_envelope_under_an_honest_stamp_is_no_cause(
    step: Step, data: st.DataObject
) -> None:
    carried = data.draw(damaged(step.data) | st.just(step.data))
    given_parent = Parent(sealed_stamp(envelope()), 0, carried).encode()
    assert shipped_for(given_parent) == (ACCEPTED if carried == envelope() else Reason.CAUSE)


@given(st.binary(max_size=100) | odd_values.map(msgpack.packb), st.data())
def test_any_stored_copy_can_be_settled(stored: bytes, data: st.DataObject) -> None:
    judgment = PureBus().judge(Step(envelope()))
    honest = pack_delivery(envelope(), sealed_stamp(envelope()))
    for copy in (stored, data.draw(damaged(honest))):
        settled = settle(judgment, copy, NOW, (), BUS_KEYS, Verifier())
        assert settled.reason is Reason.NONCE_REUSED or copy == honest


@given(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1), st.none() | st.integers(0, 2**53 - 1))
def test_any_times_are_judged(arrived_at_ms: int, now_ms: int, ledger_since_ms: int | None) -> None:
    judged(
        envelope(),
        "order",
        DeliveryClass.STREAM,
        arrived_at_ms=arrived_at_ms,
        now_ms=now_ms,
        ledger_since_ms=ledger_since_ms,
    )


def test_the_catalogue_has_enough_to_damage() -> None:
    assert len(SEALED) > 60
    assert SHIPPED.subject in {Envelope.decode(step.data).header.subject for step in HONEST_STEPS}
