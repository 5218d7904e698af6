"""The vectors of pinned senders, against this implementation."""

from __future__ import annotations

from typing import Any

import pytest

from sealbus.errors import Malformed
from sealbus.pins import check_sender
from sealbus.protocol.delivery import open_delivery, pack_delivery, split_linked
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import SenderLink, sign_link
from tests.vectors.files import HEX, bus_keys, by, load

PINS = load("pins.json")
RULES = {
    "shape": ("sender links of ", "field 2 ", "expected an array of 2"),
    "key": ("pinned sender: another key than the pinned ones",),
    "certificate": ("pinned sender: the certificate is not for this session key",),
    "time": ("pinned sender: issued outside the time of its session key",),
    "seal": ("pinned sender: the seal does not hold",),
    "link": ("pinned sender: a link that its old key has not signed",),
}


def raw(text: str) -> bytes:
    return PublicKey.parse(text, KeyKind.BOT).raw


def take(vector: dict[str, Any]) -> None:
    """Believe a delivery as a subscriber does that pins its sender. Raises :class:`Malformed`."""
    pins = frozenset(map(raw, vector["pinned"]))
    verifier = Verifier()
    for _ in range(2):  # the second time the verifier remembers what held
        messages = open_delivery(
            HEX(vector["delivery"]),
            PINS["subject"],
            bus=PINS["bus"],
            bus_keys=bus_keys(PINS),
            verifier=verifier,
        )
        check_sender(messages[0].envelope, pins, verifier, messages[0].links)


@pytest.mark.parametrize("vector", PINS["links"])
def test_a_sender_link_is_signed_again_bit_by_bit(vector: dict[str, Any]) -> None:
    key, new = SigningKey(HEX(vector["seed"]), KeyKind.BOT), raw(vector["new"])
    names = {"bus": vector["bus"], "bot": vector["bot"]}
    made = sign_link(key, new, **names, at_ms=vector["at_ms"])
    assert made.hex() == vector["link"]
    link = SenderLink.decode(made)
    assert (link.old, link.at_ms) == (key.public.raw, vector["at_ms"])
    assert link.holds(Verifier(), **names, new=new)


@pytest.mark.parametrize("vector", PINS["valid"], ids=by("name"))
def test_a_pinned_sender_is_believed(vector: dict[str, Any]) -> None:
    take(vector)
    data = HEX(vector["delivery"])
    assert pack_delivery(*split_linked(data)) == data


@pytest.mark.parametrize("vector", PINS["invalid"], ids=by("name"))
def test_a_stranger_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        take(vector)
    assert refused.value.what.startswith(RULES[vector["refused"]])
