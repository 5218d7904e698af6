"""A bot asks for its grants while the relays change over to a new policy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sealbus import grants
from sealbus.grants import OLD_POLICY, KnownGrants
from sealbus.outcomes import Refused
from sealbus.protocol.delivery import Message
from sealbus.protocol.reason import Reason
from sealbus.supervision import Supervisor
from tests.waiting import patiently

ANSWER = {
    "policy": "00",
    "relay": "r",
    "publish": ["a"],
    "subscribe": [],
    "subjects": [],
    "limits": {
        "ttl": 1000,
        "live_ttl": 1000,
        "clock_skew": 1000,
        "session": 1000,
        "attempts": 10,
        "subscriptions": 10,
    },
    "complete": True,
}


class Relays:
    """Refuse a number of questions for one reason, and answer the next one."""

    def __init__(self, reason: Reason, refusals: float) -> None:
        self.reason = reason
        self.refusals = refusals
        self.asked = 0

    async def ask(self) -> Message:
        """One question."""
        self.asked += 1
        if self.asked > self.refusals:
            return cast("Message", SimpleNamespace(payload=ANSWER))
        stamp: Any = SimpleNamespace(record=None)
        raise Refused("a", self.reason, detail=None, stamp=stamp)


@pytest.fixture
async def supervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(grants, "OLD_POLICY_PAUSE_S", 0.01)
    supervisor = Supervisor("a test")
    yield supervisor
    await supervisor.close()


@pytest.mark.parametrize("reason", sorted(OLD_POLICY))
async def test_bot_asks_again_where_a_relay_does_not_know_its_key_yet(
    supervisor: Supervisor, reason: Reason
) -> None:
    """A door has admitted it, so another relay has the new policy."""
    relays = Relays(reason, 2)
    known = KnownGrants(relays.ask, supervisor)
    known.renew()
    assert (await patiently(known.get())).publish == ("a",)
    assert relays.asked == 3


async def test_bot_is_told_where_no_relay_knows_its_key(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "OLD_POLICY_S", 0.1)
    known = KnownGrants(Relays(Reason.UNKNOWN_KEY, float("inf")).ask, supervisor)
    began = time.monotonic()
    known.renew()
    with pytest.raises(Refused, match="unknown-key"):
        await patiently(known.get())
    assert time.monotonic() - began >= 0.1


async def test_other_refusals_are_told_at_once(supervisor: Supervisor) -> None:
    relays = Relays(Reason.NOT_GRANTED, 1)
    known = KnownGrants(relays.ask, supervisor)
    known.renew()
    with pytest.raises(Refused, match="not-granted"):
        await patiently(known.get())
    assert relays.asked == 1
