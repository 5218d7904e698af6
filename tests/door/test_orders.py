"""The orders to the door's process, as bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import Malformed
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.door.orders import Orders
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.gate.policy import BotKey, BotRule, Invitation, Limits
from tests.scene import a_policy

LOGIN, ISSUER, BUS = (
    SigningKey.generate(kind) for kind in (KeyKind.BOT, KeyKind.ISSUER, KeyKind.BUS)
)
RAW = LOGIN.public.raw
CI = Provider("ci", "https://ci.example", "sealbus:shop", "ES256", "/etc/ca.pem", 60_000)
CLUSTER = Provider("cluster", "https://cluster.example", "sealbus:shop", "RS256")
IDENTITIES = (
    Identity(CI, None, (("admin", True), ("project", "a"), ("runner", 1))),
    Identity(CLUSTER, "order"),
)
BOTS = (
    BotRule(
        "order",
        {
            RAW: BotKey(RAW, 5, 7, None, 6),
            ISSUER.public.raw: BotKey(ISSUER.public.raw, 0, None, 9),
        },
        seals_directly=True,
    ),
    BotRule(
        "inventory",
        {},
        subscribe=("orders.>", "sealbus.*"),
        certificate_names=("dns:a", "x://b"),
        invitations={RAW: Invitation(RAW, 5, 7)},
        identities=IDENTITIES,
    ),
)
LIMITS = Limits(session_ms=12_345, session_key_ms=400_000, clock_skew_ms=7, connections=3)
POLICY = replace(
    a_policy(*BOTS, limits=LIMITS), session_issuers={RAW: BotKey(RAW, 1, None, None, 2)}
)
ORDERS = Orders(("nats://a:1", "tls://b:2"), "relay-1", LOGIN, ISSUER, POLICY, None, LOGIN)


def test_they_are_read_as_they_were_written() -> None:
    line = ORDERS.encode()
    read = Orders.decode(line)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert (read.servers, read.relay) == (ORDERS.servers, ORDERS.relay)
    assert (read.login.seed_text, read.issuer.seed_text) == (LOGIN.seed_text, ISSUER.seed_text)
    assert (read.policy.bots, read.policy.limits) == (POLICY.bots, POLICY.limits)
    assert read.policy.session_issuers == POLICY.session_issuers
    assert read.session_issuer is not None
    assert read.session_issuer.seed_text == LOGIN.seed_text
    assert Orders.decode(replace(ORDERS, session_issuer=None).encode()).session_issuer is None


@pytest.mark.parametrize(
    "tls",
    [None, TlsFiles(Path("/ca")), TlsFiles(Path("/ca"), Path("/cert"), Path("/key"))],
    ids=["none", "authority", "all"],
)
def test_certificates_are_named(tls: TlsFiles | None) -> None:
    assert Orders.decode(replace(ORDERS, tls=tls).encode()).tls == tls


def test_no_seed_shows_when_they_are_printed() -> None:
    assert LOGIN.seed_text not in repr(ORDERS)
    assert ISSUER.seed_text not in repr(ORDERS)


@pytest.mark.parametrize(
    "spoilt", [b"", b"{}", b"[]", b"null", b'{"bots": 1}', ORDERS.encode()[:-40], b"[" * 100_000]
)
def test_bytes_that_are_no_orders_are_refused(spoilt: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        Orders.decode(spoilt)
    assert LOGIN.seed_text not in str(refused.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Orders.decode(data)
