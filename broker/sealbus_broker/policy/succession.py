"""The effect of a new policy on the sessions of bots. Pure.

A session is made with the rights that the policy grants at that time, and NATS keeps to them until
it ends. So a new policy concerns the sessions of a bot in one of these ways:

======= ======================================================= ==================================
        the bot                                                 its sessions
======= ======================================================= ==================================
ended   is gone, or has no valid key any more                   end at once
narrow  loses a grant to receive, or a key of several, or a     are renewed, and end if they are
        key of it ends earlier, or may not log in without a     not. Those with a lost key, or with
        session key any more; or is bound to another TLS        void session keys, end at once
        certificate; or session keys of it end earlier
void    has void session keys, and nothing else changes         end at once. Those with a session
                                                                key that was made since then stay
wide    gains a grant to receive                                are renewed
======= ======================================================= ==================================

Whatever a bot publishes is judged anew, message by message. So grants to publish change no session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Final

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.notice import Ended
from sealbus.protocol.subjects import matches
from sealbus_broker.gate.policy import BotKey, BotRule, Policy


@dataclass(frozen=True, slots=True)
class Loss:
    """A bot's loss, which it is told."""

    reason: Ended
    key: bytes | None
    """The raw enrolled key that opens no session any more, or whose certificates are void.
    ``None``: no key of the bot opens one."""
    since_ms: int | None = None
    """Sessions whose certificate begins before that (ms since 1970) end at once. ``None``: the key
    itself is lost."""


@dataclass(frozen=True, slots=True)
class Succession:
    """The bots whose sessions a new policy concerns."""

    ended: frozenset[str]
    narrow: frozenset[str]
    wide: frozenset[str]
    losses: Mapping[str, tuple[Loss, ...]]
    """The losses of each bot of ``ended``, ``narrow`` and ``void`` that has lost more than
    grants."""
    void: frozenset[str] = frozenset()

    @property
    def lost_keys(self) -> Mapping[tuple[str, str], float]:
        """Each bot's keys (``U…``) whose sessions end at once, and from when on (ms since 1970) the
        key certifies session keys whose sessions stay."""
        found: dict[tuple[str, str], float] = {}
        for bot, losses in self.losses.items():
            for loss in losses:
                if loss.key is not None:
                    key = bot, PublicKey(loss.key, KeyKind.BOT).text
                    since_ms = inf if loss.since_ms is None else loss.since_ms
                    found[key] = max(found.get(key, since_ms), since_ms)
        return found

    def __bool__(self) -> bool:
        return bool(self.ended or self.narrow or self.void or self.wide)

    def then(self, later: Succession) -> Succession:
        """Return the two together, where the first is not carried out yet.

        What the first one takes may be given back by the later one. A session may have been renewed
        in between, so it is renewed or ended all the same.
        """
        ended = self.ended | later.ended
        void, wide = self.void | later.void, self.wide | later.wide
        narrow = (self.narrow | later.narrow | (void & wide)) - ended
        void, wide = void - ended - narrow, wide - ended - narrow
        losses = dict(self.losses)
        for name, more in later.losses.items():
            losses[name] = tuple(dict.fromkeys((*losses.get(name, ()), *more)))
        return Succession(ended, narrow, wide, MappingProxyType(losses), void)


NOTHING: Final = Succession(frozenset(), frozenset(), frozenset(), MappingProxyType({}))
"""No bot is concerned."""


def strangers(policy: Policy, sessions: Iterable[tuple[str, str]], now_ms: int) -> Succession:
    """Return what sessions lose that another policy may have admitted, as far as they show it.

    Args:
        policy: The policy in force.
        sessions: The bot of each session, and its public key as text. A bot ``""`` is nobody's
            name, and a key ``""`` is an errand.
        now_ms: The time (ms since 1970).
    """
    ended, narrow = set(), set()
    losses: dict[str, tuple[Loss, ...]] = {}
    for bot, text in set(sessions):
        if not bot:
            continue  # its name is none: a door is about to refuse it
        rule = policy.bots.get(bot)
        if rule is None:
            ended.add(bot)
            losses[bot] = (Loss(Ended.BOT_REMOVED, None),)
            continue
        if not text:
            continue  # it may read one record, for half a minute
        raw = PublicKey.parse(text, KeyKind.BOT).raw
        if not _opens(policy, rule.keys.get(raw), now_ms):
            narrow.add(bot)
            losses[bot] = (*losses.get(bot, ()), Loss(Ended.KEY_REVOKED, raw))
    return Succession(frozenset(ended), frozenset(narrow), frozenset(), MappingProxyType(losses))


def succeed(
    before: Policy, after: Policy, now_ms: int, *, since_ms: int | None = None
) -> Succession:
    """Compare two policies at ``now_ms``.

    ``since_ms``: when messages were judged by ``after`` for the first time. A bot may have a new
    session key since then. ``None``: now. Both are in ms since 1970.
    """
    since_ms = now_ms if since_ms is None else since_ms
    ended, narrow, voided, wide = set(), set(), set(), set()
    losses: dict[str, tuple[Loss, ...]] = {}
    # Sessions last as long as their session keys did by the old policy.
    is_shorter = after.limits.session_key_ms < before.limits.session_key_ms
    for name, old in before.bots.items():
        new = after.bots.get(name)
        if new is None:
            ended.add(name)
            losses[name] = (Loss(Ended.BOT_REMOVED, None),)
            continue
        lost = [
            raw for raw, key in old.keys.items() if not _opens(after, new.keys.get(raw), now_ms)
        ]
        # A key that opened nothing before is no loss.
        lost = [raw for raw in lost if _opens(before, old.keys[raw], now_ms)]
        valid = [key for key in new.keys.values() if _opens(after, key, now_ms)]
        void = [key for key in valid if _voids(key, old.keys.get(key.raw))]
        is_wider = not _covers(old.subscribe, new.subscribe)
        if lost or void:
            losses[name] = (
                *(Loss(Ended.KEY_REVOKED, raw) for raw in lost),
                *(
                    Loss(Ended.CERTIFICATES_VOID, key.raw, _counts_from_ms(after, key, since_ms))
                    for key in void
                ),
            )
        if lost and not valid:
            ended.add(name)
        elif (
            lost
            or (void and is_wider)
            or is_shorter
            or _ends_earlier(before, after, name)
            or _is_narrower(old, new)
        ):
            narrow.add(name)
        elif void:
            voided.add(name)
        elif is_wider:
            wide.add(name)
    return Succession(
        frozenset(ended),
        frozenset(narrow),
        frozenset(wide),
        MappingProxyType(losses),
        frozenset(voided),
    )


def _opens(policy: Policy, key: BotKey | None, now_ms: int) -> bool:
    """Whether a key opens a session by ``policy`` at ``now_ms``."""
    return key is not None and key.opens(now_ms, policy.limits.clock_skew_ms)


def _voids(new: BotKey, old: BotKey | None) -> bool:
    """Whether ``new``, which is valid, voids certificates by which sessions may have begun."""
    return old is not None and new.sessions_from_ms > old.sessions_from_ms


def _counts_from_ms(policy: Policy, key: BotKey, since_ms: int) -> int:
    """The time from which on ``key`` certifies session keys whose sessions stay (ms since 1970).

    The gate lets those of just before pass, because times in key files are whole seconds, and the
    clock of a bot may be behind. Their sessions end all the same, because an operator expects it.
    """
    return max(since_ms, key.sessions_from_ms - policy.limits.clock_skew_ms)


def _is_narrower(old: BotRule, new: BotRule) -> bool:
    """Whether sessions of the bot may do something that they may not do by the new policy."""
    return (
        (old.seals_directly and not new.seals_directly)
        or _is_bound_anew(old, new)
        or not _covers(new.subscribe, old.subscribe)
    )


def _ends_earlier(before: Policy, after: Policy, bot: str) -> bool:
    """Whether a key ends earlier than sessions with it were told."""
    told_ms, ends_ms = (
        {raw: key.ends_for(one.limits.clock_skew_ms) for raw, key in one.bots[bot].keys.items()}
        for one in (before, after)
    )
    return any(ends_ms[raw] < told_ms[raw] for raw in told_ms.keys() & ends_ms)


def _is_bound_anew(old: BotRule, new: BotRule) -> bool:
    """Whether a session of the bot may have a certificate by which it may not connect any more."""
    if not new.certificate_names:
        return False
    return not old.certificate_names or not set(old.certificate_names) <= set(new.certificate_names)


def _covers(patterns: Iterable[str], others: Iterable[str]) -> bool:
    """Whether each of ``others`` lies within one of ``patterns``."""
    given = tuple(patterns)
    return all(any(matches(one, other) for one in given) for other in others)
