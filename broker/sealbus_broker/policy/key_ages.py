"""Notes about keys that an operator has to replace.

A bot whose last key ends is refused from one moment to the next. So it is noted beforehand, for as
long as a rotation may take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import RELAY
from sealbus_broker.gate.policy import BotKey, BotRule, Limits, Policy
from sealbus_broker.policy.bus_file import FILE, BusFile
from sealbus_broker.policy.keys import FOLDER
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import time_text

SOON_MS: Final = 14 * 86_400_000
"""How long before the end of a bot's last key that end is noted. A bot may be rolled out once in
two weeks."""

ISSUER_REMEDY: Final = "sealbus keys issuer --new"

_DAY_MS: Final = 86_400_000

OVER_MS: Final = 26 * 3_600_000
"""How long after its end an invitation is noted. Until then an operator may still accept a key that
came in time, because the stream RECORDS keeps its record for this time."""


def due_keys(policy: Policy, now_ms: int) -> list[Problem]:
    """Return a note for each bot without a valid key, or soon without one, for each key that is
    older than ``limits.key_age``, for each whose session keys do not count yet, and for each
    invitation by which no key can come any more.

    Args:
        policy: The policy, with the keys of all bots.
        now_ms: The time (ms since 1970).
    """
    found = []
    for bot in policy.bots.values():
        found += _over(bot, now_ms)
    for name in (*policy.bots, RELAY):
        keys = [key for _, key in policy.own_keys(name)]
        if keys:
            owner = _Owner(name, keys)
            found += _ends(owner, now_ms)
            found += _void(owner, now_ms)
            found += _old(owner, policy.limits.key_age_ms, now_ms)
    return found


def due_bus_keys(bus: BusFile, limits: Limits, now_ms: int) -> list[Problem]:
    """Return a note if the bus key that is in use is older than ``limits.key_age``.

    Args:
        bus: The identity of the bus. Without a time of its first key, nothing is known of that.
        limits: Those of the policy.
        now_ms: The time (ms since 1970).
    """
    begins = [(link.from_ms, link.new) for link in bus.chain if link.from_ms <= now_ms]
    if not begins and bus.made_ms is not None:
        begins = [(bus.made_ms, bus.chain[0].old if bus.chain else bus.bus_keys[0].raw)]
    if not begins or limits.key_age_ms is None:
        return []
    begin, raw = max(begins)
    if now_ms - begin <= limits.key_age_ms:
        return []
    return [
        Problem(
            FILE,
            0,
            0,
            f"the key of the bus is {_span(now_ms - begin)} old",
            got=PublicKey(raw, KeyKind.BUS).text,
            expected=f"at most {_span(limits.key_age_ms)} (limits.key_age)",
            hint="sealbus keys rotate-bus",
        )
    ]


@dataclass(frozen=True, slots=True)
class _Owner:
    """A bot, or the bus's session issuer."""

    name: str
    keys: Sequence[BotKey]

    @property
    def remedy(self) -> str:
        """The command that makes another key."""
        return ISSUER_REMEDY if self.name == RELAY else f"sealbus keys rotate {self.name}"


def _ends(bot: _Owner, now_ms: int) -> list[Problem]:
    ends_ms = max(key.ends_ms for key in bot.keys)
    if ends_ms > now_ms + SOON_MS:
        return []
    end = time_text(ends_ms)
    if ends_ms > now_ms:
        left = _span(ends_ms - now_ms)
        return [_note(bot, f"{bot.name} has no valid key after {end}, in {left}")]
    return [_note(bot, f"no key of {bot.name} is valid any more: the last one ended at {end}")]


def _void(bot: _Owner, now_ms: int) -> list[Problem]:
    return [
        Problem(
            f"{FOLDER}/{bot.name}.yaml",
            0,
            0,
            f"no session key of {bot.name} counts before {time_text(key.sessions_from_ms)}",
            got=_shown(key),
            hint="sessions_from is in the future: is that right? The bot cannot log in until then",
        )
        for key in bot.keys
        if key.opens(now_ms) and key.sessions_from_ms > now_ms
    ]


def _over(bot: BotRule, now_ms: int) -> list[Problem]:
    return [
        Problem(
            f"{FOLDER}/{bot.name}.yaml",
            0,
            0,
            f"an invitation of {bot.name} ended at {time_text(one.not_after_ms)}",
            got=PublicKey(one.raw, KeyKind.BOT).text,
            hint=f"sealbus invites rm {bot.name}",
        )
        for one in bot.invitations.values()
        if now_ms - one.not_after_ms > OVER_MS
    ]


def _old(bot: _Owner, most_ms: int | None, now_ms: int) -> list[Problem]:
    if most_ms is None:
        return []
    return [
        _note(
            bot,
            f"a key of {bot.name} is {_span(now_ms - key.not_before_ms)} old",
            got=_shown(key),
            expected=f"at most {_span(most_ms)} (limits.key_age)",
        )
        for key in bot.keys
        if key.opens(now_ms) and now_ms - key.not_before_ms > most_ms
    ]


def _note(bot: _Owner, what: str, got: str | None = None, expected: str | None = None) -> Problem:
    return Problem(f"{FOLDER}/{bot.name}.yaml", 0, 0, what, got, expected, bot.remedy)


def _shown(key: BotKey) -> str:
    return PublicKey(key.raw, KeyKind.BOT).text


def _span(ms: int) -> str:
    """The time in whole days, or in whole hours if it is less than two days."""
    return f"{ms // _DAY_MS} days" if ms >= 2 * _DAY_MS else f"{ms // 3_600_000} hours"
