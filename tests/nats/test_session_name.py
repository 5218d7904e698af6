"""The names of sessions that nats-server lists. A client may have sent any bytes as its name."""

from __future__ import annotations

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.session_name import Certified, SessionName, read_session_name
from sealbus_broker.policy.succession import NOTHING, strangers

KEY, SESSION = (SigningKey(bytes([one]) * 32, KeyKind.BOT).public.text for one in (1, 2))
WRONG = f"U{'A' * 55}"
NOBODY = SessionName("", "", None)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (f"order {KEY}", SessionName("order", KEY, None)),
        (f"order {KEY} {SESSION} 17 60", SessionName("order", KEY, Certified(SESSION, 17, 60))),
        ("order", SessionName("order", "", None)),
        ("order errand", SessionName("order", "", None)),
    ],
)
def test_a_name_that_the_door_admits_is_taken_apart(name: str, wanted: SessionName) -> None:
    assert read_session_name(name) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a.b",
        "x.notice\t0\r\n\r\nPUB\tpwned\t5\r\nhello\r\nPUB\tx",
        f"order\r\nPUB {KEY}",
        f"order\t {KEY}",
        f"> {KEY}",
        f"order {WRONG}",
        f"order {KEY} {WRONG} 17 60",
    ],
)
def test_a_name_in_another_form_is_nobody_s(name: str) -> None:
    told = read_session_name(name)
    assert told == NOBODY
    policy = Policy("shop", bytes(32), frozenset(), {}, ())
    assert strangers(policy, [(told.bot, told.key)], 1_000_000) == NOTHING
