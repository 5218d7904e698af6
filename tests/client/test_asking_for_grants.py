"""A bot asks for its grants while relays have an old policy, are slow, or object to its clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sealbus import asking
from sealbus.asking import OLD_POLICY, WRONG_CLOCK_S
from sealbus.grants import KnownGrants
from sealbus.outcomes import Refused
from sealbus.protocol.delivery import Message
from sealbus.protocol.reason import OLDER_THAN_LEDGER, Reason
from sealbus.supervision import Supervisor
from tests.jumping import run
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

    def __init__(
        self,
        reason: Reason,
        refusals: float,
        *,
        clock: str | None = None,
        detail: str | None = None,
    ) -> None:
        """``clock``: how far the client's clock is off, as the stamps show."""
        self.reason = reason
        self.refusals = refusals
        self.clock = clock
        self.detail = detail
        self.asked = 0

    async def ask(self) -> Message:
        """One question."""
        self.asked += 1
        if self.asked > self.refusals:
            return cast("Message", SimpleNamespace(payload=ANSWER))
        stamp: Any = SimpleNamespace(record=None)
        raise Refused("a", self.reason, detail=self.detail, stamp=stamp, clock=self.clock)


@pytest.fixture
async def supervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(asking, "PAUSE_S", 0.01)
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
    monkeypatch.setattr(asking, "OLD_POLICY_S", 0.1)
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


BEHIND = "this machine's clock is 60 s behind the bus's"


def told_by(relays: Relays) -> None:
    """Ask ``relays`` until they tell the grants, in a time that jumps. Raises their refusal."""

    async def ask() -> None:
        known = KnownGrants(relays.ask, Supervisor("a test"))
        known.renew()
        assert (await known.get()).publish == ("a",)
        assert known.refused is None

    run(ask())


@pytest.mark.parametrize(
    ("reason", "clock"),
    [
        (Reason.STALE, None),
        (Reason.EXPIRED, None),
        # The relay's clock alone measures how long a question waits.
        (Reason.STALE, BEHIND),
    ],
)
def test_question_that_came_late_is_asked_again(reason: Reason, clock: str | None) -> None:
    """As on a bus with a node that is paused: another question may be quicker."""
    relays = Relays(reason, 100, clock=clock, detail="waited 2500 ms; at most 2000")
    told_by(relays)
    assert relays.asked == 101


WRONG = [
    (Reason.STALE, OLDER_THAN_LEDGER, BEHIND),
    (Reason.EXPIRED, None, BEHIND),
    (Reason.ISSUED_IN_FUTURE, None, "this machine's clock is 60 s ahead of the bus's"),
    (Reason.ISSUED_IN_FUTURE, None, None),  # by less than a second, and by more than the policy's
]


@pytest.mark.parametrize(("reason", "detail", "clock"), WRONG)
def test_clock_that_is_set_right_soon_ends_no_bot(
    reason: Reason, detail: str | None, clock: str | None
) -> None:
    relays = Relays(reason, WRONG_CLOCK_S / asking.PAUSE_S, clock=clock, detail=detail)
    told_by(relays)


@pytest.mark.parametrize(("reason", "detail", "clock"), WRONG)
def test_bot_is_told_where_its_clock_stays_wrong(
    reason: Reason, detail: str | None, clock: str | None
) -> None:
    relays = Relays(reason, float("inf"), clock=clock, detail=detail)
    with pytest.raises(Refused, match=clock or reason.meaning):
        told_by(relays)
    assert relays.asked > WRONG_CLOCK_S / asking.PAUSE_S
