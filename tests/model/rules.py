"""The rules that make an acceptance the only one, each of which can be taken out, to see what it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from sealbus import publisher
from sealbus.limits import LIVE_NONCE_LIFE_MS, LIVE_SHELF_LIFE_MS, LIVE_WAIT_MS, NONCE_LIFE_MS, SHELF_LIFE_MS
from sealbus.reason import Reason
from sealbus_broker.gate import judge
from tests.model import actors
from tests.model.actors import LIMITS, SKEW_MS


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    way: str
    """The schedule of :mod:`tests.model.ways` that it closes."""
    out: Callable[[], AbstractContextManager[None]]
    """In the block it does not hold."""
    short_ms: int = 0
    """By how much the ledger's window is too short without it."""


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def without_birth() -> Iterator[None]:
    """The gate does not look when a nonce was born."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "CHECKS", tuple(check for check in judge.CHECKS if check is not judge.check_birth))
        yield


@contextmanager
def without_shelf_life() -> Iterator[None]:
    """Subscribers do not look by when a message had to be stored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "is_void", lambda *_: False)
        patch.setattr(actors, "is_too_old_live", lambda *_: False)
        yield


@contextmanager
def without_final() -> Iterator[None]:
    """The client believes every refusal, though another attempt has no verdict yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "_FINAL", frozenset(Reason))
        yield


@contextmanager
def without_server() -> Iterator[None]:
    """The client seals a live message again, though the server has been started anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "_may_be_sent", lambda pending, _: not pending.verdict.done())
        yield


def _shorter(name: str, ms: int, way: str = "longest") -> Rule:
    return Rule(f"{name} in the window", way, _nothing, ms)


ANSWERS_MS: Final = LIMITS.live_ttl_ms
"""The live window is so much longer than one message needs: an answer may follow a request for that long."""

RULES: Final = (
    Rule("birth of a nonce", "sealed_again", without_birth),
    Rule("store-by", "stalled_store", without_shelf_life),
    Rule("refused only where every attempt was", "one_stored_one_refused", without_final),
    Rule("live attempts end with their server", "forgotten_by_a_restart", without_server),
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
