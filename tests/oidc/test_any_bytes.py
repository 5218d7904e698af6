"""Readers of bytes from elsewhere take them or refuse them, and do nothing else."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus import CredentialsError
from sealbus.errors import Malformed
from sealbus.fetching import FetchFailed, _parse
from sealbus.protocol.exchange import ExchangeRecord
from sealbus.tokens import check_token
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.oidc.json_object import read_object
from sealbus_broker.oidc.keys import read_keys
from sealbus_broker.oidc.token import Token
from sealbus_broker.oidc.verifying import fits, objection
from tests.oidc.issuer import encode

pytestmark = pytest.mark.slow

PROVIDER = Provider("idp", "https://idp.example", "sealbus:shop", "RS256")
PARTS = st.text('ABCabc019_-=+/.{}" é', max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=10,
)
CLAIMS = st.dictionaries(st.sampled_from(["iss", "aud", "sub", "iat", "exp", "nbf", "x"]), JSON)
KEYS = st.dictionaries(
    st.sampled_from(["kty", "kid", "use", "alg", "key_ops", "n", "e", "d"]), JSON
)


@given(st.lists(PARTS, max_size=4).map(".".join))
def test_any_text_is_a_token_or_none(text: str) -> None:
    with contextlib.suppress(Malformed):
        Token.decode(text)
    with contextlib.suppress(CredentialsError):
        check_token(text, "it")


@given(JSON)
def test_any_header_is_read_or_refused(header: object) -> None:
    with contextlib.suppress(Malformed):
        Token.decode(f"{encode(json.dumps(header).encode())}.e30.eA")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        read_object(data, "it")
    with contextlib.suppress(Malformed):
        read_keys(data, "RS256")
    with contextlib.suppress(Malformed):
        ExchangeRecord.decode(data)
    with contextlib.suppress(FetchFailed):
        _parse(b"HTTP/1.1 200 OK\r\n" + data, 100, "https://idp.example")


@given(st.lists(KEYS, max_size=3))
def test_any_keys_are_read_or_refused(keys: object) -> None:
    with contextlib.suppress(Malformed):
        read_keys(json.dumps({"keys": keys}).encode(), "RS256")


@given(CLAIMS, st.integers(0, 2**53))
def test_any_claims_are_judged(claims: dict[str, object], now_ms: int) -> None:
    if objection(claims, PROVIDER, now_ms, 0) is None:
        assert isinstance(claims["sub"], str)
        fits(Identity(PROVIDER, "order", (("x", 1),)), claims)


@given(st.text(max_size=5) | st.integers() | st.booleans(), JSON)
def test_claim_fits_its_own_value_alone(wanted: str | int | bool, found: object) -> None:
    identity = Identity(PROVIDER, None, (("x", wanted),))
    same = type(found) is type(wanted) and found == wanted
    assert fits(identity, {"sub": "order", "x": found}) is same
