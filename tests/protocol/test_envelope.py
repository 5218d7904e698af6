"""The envelope: reading gives back the written values.

Nothing outside the grammar is written. Withheld parts change no hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol import envelope as envelope_module
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Envelope, Header, Parent, seal_envelopes
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_HEADER_BYTES,
    MAX_PARENT_BYTES,
    MAX_PAYLOADS,
    MAX_SHOWN_BYTES,
    MAX_TIME_MS,
    MAX_TTL_MS,
)
from sealbus.protocol.seal import Context, Verifier
from tests.gate.parts import Parts
from tests.gate.world import KEYS, ORDER, PLACED, burst, envelope, salted, shipment
from tests.protocol.mutation import without_each_check


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


OUTSIDE: list[dict[str, Any]] = [
    {"bus": "The Shop"},
    {"bus": ""},
    {"bot": "a.b"},
    {"bot": "x" * 33},
    {"subject": "orders.*"},
    {"subject": "x." * 100 + "x"},
    {"nonce": bytes(15)},
    {"nonce": bytes(17)},
    {"issued_at_ms": -1},
    {"issued_at_ms": MAX_TIME_MS + 1},
    {"ttl_ms": 0},
    {"ttl_ms": -1},
    {"ttl_ms": MAX_TTL_MS + 1},
    {"schema": "orders.placed"},
    {"schema_version": 1},
    {"schema": "Orders", "schema_version": 1},
    {"schema": "orders", "schema_version": 0},
    {"schema": "orders", "schema_version": 65_536},
]
INSIDE: list[dict[str, Any]] = [
    {},
    {"bus": "x" * 32, "bot": "0"},
    {"issued_at_ms": 0, "ttl_ms": 1},
    {"issued_at_ms": MAX_TIME_MS, "ttl_ms": MAX_TTL_MS},
    {"schema": "orders.placed", "schema_version": 1},
    {"schema": "o", "schema_version": 65_535},
]


@pytest.mark.parametrize("changes", INSIDE)
def test_a_header_is_read_as_it_was_written(changes: dict[str, Any]) -> None:
    header = replace(PLACED, **changes)
    assert Header.decode(header.encode()) == header


@pytest.mark.parametrize("changes", OUTSIDE)
def test_header_outside_the_grammar_is_not_written_and_not_read(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = replace(PLACED, **changes)
    with pytest.raises(InvalidInput, match="envelope header: "):
        header.encode()
    with monkeypatch.context() as lax:
        lax.setattr(Header, "problem", lambda _: None)
        written = header.encode()
    with pytest.raises(Malformed, match="header: "):
        Header.decode(written)


@pytest.mark.parametrize(
    ("condition", "weaker"),
    without_each_check(Header.problem),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_rule_a_bad_header_is_written(condition: str, weaker: Any) -> None:
    assert any(weaker(replace(PLACED, **changes)) is None for changes in OUTSIDE), condition


def test_a_header_has_nine_fields() -> None:
    assert [field.name for field in fields(Header)] == [
        "bus", "bot", "subject", "nonce", "issued_at_ms", "ttl_ms", "schema", "schema_version",
        "certificate",
    ]  # fmt: skip


def test_a_header_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(Malformed, match=f"header of {MAX_HEADER_BYTES + 1} bytes"):
        Header.decode(bytes(MAX_HEADER_BYTES + 1))


def test_a_schema_is_named_with_its_version() -> None:
    assert PLACED.schema_name is None
    assert (
        replace(PLACED, schema="orders.placed", schema_version=2).schema_name == "orders.placed.v2"
    )


# ---- envelopes of one and of several payloads ----------------------------------------------------

LARGEST_HEADER = replace(
    PLACED,
    bus="b" * 32,
    bot="b" * 32,
    subject=".".join(["x" * 49] * 4),
    issued_at_ms=MAX_TIME_MS,
    ttl_ms=MAX_TTL_MS,
    schema=".".join(["x" * 49] * 4),
    schema_version=65_535,
)


def test_the_largest_header_is_well_within_its_limit() -> None:
    assert len(LARGEST_HEADER.encode()) < 550 < MAX_HEADER_BYTES


def test_an_envelope_is_read_as_it_was_sealed() -> None:
    data = envelope()
    read = Envelope.decode(data)
    assert (read.data, read.header, read.parent) == (data, PLACED, None)
    assert read.payloads == [pack_json(ORDER)]
    assert not read.hides_parent


def test_outline_and_digest_are_those_of_the_format() -> None:
    """The hashes are written out here, because both sides of the product share one function."""
    parts = Parts.of(burst(ORDER, 2, 3))
    outline = b"\0\3" + sha256(b"\2" + parts.header) + sha256(b"\4")
    for at, payload in enumerate(parts.payloads):
        outline += sha256(b"\5\0" + bytes([at]) + payload)
    read = Envelope.decode(parts.data)
    assert read.outline == outline
    assert read.digest == sha256(b"\6" + outline + parts.seal)
    assert [read.part(at) for at in range(5)] == [
        outline[begin : begin + 32] for begin in range(2, len(outline), 32)
    ]


def test_outline_names_the_parent_by_its_hash() -> None:
    parts = Parts.of(shipment())
    read = Envelope.decode(parts.data)
    assert read.parent == parts.parent
    assert read.part(1) == sha256(b"\3" + parts.parent)


@pytest.mark.parametrize("count", [1, 2, 255, 256])
def test_payloads_come_back_in_their_order(count: int) -> None:
    read = Envelope.decode(burst(*range(count)))
    assert read.payloads == [pack_json(at) for at in range(count)]
    assert read.outline[:2] == count.to_bytes(2, "big")
    assert Verifier().verify(Context.ENVELOPE, read.seal, read.outline)


def test_equal_payloads_have_different_hashes_at_each_place() -> None:
    header, payload = Parts.of(envelope()).header, salted(b"\xc0")
    read = Envelope.decode(Parts(header, [payload, payload]).sealed(KEYS["order"]))
    assert read.part(2) != read.part(3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_several_envelopes_are_sealed_by_one_signature(count: int) -> None:
    drafts = [
        Draft(replace(PLACED, nonce=bytes([at]) * 16), [salted(pack_json(at))])
        for at in range(count)
    ]
    made = seal_envelopes(KEYS["order"], drafts)
    read = [Envelope.decode(data) for data, _ in made]
    assert [(one.header, one.payloads) for one in read] == [
        (draft.header, [pack_json(at)]) for at, draft in enumerate(drafts)
    ]
    assert [one.digest for one in read] == [digest for _, digest in made]
    assert len({one.seal.signature for one in read}) == 1
    assert all(Verifier().verify(Context.ENVELOPE, one.seal, one.outline) for one in read)


def test_an_envelope_too_large_is_not_sealed() -> None:
    room = MAX_ENVELOPE_BYTES - len(envelope(packed=bytes(70_000)))
    assert len(envelope(packed=bytes(70_000 + room))) == MAX_ENVELOPE_BYTES
    with pytest.raises(InvalidInput, match=f"would have {MAX_ENVELOPE_BYTES + 1} bytes"):
        envelope(packed=bytes(70_000 + room + 1))


def test_a_parent_too_large_is_not_sealed() -> None:
    assert Envelope.decode(envelope(parent=bytes(MAX_PARENT_BYTES))).parent is not None
    with pytest.raises(InvalidInput, match=f"a parent of {MAX_PARENT_BYTES + 1} bytes"):
        envelope(parent=bytes(MAX_PARENT_BYTES + 1))


@pytest.mark.parametrize(("count", "parent"), [(0, None), (257, None), (0, b""), (2, b"")])
def test_a_number_of_payloads_too_many_is_not_sealed(count: int, parent: bytes | None) -> None:
    payloads = [salted(b"\xc0")] * count
    with pytest.raises(InvalidInput, match=f"an envelope with {count} payloads"):
        seal_envelopes(KEYS["order"], [Draft(PLACED, payloads, parent)])


def test_no_drafts_and_too_many_are_not_sealed() -> None:
    for drafts in ([], [Draft(PLACED, [salted(b"\xc0")])] * 1025):
        with pytest.raises(InvalidInput, match="items to seal"):
            seal_envelopes(KEYS["order"], drafts)


# ---- withheld parts ------------------------------------------------------------------------------


@pytest.mark.parametrize("withheld", [[], [0], [3], [1, 2], [3, 0], [0, 1, 2, 3]])
def test_withheld_payloads_change_nothing_but_themselves(withheld: list[int]) -> None:
    whole = Envelope.decode(burst(ORDER, 1, b"", ORDER))
    read = Envelope.decode_shown(whole.withhold(withheld, parent=True))
    assert same_but_for_payloads(read, whole)
    assert read.payloads == [
        None if at in withheld else payload for at, payload in enumerate(whole.payloads)
    ]
    assert not read.hides_parent


@pytest.mark.parametrize("withheld", [[], [0]])
def test_withheld_parent_changes_nothing_but_itself(withheld: list[int]) -> None:
    whole = Envelope.decode(shipment())
    read = Envelope.decode_shown(whole.withhold(withheld, parent=True))
    assert same_but_for_payloads(read, whole)
    assert (read.parent, read.hides_parent) == (None, True)
    assert (whole.parent is None, whole.hides_parent) == (False, False)
    assert read.payloads == ([None] if withheld else whole.payloads)
    shown = Envelope.decode_shown(whole.withhold(withheld, parent=False))
    assert (shown.parent, shown.hides_parent) == (whole.parent, False)


def same_but_for_payloads(read: Envelope, whole: Envelope) -> bool:
    return (read.header, read.seal, read.outline, read.digest) == (
        whole.header,
        whole.seal,
        whole.outline,
        whole.digest,
    ) and Verifier().verify(Context.ENVELOPE, read.seal, read.outline)


def test_more_can_be_withheld_of_a_shown_envelope() -> None:
    whole = Envelope.decode(burst(1, 2, 3))
    first = Envelope.decode_shown(whole.withhold([0], parent=False))
    assert first.withhold([2], parent=False) == whole.withhold([0, 2], parent=False)
    assert first.withhold([0, 2], parent=False) == whole.withhold([0, 2], parent=False)


def test_an_envelope_with_nothing_withheld_keeps_its_bytes() -> None:
    data = burst(1, 2)
    assert Envelope.decode(data).withhold([], parent=True) is data
    hidden = Envelope.decode(shipment()).withhold([], parent=True)
    assert Envelope.decode_shown(hidden).withhold([], parent=True) is hidden


def filled(*payloads: bytes) -> Envelope:
    """An envelope of the largest size: these payloads, and one that fills it."""
    spare = MAX_ENVELOPE_BYTES - len(burst(*payloads, bytes(70_000)))
    made = Envelope.decode(burst(*payloads, bytes(70_000 + spare)))
    assert len(made.data) == MAX_ENVELOPE_BYTES
    return made


@pytest.mark.parametrize("payload", [b"", b"\xc0", b"\xc0" * 17])
def test_each_form_of_the_largest_envelope_can_be_read(payload: bytes) -> None:
    """A relay could not deliver the accepted payload otherwise."""
    most = MAX_PAYLOADS - 1
    whole = filled(*[payload] * most)
    for count in (1, most // 2, most):
        shown = whole.withhold(range(count), parent=False)
        assert len(shown) == MAX_ENVELOPE_BYTES + count * (17 - len(payload))
        assert len(shown) <= MAX_SHOWN_BYTES
        assert Envelope.decode_shown(shown).digest == whole.digest


def test_a_shown_envelope_is_at_most_so_large() -> None:
    with pytest.raises(Malformed, match=f"envelope of {MAX_SHOWN_BYTES + 1} bytes"):
        Envelope.decode_shown(bytes(MAX_SHOWN_BYTES + 1))
    with pytest.raises(Malformed, match="not one complete"):
        Envelope.decode_shown(b"\xc1" * MAX_SHOWN_BYTES)


def test_salt_hides_a_payload_of_few_possible_values() -> None:
    header = Parts.of(envelope()).header
    one, other = (
        Envelope.decode(Parts(header, [salt * 16 + b"\xc0"]).sealed(KEYS["order"])).part(2)
        for salt in (b"a", b"b")
    )
    assert one != other


# ---- envelopes that are none ---------------------------------------------------------------------

GOOD = Parts.of(burst(ORDER, 2))
ALONE = Parts.of(shipment())
NO_PARENT = sha256(b"\x04")

ODD: dict[str, bytes] = {
    "version 2": replace(GOOD, version=2).data,
    "no payloads": replace(GOOD, payloads=[]).data,
    "257 payloads": replace(GOOD, payloads=[salted(b"")] * 257).data,
    "a parent and two payloads": replace(GOOD, parent=b"").data,
    "a withheld parent and two payloads": replace(GOOD, parent=[bytes(32)]).data,
    "a parent too large": replace(ALONE, parent=bytes(MAX_PARENT_BYTES + 1)).data,
    "a payload of 15 bytes": replace(ALONE, payloads=[bytes(15)]).data,
    "a payload without bytes": replace(GOOD, payloads=[salted(b""), b""]).data,
    "a payload that is text": replace(GOOD, payloads=["x" * 32]).data,
    "a payload that is nil": replace(GOOD, payloads=[None]).data,
    "a withheld payload without a hash": replace(GOOD, payloads=[[]]).data,
    "a withheld payload with two hashes": replace(GOOD, payloads=[[bytes(32), bytes(32)]]).data,
    "a withheld payload with a hash as text": replace(GOOD, payloads=[["x" * 32]]).data,
    "a withheld payload in two arrays": replace(GOOD, payloads=[[[bytes(32)]]]).data,
    "a withheld payload with 31 bytes": replace(GOOD, payloads=[[bytes(31)]]).data,
    "a withheld payload with 33 bytes": replace(GOOD, payloads=[[bytes(33)]]).data,
    "a withheld payload that is a map": replace(GOOD, payloads=[{"a": bytes(32)}]).data,
    "a withheld parent without a hash": replace(ALONE, parent=[]).data,
    "a withheld parent with two hashes": replace(ALONE, parent=[bytes(32), bytes(32)]).data,
    "a withheld parent with 31 bytes": replace(ALONE, parent=[bytes(31)]).data,
    "no parent, withheld": replace(ALONE, parent=[NO_PARENT]).data,
    "larger than a shown envelope may be": bytes(MAX_SHOWN_BYTES + 1),
}
SHOWN: dict[str, bytes] = {
    "a withheld payload": Envelope.decode(GOOD.data).withhold([1], parent=False),
    "a withheld parent": Envelope.decode(ALONE.data).withhold([], parent=True),
    "larger than a bot's envelope may be": filled(b"").withhold([0], parent=False),
}
"""Forms that relays pass on, and that no bot may send."""


def outcomes(read: Callable[[bytes], Envelope]) -> dict[str, str]:
    found = {}
    for name, data in (ODD | SHOWN).items():
        try:
            read(data)
            found[name] = "read"
        except Malformed as refused:
            found[name] = refused.what
        except (TypeError, LookupError, AttributeError):  # only where a check was taken out
            found[name] = "raises"
    return found


def test_nothing_odd_is_an_envelope() -> None:
    sent, shown = outcomes(Envelope.decode), outcomes(Envelope.decode_shown)
    assert {"read", "raises"}.isdisjoint(sent.values())
    assert {name for name, outcome in shown.items() if outcome == "read"} == SHOWN.keys()
    assert "raises" not in shown.values()


@pytest.mark.parametrize(
    ("function", "condition", "weaker"),
    [
        (function, *check)
        for function in ("_split", "_outline", "_hidden")
        for check in without_each_check(getattr(envelope_module, function))
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_this_check_an_odd_envelope_is_read_otherwise(
    function: str, condition: str, weaker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = outcomes(Envelope.decode), outcomes(Envelope.decode_shown)
    monkeypatch.setattr(envelope_module, function, weaker)
    weak = outcomes(Envelope.decode), outcomes(Envelope.decode_shown)
    assert weak != sound, condition


@pytest.mark.parametrize("method", ["decode", "decode_shown"])
def test_without_a_readers_check_an_envelope_is_read_otherwise(method: str) -> None:
    reader = getattr(Envelope, method)
    for condition, weaker in without_each_check(reader.__func__):
        assert outcomes(partial(weaker, Envelope)) != outcomes(reader), condition


def test_the_readers_have_the_checks_that_are_taken_out() -> None:
    """They are counted, so that a check in another form is not forgotten."""
    counts = {
        function: len(without_each_check(getattr(envelope_module, function)))
        for function in ("_split", "_outline", "_hidden")
    }
    assert counts == {"_split": 4, "_outline": 2, "_hidden": 2}
    assert len(without_each_check(Envelope.decode.__func__)) == 2  # type: ignore[attr-defined]
    shown = Envelope.decode_shown.__func__  # type: ignore[attr-defined]
    assert len(without_each_check(shown)) == 1


# ---- parents -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parent",
    [
        Parent(b"stamp"),
        Parent(b"stamp", 255),
        Parent(b"stamp", 1, b"envelope"),
        Parent(b"", 0, b""),
    ],
)
def test_a_parent_is_read_as_it_was_written(parent: Parent) -> None:
    assert Parent.decode(parent.encode()) == parent


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        b"\x92\xc4\x00\x00",
        b"\x93\xc0\x00\xc0",
        b"\x93\xa1a\x00\xc0",
        b"\x93\xc4\x00\xc0\xc0",
        b"\x93\xc4\x00\x00\xa1a",
        b"\x94\xc4\x00\x00\xc0\xc0",
        Parent(b"stamp", -1).encode(),
        Parent(b"stamp", 256).encode(),
    ],
)
def test_a_parent_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Parent.decode(data)
