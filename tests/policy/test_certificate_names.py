"""The names of certificates in ``policy.yaml``: read, refused, and noted where two bots share."""

from __future__ import annotations

import pytest

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.bus_file import BusFile, write_bus_file
from sealbus_broker.policy.certificate_names import MAX_NAMES, check_certificate_name
from tests.policy.folder import Folder

BOT = "  order:\n"


def bound(bus: Folder, value: str, bot: str = "order") -> None:
    bus.change(f"  {bot}:\n", f"  {bot}:\n    certificate: {value}\n")


@pytest.mark.parametrize(
    "name",
    [
        "spiffe://acme/order",
        "spiffe://acme.example/ns/shop/sa/order_1.v2-x",
        "spiffe://acme/...",
        "sealbus://shop/order",
        "https://acme.example/Order?x=1#y",
        "dns:order.bots.example",
        "dns:ORDER",
        f"dns:{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}",
        f"x://{'a' * 2044}",
    ],
)
def test_name_is_taken_as_it_is(name: str) -> None:
    assert check_certificate_name(name) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("order", "begins with dns:"),
        ("order.bots.example", "begins with dns:"),
        ("", "no name of a certificate"),
        ("spiffe:acme", "no name of a certificate"),
        ("spiffe://acme/or der", "no name of a certificate"),
        ("spiffe://acme/ördér", "no name of a certificate"),
        ("://acme", "no name of a certificate"),
        ("spiffe://ACME/order", "no SPIFFE ID"),
        ("SPIFFE://acme/order", "no SPIFFE ID"),
        ("spiffe://acme", "no SPIFFE ID"),
        ("spiffe://acme/", "no SPIFFE ID"),
        ("spiffe://acme/a//b", "no SPIFFE ID"),
        ("spiffe://acme/a/", "no SPIFFE ID"),
        ("spiffe://acme/./b", "no SPIFFE ID"),
        ("spiffe://acme/a/..", "no SPIFFE ID"),
        ("spiffe://acme/a?x", "no SPIFFE ID"),
        ("spiffe://acme:8443/a", "no SPIFFE ID"),
        ("spiffe://me@acme/a", "no SPIFFE ID"),
        ("dns:", "no host name"),
        ("dns:*.bots.example", "wildcards are no names"),
        ("dns:a..b", "no host name"),
        ("dns:order.", "no host name"),
        ("dns:10.1.2.3", "an address does not say"),
        ("dns:fd00::1", "an address does not say"),
        (f"dns:{'a' * 64}", "no host name"),
        (f"dns:{'.'.join(['a' * 63] * 4)}", "no host name"),
        (f"x://{'a' * 2045}", "2049 characters"),
    ],
)
def test_other_text_is_no_name(name: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_certificate_name(name)
    assert told in f"{refused.value.what} {refused.value.hint}"


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("spiffe://acme/order", ("spiffe://acme/order",)),
        ("[spiffe://acme/order, dns:a.example]", ("spiffe://acme/order", "dns:a.example")),
        ("[dns:a.example, dns:a.example]", ("dns:a.example",)),
    ],
)
def test_bot_has_its_names(bus: Folder, value: str, names: tuple[str, ...]) -> None:
    bound(bus, value)
    policy = bus.load().policy
    assert policy is not None
    assert policy.bots["order"].certificate_names == names
    assert policy.bots["inventory"].certificate_names == ()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("order", "order is no name of a certificate"),
        ("[]", "has no name, or too many"),
        ("null", "has no name, or too many"),
        ("7", "certificate is not a list"),
        ("[7]", "certificate is not a text"),
        ("true", "certificate is not a list"),
        ("[" + ", ".join(f"dns:a{at}" for at in range(MAX_NAMES + 1)) + "]", "or too many"),
    ],
)
def test_other_value_is_a_problem_of_its_line(bus: Folder, value: str, told: str) -> None:
    bound(bus, value)
    found = bus.load()
    assert found.policy is None
    assert told in str(found.problems[0])
    line = bus.root.joinpath("policy.yaml").read_text().split("certificate:")[0].count("\n") + 1
    assert str(found.problems[0]).startswith(f"policy.yaml:{line}:")


def test_role_has_no_certificate(bus: Folder) -> None:
    bus.change("bots:\n", "roles:\n  any:\n    certificate: dns:a\nbots:\n")
    assert "unknown name certificate" in str(bus.load().problems[0])


def test_two_bots_with_one_certificate_are_noted(bus: Folder) -> None:
    bound(bus, "[dns:a, dns:b]")
    bound(bus, "dns:b", "inventory")
    found = bus.load()
    assert found.policy is not None
    told = [str(one) for one in found.notes if "same certificate" in str(one)]
    assert len(told) == 1
    assert "inventory and order may use the same certificate, dns:b" in told[0]


@pytest.mark.parametrize(("server", "count"), [("nats://a:4222", 1), ("tls://a:4222", 0)])
def test_binding_on_a_bus_without_tls_is_noted(bus: Folder, server: str, count: int) -> None:
    bound(bus, "dns:a")
    key = SigningKey.generate(KeyKind.BUS).public
    write_bus_file(bus.root, BusFile("shop", (server,), (key,)))
    notes = [str(one) for one in bus.load().notes]
    assert len([one for one in notes if "order can connect by TLS alone" in one]) == count
