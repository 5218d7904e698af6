"""All 233 encodings of kawanet/msgpack-test-suite through our decoder.

Each is accepted as exact, or refused with a reason.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sealbus.errors import Malformed
from sealbus.protocol.codec import pack_json, unpack_json
from tests.vectors.public import public

SUITE = public("msgpack-test-suite/msgpack-test-suite.json")

JSON_KINDS = ("nil", "bool", "number", "string", "array", "map")

CASES = [
    (f"{group}-{at}-{spelling}", entry, bytes.fromhex(spelling.replace("-", "")))
    for group, entries in SUITE.items()
    for at, entry in enumerate(entries)
    for spelling in entry["msgpack"]
]


def verdict(data: bytes) -> str:
    """*exact*, or the reason of the refusal."""
    try:
        unpack_json(data)
    except Malformed as refused:
        return refused.what
    return "exact"


def json_value(entry: dict[str, Any]) -> tuple[bool, Any]:
    """The entry's value, if JSON has it.

    The file writes integers beyond 2**53 as text.
    """
    for kind in JSON_KINDS:
        if kind in entry:
            return True, entry[kind]
    return False, None


def test_no_encoding_is_missing() -> None:
    assert (sum(len(entries) for entries in SUITE.values()), len(CASES)) == (85, 233)


@pytest.mark.parametrize(
    ("entry", "data"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_accepted_value_encodes_to_the_same_bytes(entry: dict[str, Any], data: bytes) -> None:
    if verdict(data) != "exact":
        return
    known, value = json_value(entry)
    assert known
    assert unpack_json(data) == value
    assert pack_json(unpack_json(data)) == data


@pytest.mark.parametrize("group", SUITE)
def test_at_most_one_encoding_of_a_kind_is_accepted(group: str) -> None:
    for entry in SUITE[group]:
        accepted = [
            data
            for data in map(bytes.fromhex, (s.replace("-", "") for s in entry["msgpack"]))
            if verdict(data) == "exact"
        ]
        kinds = [type(unpack_json(data)) for data in accepted]
        assert len(kinds) == len(
            set(kinds)
        )  # a whole number may be written as an integer or as a 64-bit float


EXPECTED = {
    "exact": 62,
    "not the exact encoding: a duplicate key, a longer form than needed or a 32-bit float": 126,
    "a value of type Timestamp": 19,
    "a value of type ExtType": 11,
    "a value of type bytes": 9,
    "an integer beyond 2**53-1, which JSON cannot carry exactly": 6,
}


def test_counts_by_reason() -> None:
    assert Counter(verdict(data) for _, _, data in CASES) == EXPECTED
