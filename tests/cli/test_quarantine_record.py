"""The bytes of a record, as `sealbus quarantine show` asks the relay for them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sealbus import Bot, Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.cli.shared.errors import InputFailed
from sealbus_broker.cli.watching import quarantine
from sealbus_broker.nats.config import MAX_PAYLOAD_BYTES

CHUNK = 100_000


@pytest.fixture
def operator() -> Bot:
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    key = SigningKey.generate(KeyKind.BOT)
    return Bot(Credentials("shop", "operator", key, ("nats://127.0.0.1:1",), bus_keys))


def a_relay(monkeypatch: pytest.MonkeyPatch, size: int) -> list[int]:
    """A relay with one record of ``size`` bytes. Returns the offsets that it is asked for."""
    offsets: list[int] = []

    async def ask(_: Bot, __: str, question: dict[str, Any], ___: float) -> dict[str, Any]:
        offsets.append(question["offset"])
        chunk = bytes(min(CHUNK, size - question["offset"]))
        return {"record": {"sequence": 1}, "size": size, "data": base64.b64encode(chunk).decode()}

    monkeypatch.setattr(quarantine, "ask", ask)
    return offsets


async def test_the_largest_record_is_fetched(
    operator: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_relay(monkeypatch, MAX_PAYLOAD_BYTES)
    _, data = await quarantine._fetch(operator, 1, 1.0)
    assert len(data) == MAX_PAYLOAD_BYTES


async def test_a_larger_one_is_refused_at_once(
    operator: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = a_relay(monkeypatch, MAX_PAYLOAD_BYTES + 1)
    with pytest.raises(InputFailed, match="no message of NATS has more than") as refused:
        await quarantine._fetch(operator, 1, 1.0)
    assert offsets == [0]
    assert refused.value.hint
