"""The identity of the sender.

The keys are those of other bots, or not valid now. The names do not fit the key.
"""

from __future__ import annotations

from sealbus.protocol.reason import Reason
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.scenarios import BREAKS
from tests.gate.world import (
    HOUR,
    KEYS,
    NOW,
    SKEW,
    envelope,
)

FAMILY = Family("identity")
attack = FAMILY.attack


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_key_of_nobody() -> Step:
    """A key that no policy knows, under the name of the order bot."""
    return Step(envelope(key=KEYS["stranger"]))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def another_bots_key() -> Step:
    """A bot of this bus, in the order bot's session, with its own valid key."""
    return Step(envelope(key=KEYS["rival"]))


@attack(
    "check_key_known",
    Reason.UNKNOWN_KEY,
    without=BREAKS,
    alone="NATS gives no such session: see admission",
)
def a_session_of_nobody() -> Step:
    """A session under a name that the policy does not know."""
    return Step(envelope(), session="ghost")


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_captured_envelope_in_another_session() -> Step:
    """The order bot's own envelope, sent by a rival in the rival's session."""
    return Step(envelope(), session="rival")


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def a_key_of_yesterday() -> Step:
    """A key that has expired."""
    return Step(envelope(key=KEYS["order-old"]))


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def a_key_of_tomorrow() -> Step:
    """A key that is not valid yet."""
    return Step(envelope(key=KEYS["order-next"]))


@attack("check_key_valid", Reason.KEY_NOT_VALID, alone="a running bus has no such millisecond")
def a_key_a_millisecond_too_early() -> Step:
    """A key whose time begins a millisecond after the arrival."""
    data = envelope(key=KEYS["order-next"], issued_at_ms=NOW + HOUR - 1)
    return Step(data, arrived_at_ms=NOW + HOUR - 1, now_ms=NOW + HOUR - 1)


@attack("check_key_valid", Reason.KEY_NOT_VALID, alone="a running bus has no such millisecond")
def a_key_a_millisecond_too_late() -> Step:
    """A key whose time ended a millisecond before the arrival."""
    data = envelope(key=KEYS["order-old"], issued_at_ms=NOW - HOUR + 1)
    return Step(data, arrived_at_ms=NOW - HOUR + 1, now_ms=NOW - HOUR + 1)


@attack("check_key_revoked", Reason.KEY_REVOKED, alone="a running bus has no such millisecond")
def a_key_at_the_moment_of_its_revocation() -> Step:
    """The relay's clock is behind the operator's by the most, who revokes the key in that very
    millisecond."""
    at_ms = NOW - 1 - SKEW
    data = envelope(key=KEYS["order-leaked"], issued_at_ms=at_ms)
    return Step(data, arrived_at_ms=at_ms, now_ms=at_ms)


@attack("check_key_revoked", Reason.KEY_REVOKED)
def a_revoked_key() -> Step:
    """A key that leaked and was revoked a millisecond ago."""
    return Step(envelope(key=KEYS["order-leaked"]))


@attack("check_bot", Reason.WRONG_BOT)
def another_name_inside() -> Step:
    """The order bot seals a message under the inventory bot's name, in its own session."""
    return Step(envelope(bot="inventory", key=KEYS["order"]))
