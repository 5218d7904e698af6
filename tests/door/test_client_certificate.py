"""The certificate of a connection: which leaf stands for which name of the policy."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sealbus_broker.door.client_certificate import NEVER_MS, certificate_end_ms

KEY = ec.generate_private_key(ec.SECP256R1())
ENDS = datetime(2026, 12, 1, tzinfo=UTC)
ORDER = "spiffe://acme/order"
HOST = "dns:order.bots.example"


def uri(text: str) -> x509.GeneralName:
    return x509.UniformResourceIdentifier(text)


def dns(text: str) -> x509.GeneralName:
    return x509.DNSName(text)


def leaf(
    *names: x509.GeneralName, extensions: Sequence[x509.ExtensionType] = (), common: str = "x"
) -> str:
    """A certificate, as PEM. Its signature counts for nothing here."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(ENDS - timedelta(days=90))
        .not_valid_after(ENDS)
    )
    if names:
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for one in extensions:
        made = made.add_extension(one, critical=True)
    return made.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def shown(*chain: str, **more: object) -> dict[str, Any]:
    """``client_tls`` of a connection whose chain nats-server has verified."""
    return {"version": "1.3", "verified_chains": [list(chain)], **more}


def usage(**uses: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(names, False) | uses))


AN_AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)


@pytest.mark.parametrize(
    ("names", "certificate"),
    [
        ([ORDER], leaf(uri(ORDER))),
        ([ORDER], leaf(dns("other.example"), uri(ORDER))),
        ([HOST], leaf(dns("order.bots.example"))),
        ([HOST], leaf(dns("a"), dns("order.bots.example"), uri("spiffe://acme/x"))),
        ([HOST], leaf(dns("order.bots.example"), uri("spiffe://acme/x"), uri("spiffe://acme/y"))),
        (["spiffe://acme/other", ORDER], leaf(uri(ORDER))),
        ([HOST, ORDER], leaf(uri(ORDER))),
        ([ORDER], leaf(uri(ORDER), extensions=[usage(digital_signature=True)])),
    ],
)
def test_leaf_with_the_name_is_taken(names: list[str], certificate: str) -> None:
    end = certificate_end_ms(shown(certificate, leaf()), names)
    assert end == int(ENDS.timestamp() * 1000)


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (leaf(), "is for nobody"),
        (leaf(common=ORDER), "is for nobody"),
        (leaf(uri("spiffe://acme/inventory")), "is for spiffe://acme/inventory; the policy binds"),
        (leaf(uri("spiffe://ACME/order")), "is for spiffe://ACME/order"),
        (leaf(uri("spiffe://acme/order/")), "is for"),
        (leaf(uri("spiffe://acme/orde")), "is for"),
        (leaf(uri("spiffe://acme/%6Frder")), "is for"),
        (leaf(dns(ORDER)), "is for dns:spiffe"),
        (leaf(dns("*.bots.example")), "is for dns:*.bots.example"),
        (leaf(dns("Order.bots.example")), "is for"),
        (leaf(dns("order.bots.example.")), "is for"),
        (leaf(uri(HOST)), "is for dns:order.bots.example; the policy binds"),
        (leaf(x509.RFC822Name("order@bots.example")), "is for nobody"),
        (leaf(uri(ORDER), uri("spiffe://acme/inventory")), "has 2 URIs; expected one"),
        (leaf(uri(ORDER), uri(ORDER)), "has 2 URIs; expected one"),
        (leaf(uri(ORDER), extensions=[AN_AUTHORITY]), "is that of an authority"),
        (leaf(uri(ORDER), extensions=[usage(key_cert_sign=True)]), "is that of an authority"),
        ("no certificate", "the certificate of the connection is no certificate"),
        ("", "the certificate of the connection is no certificate"),
    ],
)
def test_leaf_without_the_name_is_refused(certificate: str, why: str) -> None:
    found = certificate_end_ms(shown(certificate), [ORDER, HOST])
    assert isinstance(found, str)
    assert why in found


def test_address_is_no_host_name() -> None:
    address = x509.IPAddress(ipaddress.ip_address("10.1.2.3"))
    assert isinstance(certificate_end_ms(shown(leaf(address)), [HOST]), str)


def test_only_the_leaf_counts() -> None:
    """An intermediate certificate with the name is not the client's."""
    assert isinstance(certificate_end_ms(shown(leaf(), leaf(uri(ORDER))), [ORDER]), str)


@pytest.mark.parametrize(
    ("client_tls", "why"),
    [
        (None, "its connection has no TLS"),
        ({"version": "1.3"}, "shows no certificate that nats-server knows"),
        ({"certs": [leaf(uri(ORDER))]}, "shows no certificate that nats-server knows"),
        ({"verified_chains": []}, "shows no certificate"),
        ({"verified_chains": [[]]}, "shows no certificate"),
        ({"verified_chains": [[7]]}, "shows no certificate"),
        ({"verified_chains": {"0": 1}}, "shows no certificate"),
        ({"verified_chains": None}, "shows no certificate"),
        ([leaf(uri(ORDER))], "shows no certificate"),
        (leaf(uri(ORDER)), "shows no certificate"),
    ],
)
def test_connection_without_a_verified_chain(client_tls: object, why: str) -> None:
    found = certificate_end_ms(client_tls, [ORDER])
    assert isinstance(found, str)
    assert why in found
    assert certificate_end_ms(client_tls, ()) == NEVER_MS


def test_bot_without_binding_may_use_any_certificate() -> None:
    end = int(ENDS.timestamp() * 1000)
    assert certificate_end_ms(shown(leaf(uri("spiffe://acme/x"))), ()) == end
    assert certificate_end_ms(shown("no certificate"), ()) == NEVER_MS


def test_log_has_no_control_characters_and_no_long_names() -> None:
    found = certificate_end_ms(shown(leaf(dns("a\x1b[31m" + "b" * 5000))), [ORDER])
    assert isinstance(found, str)
    assert "\x1b" not in found
    assert len(found) < 500
