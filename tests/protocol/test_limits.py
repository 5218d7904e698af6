"""The limits agree: no later limit refuses an honest message that an earlier limit allows."""

from __future__ import annotations

import ast
import inspect

import pytest

from sealbus.protocol import limits
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.envelope import Parent
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import HASH_BYTES

LARGEST_SEAL = 98 + HASH_BYTES * limits.MAX_PROOF_STEPS

NAMES = [name for name in vars(limits) if name.isupper()]


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_says_where_it_comes_from(name: str) -> None:
    body = ast.parse(inspect.getsource(limits)).body
    at = next(
        at
        for at, node in enumerate(body)
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name
    )
    comment = body[at + 1]
    assert isinstance(comment, ast.Expr)
    assert isinstance(comment.value, ast.Constant)


def test_the_largest_parts_fit_into_the_largest_whole() -> None:
    framing = 16
    rest = limits.MAX_HEADER_BYTES + limits.MAX_PARENT_BYTES + LARGEST_SEAL + 3 * framing
    assert rest + limits.SALT_BYTES < limits.MAX_ENVELOPE_BYTES
    assert limits.MAX_BARE_PARENT_BYTES <= limits.MAX_PARENT_BYTES
    links = limits.MAX_SENDER_LINKS * limits.SENDER_LINK_BYTES
    assert limits.MAX_SHOWN_BYTES + limits.MAX_STAMP_BYTES + links + framing < 1024 * 1024
    assert limits.MAX_PAYLOADS * limits.SALT_BYTES < limits.MAX_ENVELOPE_BYTES
    assert limits.MAX_PAYLOADS < 2**16
    assert 2 * limits.MAX_DETAIL_BYTES <= limits.MAX_LISTED_DETAIL_BYTES
    assert 2**limits.MAX_PROOF_STEPS == limits.MAX_BATCH
    assert (
        len("reply.") + limits.MAX_NAME_CHARS + 1 + 2 * limits.NONCE_BYTES
        <= limits.MAX_SUBJECT_BYTES
    )


def test_the_largest_bare_parent_has_the_largest_stamp() -> None:
    parent = Parent(bytes(limits.MAX_STAMP_BYTES), limits.MAX_PAYLOADS - 1).encode()
    assert limits.MAX_STAMP_BYTES < len(parent) <= limits.MAX_BARE_PARENT_BYTES


def test_withheld_payload_is_17_bytes_longer_than_an_empty_one() -> None:
    hidden, empty = (
        len(pack_fields([part])) for part in ([bytes(HASH_BYTES)], bytes(limits.SALT_BYTES))
    )
    assert hidden - empty == 17
    most = limits.MAX_ENVELOPE_BYTES + limits.MAX_PAYLOADS * (hidden - empty)
    assert most == limits.MAX_SHOWN_BYTES


def test_times_stay_exact_in_every_language() -> None:
    assert limits.MAX_TIME_MS + limits.MAX_TTL_MS < 2**63
    assert limits.MAX_TIME_MS == limits.MAX_INTEGER == 2**53 - 1


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_name_in_small_letters_and_a_sentence(reason: Reason) -> None:
    assert (
        reason.value
        == reason.value.lower().replace("_", "-")
        == reason.name.lower().replace("_", "-")
    )
    assert len(reason.meaning) > 20
