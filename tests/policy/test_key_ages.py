"""The notes of ``sealbus check`` about keys that have to be replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sealbus.protocol.keyring import Link, seal_link
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.gate.policy import BotKey, BotRule, Invitation, Limits, Policy
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.policy.key_ages import OVER_MS, SOON_MS, due_bus_keys, due_keys

NOW = 1_800_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
KEY = BotKey(bytes([1]) * 32, NOW - 100 * DAY)
OTHER = BotKey(bytes([2]) * 32, NOW)


End = Callable[[int], BotKey]


def expires(at_ms: int) -> BotKey:
    """The key, with a time after which it is not valid."""
    return replace(KEY, not_after_ms=at_ms)


def is_revoked(at_ms: int) -> BotKey:
    """The key, with a time at which it is revoked."""
    return replace(KEY, revoked_ms=at_ms)


def notes(*keys: BotKey, **limits: int) -> list[str]:
    """The notes about the bot ``order``."""
    bot = BotRule("order", {key.raw: key for key in keys})
    policy = Policy("shop", bytes(32), frozenset(), {"order": bot}, (), limits=Limits(**limits))
    found = due_keys(policy, NOW)
    assert {one.file for one in found} <= {"keys/order.yaml"}
    assert {one.hint for one in found} <= {"sealbus keys rotate order"}
    return [one.what for one in found]


@pytest.mark.parametrize("end", [expires, is_revoked])
@pytest.mark.parametrize(
    ("left_ms", "what"),
    [
        (SOON_MS, "order has no valid key after 2027-01-29T08:00:00Z, in 14 days"),
        (2 * DAY, "order has no valid key after 2027-01-17T08:00:00Z, in 2 days"),
        (2 * DAY - 1, "order has no valid key after 2027-01-17T07:59:59Z, in 47 hours"),
        (1, "order has no valid key after 2027-01-15T08:00:00Z, in 0 hours"),
        (0, "no key of order is valid any more: the last one ended at 2027-01-15T08:00:00Z"),
        (-DAY, "no key of order is valid any more: the last one ended at 2027-01-14T08:00:00Z"),
    ],
)
def test_end_of_the_last_key_is_noted(end: End, left_ms: int, what: str) -> None:
    assert notes(end(NOW + left_ms)) == [what]


def test_end_that_is_far_away_is_not_noted() -> None:
    assert notes(replace(KEY, not_after_ms=NOW + SOON_MS + 1)) == []


def test_key_without_end_is_not_noted() -> None:
    assert notes(KEY) == []


def test_another_key_is_enough() -> None:
    assert notes(replace(KEY, not_after_ms=NOW + 1), OTHER) == []


def test_bot_without_keys_is_not_noted_here() -> None:
    """The loader has a note for it."""
    assert notes() == []


@pytest.mark.parametrize(("age_ms", "is_old"), [(100 * DAY, False), (100 * DAY - 1, True)])
def test_key_older_than_key_age_is_noted(age_ms: int, is_old: bool) -> None:
    assert notes(KEY, OTHER, key_age_ms=age_ms) == ["a key of order is 100 days old"] * is_old


def test_old_key_that_opens_nothing_is_not_noted() -> None:
    assert notes(replace(KEY, revoked_ms=NOW - 1), OTHER, key_age_ms=DAY) == []


def test_invitation_that_is_long_over_is_noted() -> None:
    raw = KEY.raw
    for left_ms, count in ((HOUR, 0), (0, 0), (-OVER_MS, 0), (-OVER_MS - 1, 1)):
        ends = NOW + left_ms
        bot = BotRule("order", {}, invitations={raw: Invitation(raw, ends - HOUR, ends)})
        found = due_keys(Policy("shop", bytes(32), frozenset(), {"order": bot}, ()), NOW)
        assert len(found) == count
        assert {one.hint for one in found} <= {"sealbus invites rm order"}


FIRST, NEXT = (SigningKey.generate(KeyKind.BUS) for _ in range(2))


def a_bus(made_ms: int | None, from_ms: int | None = None) -> BusFile:
    """A bus whose first key was made at ``made_ms``, and whose next one begins at ``from_ms``."""
    bus = BusFile("shop", ("nats://a",), (FIRST.public, NEXT.public), made_ms=made_ms)
    if from_ms is None:
        return bus
    link = Link("shop", 1, FIRST.public.raw, NEXT.public.raw, from_ms, from_ms + DAY)
    return replace(bus, links=(seal_link(FIRST, link),))


@pytest.mark.parametrize(
    ("bus", "old"),
    [
        (a_bus(NOW - 10 * DAY), None),
        (a_bus(NOW - 10 * DAY - 1), FIRST),
        (a_bus(None), None),
        (a_bus(NOW - 20 * DAY, NOW - 10 * DAY), None),
        (a_bus(NOW - 20 * DAY, NOW - 10 * DAY - 1), NEXT),
        (a_bus(None, NOW - 11 * DAY), NEXT),
        # The next key is not in use yet.
        (a_bus(NOW - 11 * DAY, NOW + 1), FIRST),
        (a_bus(None, NOW + 1), None),
    ],
)
def test_bus_key_that_is_too_old_is_noted(bus: BusFile, old: SigningKey | None) -> None:
    found = due_bus_keys(bus, Limits(key_age_ms=10 * DAY), NOW)
    assert [one.got for one in found] == ([] if old is None else [old.public.text])
    for one in found:
        assert one.file == "bus.toml"
        assert one.expected == "at most 10 days (limits.key_age)"
        assert one.hint == "sealbus keys rotate-bus"


def test_bus_key_may_be_of_any_age_without_a_limit() -> None:
    assert due_bus_keys(a_bus(0), Limits(key_age_ms=None), NOW) == []
