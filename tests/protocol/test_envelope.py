"""The envelope: reading gives back the written values.

Nothing outside the grammar is written.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope, Header, Parent, seal_envelopes
from sealbus.protocol.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_HEADER_BYTES,
    MAX_PARENT_BYTES,
    MAX_TIME_MS,
    MAX_TTL_MS,
)
from sealbus.protocol.seal import Context, Verifier
from tests.gate.world import KEYS, ORDER, PLACED, envelope
from tests.protocol.mutation import without_each_check

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
    {"parent": bytes(MAX_PARENT_BYTES + 1)},
]
INSIDE: list[dict[str, Any]] = [
    {},
    {"bus": "x" * 32, "bot": "0"},
    {"issued_at_ms": 0, "ttl_ms": 1},
    {"issued_at_ms": MAX_TIME_MS, "ttl_ms": MAX_TTL_MS},
    {"schema": "orders.placed", "schema_version": 1},
    {"schema": "o", "schema_version": 65_535},
    {"parent": b""},
    {"parent": bytes(MAX_PARENT_BYTES)},
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
        "parent",
    ]  # fmt: skip


def test_a_header_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(Malformed, match=f"header of {MAX_HEADER_BYTES + 1} bytes"):
        Header.decode(bytes(MAX_HEADER_BYTES + 1))


def test_a_schema_is_named_with_its_version() -> None:
    assert PLACED.schema_name is None
    assert (
        replace(PLACED, schema="orders.placed", schema_version=2).schema_name == "orders.placed.v2"
    )


def test_envelope_keeps_its_bytes_and_has_their_digest() -> None:
    data = envelope()
    read = Envelope.decode(data)
    assert (read.data, read.header, read.payload) == (data, PLACED, pack_json(ORDER))
    assert read.digest == hashlib.sha256(data).digest()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_burst_is_sealed_by_one_signature(count: int) -> None:
    drafts = [(replace(PLACED, nonce=bytes([at]) * 16), pack_json(at)) for at in range(count)]
    read = [Envelope.decode(data) for data in seal_envelopes(KEYS["order"], drafts)]
    assert [(one.header, one.payload) for one in read] == drafts
    assert len({one.seal.signature for one in read}) == 1
    assert all(Verifier().verify(Context.ENVELOPE, one.seal, one.signed) for one in read)


def test_an_envelope_too_large_is_not_sealed() -> None:
    room = MAX_ENVELOPE_BYTES - len(envelope(packed=bytes(70_000)))
    assert len(envelope(packed=bytes(70_000 + room))) == MAX_ENVELOPE_BYTES
    with pytest.raises(InvalidInput, match=f"would have {MAX_ENVELOPE_BYTES + 1} bytes"):
        envelope(packed=bytes(70_000 + room + 1))


def test_no_drafts_and_too_many_are_not_sealed() -> None:
    for drafts in ([], [(PLACED, b"\xc0")] * 1025):
        with pytest.raises(InvalidInput, match="items to seal"):
            seal_envelopes(KEYS["order"], drafts)


@pytest.mark.parametrize(
    "parent", [Parent(b"stamp"), Parent(b"stamp", b"envelope"), Parent(b"", b"")]
)
def test_a_parent_is_read_as_it_was_written(parent: Parent) -> None:
    assert Parent.decode(parent.encode()) == parent


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc0", b"\x91\xc4\x00", b"\x92\xc0\xc0", b"\x92\xa1a\xc0", b"\x93\xc4\x00\xc0\xc0"],
)
def test_a_parent_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Parent.decode(data)
