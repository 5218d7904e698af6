"""Joining by a token: both servers record the first key, and show it to whoever has the token."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sealbus.errors import InvitationRefused
from sealbus.invitation import JoinToken
from sealbus.joining import join
from sealbus.nats.records import record_subject
from sealbus.protocol.joining import JOIN, JoinRecord, record_id
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.gate.policy import Invitation
from sealbus_broker.nats.records import read_record
from tests.contract.ground import Ground
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

HOUR_MS = 3_600_000


def invite(bus: Ground) -> JoinToken:
    """A token of the bot ``order``, whose invitation is in force."""
    key = SigningKey.generate(KeyKind.BOT)
    raw = key.public.raw
    begins = now_ms()
    rule = bus.policy.bots["order"]
    rule = replace(rule, invitations={raw: Invitation(raw, begins, begins + HOUR_MS)})
    bus.policy = replace(bus.policy, bots={**bus.policy.bots, "order": rule})
    bus_keys = frozenset([bus.secrets.bus.public.raw])
    return JoinToken("shop", "order", key, bus_keys, (bus.url,), begins + HOUR_MS)


async def test_first_key_is_recorded_and_the_second_is_told(bus: Ground, tmp_path: Path) -> None:
    token = invite(bus)
    said: list[str] = []
    first = asyncio.create_task(
        join(token, tmp_path / "first.toml", timeout_s=PATIENCE_S, tell=said.append)
    )
    await until(lambda: any("the bus has the key" in one for one in said), "it is recorded")
    data = await read_record(
        bus.relay, record_subject(JOIN, record_id(token.key.public.raw)), PATIENCE_S
    )
    assert data is not None
    record = JoinRecord.decode(data)
    assert record.proof.holds(bus="shop", bot="order", key=record.key)
    with pytest.raises(InvitationRefused, match="another key of order came first"):
        await join(token, tmp_path / "second.toml", timeout_s=PATIENCE_S)
    first.cancel()
    await asyncio.wait([first])
