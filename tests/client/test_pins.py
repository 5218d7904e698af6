"""Pinned senders: a subscriber's protection when the bus key is in the wrong hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealbus import Bot, Credentials, InvalidInput, Message
from sealbus.errors import CredentialsError
from sealbus.pins import MAX_PINS, MAX_SENDERS, read_pins
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Header
from sealbus.protocol.keys import KeyKind, Signer, SigningKey
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import sign_link
from sealbus.receiving.verifier import DeliveryVerifier
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.gate.world import (
    BUS_KEYS,
    KEYS,
    NOW,
    PLACED,
    SESSION_KEY,
    by_session,
    certificate,
    envelope,
    flip,
    sealed_stamp,
)
from tests.waiting import patiently, until

PINS = {name: frozenset([KEYS[name].public.raw]) for name in ("courier", "order")}
COURIER = replace(PLACED, bot="courier")


def opened(
    data: bytes,
    header: Header = COURIER,
    *,
    demanding: bool = False,
    pinned: bool = True,
    links: bytes = b"",
) -> list[str]:
    """Whom a subscriber believes to be the sender of ``data``, which the bus key has stamped."""
    credentials = Credentials(
        "shop",
        "inventory",
        KEYS["inventory"],
        ("nats://127.0.0.1",),
        BUS_KEYS,
        PINS if pinned else {},
    )
    opener = DeliveryVerifier(credentials, Verifier())
    strict = opener.demanding() if demanding else opener
    delivery = pack_delivery(data, sealed_stamp(data, header), links)
    found = [one.bot for one in strict.open(b"bus.orders.placed", delivery, "bus")]
    assert sum(opener.refused.values()) == (not found)
    return found


HONEST = {
    "by a session key": (by_session(), COURIER),
    "by the pinned key itself": (envelope(), PLACED),
    "at the end of its session key": (
        by_session(certificate(not_before_ms=NOW - SESSION_KEY)),
        COURIER,
    ),
    "by a clock that was set back": (
        by_session(certificate(not_before_ms=NOW + CERTIFICATE_AHEAD_MS)),
        COURIER,
    ),
}


@pytest.mark.parametrize("demanding", [False, True])
@pytest.mark.parametrize(("data", "header"), HONEST.values(), ids=HONEST.keys())
def test_pinned_sender_is_believed(data: bytes, header: Header, *, demanding: bool) -> None:
    assert opened(data, header, demanding=demanding) == [header.bot]


FORGED = {
    "a session key of nobody": by_session(
        certificate("thief-session", "thief-session"), session="thief-session"
    ),
    "another bot's certificate": by_session(certificate("rival")),
    "a key of the courier that is not pinned": by_session(certificate("courier-leaked")),
    "the courier's certificate over another key": by_session(session="thief-session"),
    "a certificate for another bot": by_session(certificate(bot="order")),
    "a certificate for another bus": by_session(certificate(bus="shop-test")),
    "a seal that does not hold": flip(by_session(), -40),
    "a key of nobody, directly": envelope(bot="courier", key=KEYS["stranger"]),
    "a session key that had ended": by_session(certificate(not_before_ms=NOW - SESSION_KEY - 1)),
    "a session key of later": by_session(certificate(not_before_ms=NOW + CERTIFICATE_AHEAD_MS + 1)),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED.keys())
def test_stolen_bus_key_makes_nobody_a_pinned_sender(data: bytes) -> None:
    """Without the pins the stamp is enough: each of these is believed."""
    assert opened(data) == []
    assert opened(data, demanding=True) == []
    assert opened(data, pinned=False) == ["courier"]


def link(signer: str = "courier", new: str = "courier-leaked", **changes: Any) -> bytes:
    """A link from the pinned key of the courier to another one."""
    facts: dict[str, Any] = {"bus": "shop", "bot": "courier", "at_ms": NOW} | changes
    return sign_link(KEYS[signer], KEYS[new].public.raw, **facts)


NEXT = by_session(certificate("courier-leaked"))
"""A message under another key than the pinned one."""


@pytest.mark.parametrize("demanding", [False, True])
def test_pin_follows_a_link_of_its_key(*, demanding: bool) -> None:
    assert opened(NEXT, demanding=demanding) == []
    assert opened(NEXT, demanding=demanding, links=link()) == ["courier"]


def test_stolen_bus_key_makes_no_link(caplog: pytest.LogCaptureFixture) -> None:
    """Each of these is refused with the cause and the remedy, and believed without the pins."""
    old = KEYS["courier"].public.raw
    forged = {
        "by a stranger": old + link("stranger")[len(old) :],
        "by the new key": old + link("courier-leaked")[len(old) :],
        "of another bot": link(bot="order"),
        "of another bus": link(bus="bazaar"),
        "with a changed time": flip(link(), -1),
    }
    for name, links in forged.items():
        caplog.clear()
        assert opened(NEXT, links=links) == [], name
        assert "a link that its old key has not signed; did the sender get another" in caplog.text
        assert "`sealbus keys pins BOT` prints the keys" in caplog.text
        assert opened(NEXT, links=links, pinned=False) == ["courier"]


def test_link_never_leads_to_a_bot_that_is_not_pinned() -> None:
    data, header = envelope(bot="rival"), replace(PLACED, bot="rival")
    links = link(new="rival", bot="rival")
    assert opened(data, header, demanding=True, links=links) == []


def test_sender_without_pins_is_believed_unless_pins_are_needed() -> None:
    data, header = envelope(bot="rival"), replace(PLACED, bot="rival")
    assert opened(data, header) == ["rival"]
    assert opened(data, header, demanding=True) == []


# ---- on a bus ------------------------------------------------------------------------------------


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[TestBus]:
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


def pinning(bus: TestBus, name: str, *keys: Signer) -> Bot:
    """A bot that pins ``keys`` as those of the greeter."""
    pins = {"greeter": frozenset(key.public.raw for key in keys)}
    return Bot(replace(bus.credentials(name), senders=pins))


@pytest.mark.parametrize("live", [False, True])
async def test_handler_gets_messages_of_its_pinned_sender(bus: TestBus, *, live: bool) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = pinning(bus, "listener", bus.credentials("greeter").key)

    @listener.subscribe("greetings.sent", verify="sender", live=live)
    async def greet(message: Message) -> None:
        await heard.put(message.payload["text"])

    await bus.connect(listener)
    greeter = await bus.bot("greeter")
    await greeter.publish("greetings.sent", {"text": "hello"})
    assert await patiently(heard.get()) == "hello"
    assert listener.refused_deliveries == {}


async def test_handler_gets_nothing_of_a_sender_under_another_key(bus: TestBus) -> None:
    stranger = SigningKey.generate(KeyKind.BOT)
    listener = pinning(bus, "listener", stranger)
    await bus.connect(listener)
    greeter = await bus.bot("greeter")
    async with listener.messages("greetings.sent", live=True) as messages:
        await greeter.publish("greetings.sent", {"text": "hello"})
        await until(lambda: bool(listener.refused_deliveries), "it is refused")
        assert listener.refused_deliveries == {"pinned sender: another key than the pinned ones": 1}
        del messages


async def test_verify_needs_pins(bus: TestBus) -> None:
    listener = await bus.bot("listener")
    register = listener.subscribe("greetings.sent", verify="sender")
    with pytest.raises(InvalidInput, match="the credentials name none") as refused:
        register(_ignore)
    assert refused.value.hint is not None
    assert "[senders]" in refused.value.hint
    loop = listener.messages("greetings.sent", verify="sender")
    with pytest.raises(InvalidInput, match="the credentials name none"):
        await loop.__aenter__()


async def _ignore(_: Message) -> None: ...


@pytest.mark.parametrize("verify", ["senders", "", None, True])
async def test_other_word_for_verify_is_refused(bus: TestBus, verify: str) -> None:
    listener = await bus.bot("listener")
    with pytest.raises(InvalidInput, match="verify="):
        listener.subscribe("greetings.sent", verify=verify)


# ---- in the credentials --------------------------------------------------------------------------

KEY = KEYS["order"].public.text


def test_pins_are_written_and_read(tmp_path: Path) -> None:
    written = Credentials(
        "shop", "inventory", KEYS["inventory"], ("nats://127.0.0.1:4222",), BUS_KEYS, PINS
    )
    written.write(tmp_path / "inventory.toml")
    assert Credentials.load(tmp_path / "inventory.toml").senders == PINS


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([], "senders must be a table"),
        ("order", "senders must be a table"),
        ({f"b{number}": [KEY] for number in range(MAX_SENDERS + 1)}, "at most 1024 bots"),
        ({"Order": [KEY]}, "senders has an invalid name of a bot"),
        ({"sealbus": [KEY]}, "senders has sealbus, which is the name of the relays"),
        ({"order": KEY}, "senders.order must be a list"),
        ({"order": []}, "list of 1 to 16"),
        ({"order": [KEY] * (MAX_PINS + 1)}, "list of 1 to 16"),
        ({"order": [1]}, "public key"),
        ({"order": [KEYS["order"].seed_text]}, "expected, got a seed"),
        ({"order": [KEY[:-1]]}, "public key"),
    ],
)
def test_wrong_pins_are_refused_by_name(value: object, what: str) -> None:
    with pytest.raises(InvalidInput, match=what) as refused:
        read_pins(value)
    assert KEYS["order"].seed_text not in f"{refused.value} {refused.value.hint}"


def test_wrong_pins_in_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "inventory.toml"
    Credentials("shop", "inventory", KEYS["inventory"], ("nats://127.0.0.1:4222",), BUS_KEYS).write(
        path
    )
    path.write_text(path.read_text() + "[senders]\norder = []\n")
    with pytest.raises(CredentialsError, match=r"inventory\.toml: senders\.order must be a list"):
        Credentials.load(path)
