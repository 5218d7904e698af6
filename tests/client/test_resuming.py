"""The life of a nonce: messages that an earlier call or process began, and clocks that jump."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sealbus.errors import InvalidInput
from sealbus.outcomes import Refused, Unresolved
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp
from sealbus.sending import sender as sender_module
from sealbus.sending.minting import new_nonce
from sealbus.sending.publisher import Publisher
from tests.client.receipts import HEADER, end_time, publishing, receive
from tests.client.wire import Wire

pytestmark = pytest.mark.slow


def resuming(
    publisher: Publisher, nonce: bytes, *, live: bool = False, timeout_s: float = 30
) -> asyncio.Task[Stamp]:
    header = replace(HEADER, nonce=nonce)
    return asyncio.create_task(
        publisher.publish(header, pack_json({}), live=live, resumed=True, timeout_s=timeout_s)
    )


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize(("live", "life_s"), [(False, 120), (True, 30)])
async def test_no_message_is_sent_for_longer_than_its_nonce_lives(
    publisher: Publisher, wire: Wire, live: bool, life_s: int
) -> None:
    with pytest.raises(
        InvalidInput, match=rf"timeout={life_s + 1} is out of range.* for at most {life_s} s"
    ):
        await publisher.publish(
            HEADER, pack_json({}), live=live, resumed=False, timeout_s=life_s + 1
        )
    assert wire.sent.empty()
    assert not publisher._all


@pytest.mark.parametrize(("live", "life_ms"), [(False, 120_000), (True, 30_000)])
async def test_a_message_whose_nonce_is_too_old_is_not_resumed(
    publisher: Publisher, wire: Wire, live: bool, life_ms: int
) -> None:
    with pytest.raises(InvalidInput, match="can be resumed for"):
        await resuming(publisher, new_nonce(now_ms() - life_ms - 1), live=live)
    assert wire.sent.empty()


async def test_a_nonce_that_does_not_say_when_it_was_born_is_not_used(
    publisher: Publisher, wire: Wire
) -> None:
    with pytest.raises(InvalidInput, match="born in the future"):
        await resuming(publisher, b"\xf3" * 16)
    assert wire.sent.empty()


async def test_a_resumed_message_ends_with_its_nonces_life(
    publisher: Publisher, wire: Wire
) -> None:
    """The caller would wait longer."""
    task = resuming(publisher, new_nonce(now_ms() - 60_000), timeout_s=120)
    await wire.sent.get()
    (burst,) = publisher._sender.named.values()
    (ends_at,) = burst.deadlines
    assert ends_at - asyncio.get_running_loop().time() <= 60
    task.cancel()


@pytest.mark.parametrize("reason", [Reason.EXPIRED, Reason.STALE])
async def test_a_slow_clock_does_not_make_a_resumed_message_refused(
    publisher: Publisher, wire: Wire, reason: Reason
) -> None:
    """An earlier process's attempt may be accepted.

    The relay judges the time before it looks for earlier attempts.
    """
    task = resuming(publisher, new_nonce(now_ms()))
    await receive(publisher, await wire.sent.get(), reason, ahead_ms=60_000)
    end_time(publisher)
    with pytest.raises(Unresolved) as unknown:
        await task
    assert isinstance(unknown.value.__cause__, Refused)
    assert "behind the bus" in str(unknown.value.__cause__.clock)


async def test_a_slow_clock_makes_a_new_message_refused(publisher: Publisher, wire: Wire) -> None:
    task = publishing(publisher)
    await receive(publisher, await wire.sent.get(), Reason.EXPIRED, ahead_ms=60_000)
    with pytest.raises(Refused, match="expired"):
        await task


@pytest.mark.usefixtures("retrying")
async def test_attempts_keep_to_the_nonces_life_if_the_clock_jumps(
    publisher: Publisher, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(ns=time.time_ns())
    monkeypatch.setattr(sender_module, "time", SimpleNamespace(time_ns=lambda: clock.ns))
    task = publishing(publisher)
    first = Envelope.decode(await wire.sent.get()).header
    clock.ns -= 3_600 * 10**9  # somebody sets it back
    back = Envelope.decode(await wire.sent.get()).header
    assert first.birth_ms <= back.issued_at_ms <= first.birth_ms + 120_000
    task.cancel()


async def test_after_its_nonces_life_no_refusal_is_believed(
    publisher: Publisher, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process was stopped. The relay may have forgotten an acceptance of the same nonce."""
    clock = SimpleNamespace(ns=time.time_ns())
    monkeypatch.setattr(sender_module, "time", SimpleNamespace(time_ns=lambda: clock.ns))
    task = publishing(publisher)
    envelope = await wire.sent.get()
    clock.ns += 121 * 10**9
    await receive(publisher, envelope, Reason.SCHEMA)
    end_time(publisher)
    with pytest.raises(Unresolved):
        await task
