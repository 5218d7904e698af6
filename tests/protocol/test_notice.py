"""The notice.

``tests/vectors/notices.json`` has every refusal. These tests take each check of the reader out.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus.errors import Malformed
from sealbus.protocol.limits import MAX_NOTICE_BYTES, NOTICE_LIFE_MS
from sealbus.protocol.notice import Ended, Notice, check_notice, open_notice, seal_notice
from sealbus.protocol.seal import Context
from sealbus.protocol.sealed import seal_bodies
from sealbus.protocol.subjects import nonce_in, notice_subject
from tests.gate.world import BUS_KEY, BUS_KEYS, FORGED_BUS_KEY, KEYS, NOW

ORDER_KEY = KEYS["order"].public.raw
REVOKED = Notice("shop", "order", NOW, Ended.KEY_REVOKED, ORDER_KEY)
REMOVED = Notice("shop", "order", NOW, Ended.BOT_REMOVED)
FLOODING = Notice("shop", "order", NOW, Ended.FLOODING, pause_ms=30_000)
LARGEST = Notice("b" * 32, "b" * 32, 2**53 - 1, Ended.KEY_REVOKED, bytes(32))


@pytest.mark.parametrize("reason", Ended)
def test_each_reason_has_its_sentence(reason: Ended) -> None:
    assert reason.value == reason.name.lower().replace("_", "-")
    assert len(reason.meaning) > 20


@pytest.mark.parametrize("made", [REVOKED, REMOVED, FLOODING, replace(REVOKED, key=None), LARGEST])
def test_a_sealed_notice_comes_back_as_it_went(made: Notice) -> None:
    assert open_notice(seal_notice(BUS_KEY, made), BUS_KEYS) == made


def test_largest_notice_in_the_largest_batch_is_within_the_limit() -> None:
    assert len(LARGEST.encode()) < 150
    sealed = seal_bodies(BUS_KEY, Context.NOTICE, [LARGEST.encode()] * 1024)
    assert len(sealed[0]) <= MAX_NOTICE_BYTES
    assert open_notice(sealed[0], BUS_KEYS) == LARGEST


def test_a_notice_by_another_key_is_refused() -> None:
    with pytest.raises(Malformed, match="not the bus's"):
        open_notice(seal_notice(FORGED_BUS_KEY, REVOKED), BUS_KEYS)
    with pytest.raises(Malformed, match="not the bus's"):
        open_notice(seal_notice(BUS_KEY, REVOKED), frozenset())


def test_an_unknown_reason_hints_at_an_older_library() -> None:
    data = REMOVED.encode().replace(b"\xabbot-removed", b"\xabbot-forgott")
    expected = "unknown reason; expected bot-removed, key-revoked, certificates-void, flooding"
    with pytest.raises(Malformed, match=expected) as refused:
        Notice.decode(data)
    assert refused.value.hint == "is this library older than the relay?"


def test_a_notice_concerns_one_key_or_all() -> None:
    other = KEYS["order-next"].public.raw
    assert REVOKED.concerns(ORDER_KEY)
    assert not REVOKED.concerns(other)
    assert REMOVED.concerns(ORDER_KEY)
    assert REMOVED.concerns(other)


@pytest.mark.parametrize("off_ms", [-NOTICE_LIFE_MS, 0, NOTICE_LIFE_MS])
def test_notice_of_this_minute_is_for_its_bot(off_ms: int) -> None:
    check_notice(REVOKED, bus="shop", bot="order", now_ms=NOW + off_ms)


@pytest.mark.parametrize(
    ("bus", "bot", "off_ms", "why"),
    [
        ("bazaar", "order", 0, "another bus"),
        ("shop", "inventory", 0, "another bot"),
        ("shop", "order", NOTICE_LIFE_MS + 1, "60001 ms ago; expected at most 60000"),
        ("shop", "order", -NOTICE_LIFE_MS - 1, "60001 ms ahead; expected at most 60000"),
    ],
)
def test_notice_for_others_or_another_time_is_refused(
    bus: str, bot: str, off_ms: int, why: str
) -> None:
    with pytest.raises(Malformed, match=why):
        check_notice(REVOKED, bus=bus, bot=bot, now_ms=NOW + off_ms)


def test_no_nonce_is_read_in_the_subject_of_notices() -> None:
    assert notice_subject("order") == "inbox.order.notice"
    assert nonce_in(notice_subject("order").encode()) is None
