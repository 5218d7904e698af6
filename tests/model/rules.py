"""The rules that allow only one acceptance.

Each rule can be taken out, to show the fault that it prevents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from sealbus.nats.frames import pub
from sealbus.protocol.limits import (
    LIVE_NONCE_LIFE_MS,
    LIVE_SHELF_LIFE_MS,
    LIVE_WAIT_MS,
    NONCE_LIFE_MS,
    SHELF_LIFE_MS,
)
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp
from sealbus.sending import burst
from sealbus_broker.gate import judge
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.pipeline import Refusals
from sealbus_broker.relay.store.storing import Item, Storing
from tests.model import actors
from tests.model.actors import LIMITS, SKEW_MS


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    way: str
    """The schedule of :mod:`tests.model.ways` that the rule prevents."""
    out: Callable[[], AbstractContextManager[None]]
    """A block in which the rule does not apply."""
    short_ms: int = 0
    """How much the ledger's window is too short without the rule, in ms."""


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def without_birth() -> Iterator[None]:
    """The gate does not check when a nonce was born."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            judge,
            "CHECKS",
            tuple(check for check in judge.CHECKS if check is not judge.check_birth),
        )
        yield


@contextmanager
def without_shelf_life() -> Iterator[None]:
    """Subscribers do not check by when a message had to be stored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "is_void", lambda *_: False)
        patch.setattr(actors, "is_too_old_live", lambda *_: False)
        yield


@contextmanager
def without_final() -> Iterator[None]:
    """The client believes every refusal, though another attempt has no verdict yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(burst, "_FINAL", frozenset(Reason))
        yield


@contextmanager
def without_age() -> Iterator[None]:
    """The gate checks whether an attempt is older than the ledger, and not whether its nonce is."""

    def by_issue(case: judge.CheckContext) -> judge.Violation | None:
        since = case.moment.ledger_since_ms
        is_older = (
            since is not None
            and case.header.issued_at_ms <= since + case.policy.limits.clock_skew_ms
        )
        return judge.Violation(Reason.STALE, "issued before the ledger") if is_older else None

    with pytest.MonkeyPatch.context() as patch:
        checks = tuple(
            by_issue if check is judge.check_ledger_age else check for check in judge.CHECKS
        )
        patch.setattr(judge, "CHECKS", checks)
        yield


@contextmanager
def without_judging_anew() -> Iterator[None]:
    """Every attempt to store uses the first judgement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storing, "_is_young", lambda *_: True)
        yield


@contextmanager
def without_the_time_of_judgement() -> Iterator[None]:
    """Every attempt to store uses the first judgement, but the stamp has the attempt's time."""
    stamp = Storing._stamp

    def younger(self: Storing, item: Item) -> Stamp:
        now_ms, made = self._now_ms(), stamp(self, item)
        if made.store_by_ms is None:
            return made
        return replace(
            made, judged_at_ms=now_ms, store_by_ms=now_ms + made.store_by_ms - made.judged_at_ms
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storing, "_is_young", lambda *_: True)
        patch.setattr(Storing, "_stamp", younger)
        yield


@contextmanager
def without_looking() -> Iterator[None]:
    """A relay does not check when the server stored the message that it confirms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storing, "_is_within", lambda *_: True)
        yield


@contextmanager
def without_order() -> Iterator[None]:
    """A refusal is told before it is acknowledged."""

    async def at_once(
        self: IngressWorker, pulled: Sequence[Any], refusals: Refusals | None
    ) -> None:
        if refusals:
            refusals.tell()
        self._nc.write([pub(one.reply, b"+ACK") for one in pulled])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngressWorker, "_acknowledge", at_once)
        yield


@contextmanager
def without_closing() -> Iterator[None]:
    """A refusal is told although an attempt to store the message is under way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storing, "_must_close", lambda *_: False)
        yield


@contextmanager
def without_closing_for_other_policies() -> Iterator[None]:
    """An id is closed only where the key is valid by this relay's policy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            judge.CheckContext,
            "may_be_stored",
            lambda case: case.proven and case.arrival.redelivered,
        )
        yield


def _shorter(name: str, ms: int, way: str = "longest") -> Rule:
    return Rule(f"{name} in the window", way, _nothing, ms)


ANSWERS_MS: Final = LIMITS.live_ttl_ms
"""The live window is longer by this than one message needs.

An answer may follow a request for that long.
"""

RULES: Final = (
    Rule("birth of a nonce", "sealed_again", without_birth),
    Rule("store-by", "stalled_store", without_shelf_life),
    Rule("judged anew at each attempt", "judged_before_a_restart", without_judging_anew),
    Rule("judged-at is the time of the judgement", "stalled_turn", without_the_time_of_judgement),
    Rule("accepted is told only if not void", "honest_and_late", without_looking),
    Rule("refused only when the id is closed, after a lost answer", "answer_lost", without_closing),
    Rule(
        "refused only when the id is closed, after another relay",
        "slow_write_then_too_late",
        without_closing,
    ),
    Rule(
        "closed also where a key is revoked",
        "slow_write_then_revoked",
        without_closing_for_other_policies,
    ),
    Rule(
        "closed also where a bot is removed",
        "slow_write_then_removed",
        without_closing_for_other_policies,
    ),
    Rule("a refusal is acknowledged before it is told", "killed_after_2", without_order),
    Rule("a refusal is told only in time", "two_hold_it", without_order),
    Rule("refused only where every attempt was", "one_stored_one_refused", without_final),
    Rule("no nonce is older than the ledger", "asked_again_after_a_restart", without_age),
    _shorter("life of a nonce", NONCE_LIFE_MS),
    _shorter("time-to-live", LIMITS.ttl_ms),
    _shorter("wait", LIMITS.ingress_wait_ms),
    _shorter("shelf life", SHELF_LIFE_MS),
    _shorter("one skew", SKEW_MS),
    _shorter("one millisecond beyond the margin", 1_000),
    _shorter("life of a live nonce", ANSWERS_MS + LIVE_NONCE_LIFE_MS, "longest_live"),
    _shorter("live time-to-live", ANSWERS_MS + LIMITS.live_ttl_ms, "longest_live"),
    _shorter("live wait", ANSWERS_MS + LIVE_WAIT_MS, "longest_live"),
    _shorter("live shelf life", ANSWERS_MS + LIVE_SHELF_LIFE_MS, "longest_live"),
    _shorter("one skew of the live ledger", ANSWERS_MS + SKEW_MS, "longest_live"),
)
