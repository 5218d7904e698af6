"""Certificates as ``sealbus certs`` makes them: their content, and who accepts them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealbus.errors import InvalidInput
from sealbus.nats.tls_files import TlsFiles
from sealbus_broker.certificates import (
    AUTHORITY_LIFE,
    LIFE,
    MAX_NAMES,
    Pair,
    State,
    covers,
    is_issued_by,
    is_pair,
    make_authority,
    make_bot,
    make_bus,
    read,
)

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
AUTHORITY = make_authority("shop", NOW)
NAMES = ["Bus.Example.com.", "127.0.0.1", "::1"]


def test_authority_signs_and_nothing_else() -> None:
    made = x509.load_pem_x509_certificate(AUTHORITY.certificate)
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert read(AUTHORITY.certificate).ends == NOW + AUTHORITY_LIFE


def test_bus_is_a_server_and_a_client_with_its_names() -> None:
    pair = make_bus(AUTHORITY, "shop", NAMES, NOW)
    facts = read(pair.certificate)
    assert facts.names == ("bus.example.com", "127.0.0.1", "::1")
    assert facts.uris == ("sealbus://shop/sealbus",)
    assert facts.ends == NOW + LIFE
    assert uses(pair) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert is_issued_by(pair.certificate, AUTHORITY.certificate)
    assert not is_issued_by(pair.certificate, make_authority("shop", NOW).certificate)


def test_bot_is_a_client_alone() -> None:
    pair = make_bot(AUTHORITY, "shop", "order", NOW)
    facts = read(pair.certificate)
    assert (facts.subject, facts.names) == ("CN=shop/order", ())
    assert facts.uris == ("sealbus://shop/order",)
    assert uses(pair) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def uses(pair: Pair) -> set[x509.ObjectIdentifier]:
    made = x509.load_pem_x509_certificate(pair.certificate)
    return set(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


@pytest.mark.parametrize(
    ("after", "state"),
    [
        (-timedelta(minutes=6), State.NOT_YET_VALID),
        (-timedelta(minutes=4), State.VALID),
        (timedelta(days=59), State.VALID),
        (timedelta(days=61), State.DUE),
        (timedelta(days=90), State.EXPIRED),
    ],
    ids=str,
)
def test_state_follows_the_clock(after: timedelta, state: State) -> None:
    assert read(make_bot(AUTHORITY, "shop", "order", NOW).certificate).state(NOW + after) is state


def test_no_certificate_outlives_its_authority() -> None:
    late = NOW + AUTHORITY_LIFE - timedelta(days=1)
    assert read(make_bot(AUTHORITY, "shop", "order", late).certificate).ends == NOW + AUTHORITY_LIFE
    with pytest.raises(InvalidInput, match="the authority ended at 2036"):
        make_bot(AUTHORITY, "shop", "order", NOW + AUTHORITY_LIFE)


@pytest.mark.parametrize("name", ["", "a b", "*.example.com", "a" * 64, "ä.example", "a..b", "a/b"])
def test_name_that_is_no_host_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="no host name"):
        make_bus(AUTHORITY, "shop", [name], NOW)


@pytest.mark.parametrize("count", [0, MAX_NAMES + 1])
def test_number_of_names_is_bounded(count: int) -> None:
    with pytest.raises(InvalidInput, match="expected 1 to 64"):
        make_bus(AUTHORITY, "shop", [f"h{one}" for one in range(count)], NOW)


@pytest.mark.parametrize(
    "pair",
    [
        Pair(AUTHORITY.certificate, make_authority("shop", NOW).key),
        Pair(AUTHORITY.certificate, b"hello"),
        Pair(b"hello", AUTHORITY.key),
    ],
    ids=["another key", "no key", "no certificate"],
)
def test_authority_that_cannot_sign_is_refused(pair: Pair) -> None:
    with pytest.raises(InvalidInput):
        make_bot(pair, "shop", "order", NOW)


def test_key_is_that_of_its_certificate_alone() -> None:
    one, other = (make_bot(AUTHORITY, "shop", "order", NOW) for _ in range(2))
    assert is_pair(one.certificate, one.key)
    assert not is_pair(one.certificate, other.key)
    assert not is_pair(one.certificate, b"")
    assert not is_pair(b"", one.key)


def test_covers_compares_names_as_a_client_does() -> None:
    facts = read(make_bus(AUTHORITY, "shop", NAMES, NOW).certificate)
    assert all(covers(facts, host) for host in ("BUS.example.com", "127.0.0.1", "0:0:0:0:0:0:0:1"))
    assert not any(
        covers(facts, host) for host in ("example.com", "127.0.0.2", "x.bus.example.com")
    )


def test_repr_of_a_pair_shows_no_key() -> None:
    assert "PRIVATE" not in repr(AUTHORITY)


@pytest.mark.parametrize(("name", "works"), [("bus.example.com", True), ("other", False)])
def test_strict_verification_accepts_both_sides(tmp_path: Path, name: str, works: bool) -> None:
    """Python 3.13 verifies so by default, and TlsFiles does on each Python."""
    now = datetime.now(UTC)
    authority = make_authority("shop", now)
    files = {
        "ca.pem": authority.certificate,
        **{
            f"{who}.{kind}": content
            for who, pair in (
                ("bus", make_bus(authority, "shop", NAMES, now)),
                ("bot", make_bot(authority, "shop", "order", now)),
            )
            for kind, content in (("pem", pair.certificate), ("key", pair.key))
        },
    }
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
        (tmp_path / file).chmod(0o600)
    client = TlsFiles(tmp_path / "ca.pem", tmp_path / "bot.pem", tmp_path / "bot.key").context()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    server.load_cert_chain(tmp_path / "bus.pem", tmp_path / "bus.key")
    server.load_verify_locations(tmp_path / "ca.pem")
    if not works:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake_hands(client, server, name)
        return
    assert shake_hands(client, server, name) == (("URI", "sealbus://shop/order"),)


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> object:
    """Do a whole handshake in memory. Return the names that the server sees in the client's
    certificate."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=host)
    theirs = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = theirs.getpeercert()
    assert shown is not None
    return shown["subjectAltName"]
