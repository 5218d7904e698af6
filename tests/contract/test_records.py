"""Records of logins, and the list of the bus's keys: who writes them, and who may read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from nats.errors import Error as NatsError

from sealbus.nats.records import KEYRING_READ, read, read_subject, record_subject
from sealbus_broker.door import deciding
from sealbus_broker.door.rights import Rights, rights
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.gate.policy import BotRule
from sealbus_broker.nats.records import read_keyring, read_record, write_keyring, write_once
from tests.contract.ground import Ground
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

OWN = record_subject("join", "own")
OTHER = record_subject("join", "other")
REFUSED_S = 0.5
"""The longest wait for an answer that must not come. The complaint is waited for in any case."""


@pytest.fixture(autouse=True)
def _may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bot may read its own record and the list."""

    def more(bot: BotRule, consumers: Sequence[str]) -> Rights:
        usual = rights(bot, consumers)
        return replace(usual, publish=(*usual.publish, read_subject(OWN), KEYRING_READ))

    monkeypatch.setattr(deciding, "rights", more)


async def test_list_before_the_first_relay_has_a_hint_to_start_one(ground: Ground) -> None:
    with pytest.raises(StreamsUnusable, match="stream not found") as told:
        await read_keyring(ground.relay, PATIENCE_S)
    assert "has a relay run here yet?" in str(told.value.hint)


async def test_record_is_written_once(bus: Ground) -> None:
    assert await write_once(bus.relay, OWN, b"first", PATIENCE_S) == b"first"
    assert await write_once(bus.relay, OWN, b"second", PATIENCE_S) == b"first"
    assert await write_once(bus.relay, OTHER, b"another", PATIENCE_S) == b"another"
    assert await read_record(bus.relay, OWN, PATIENCE_S) == b"first"
    assert await read_record(bus.relay, record_subject("join", "none"), PATIENCE_S) is None


async def test_record_survives_a_restart(bus: Ground) -> None:
    await write_once(bus.relay, OWN, b"first", PATIENCE_S)
    await bus.restart()
    assert await write_once(bus.relay, OWN, b"second", PATIENCE_S) == b"first"


async def test_full_stream_forgets_no_record(bus: Ground) -> None:
    config = (await bus.done("STREAM.INFO.RECORDS"))["config"]
    await bus.done("STREAM.UPDATE.RECORDS", config | {"max_bytes": 2000})
    await write_once(bus.relay, OWN, b"first", PATIENCE_S)
    with pytest.raises(StreamsUnusable, match="a login cannot be recorded"):
        await write_once(bus.relay, OTHER, bytes(3000), PATIENCE_S)
    assert await read_record(bus.relay, OWN, PATIENCE_S) == b"first"


async def test_session_reads_its_own_record_alone(bus: Ground) -> None:
    order = await bus.bot("order")
    assert await read(order, read_subject(OWN), PATIENCE_S) is None
    await write_once(bus.relay, OWN, b"mine", PATIENCE_S)
    await write_once(bus.relay, OTHER, b"theirs", PATIENCE_S)
    assert await read(order, read_subject(OWN), PATIENCE_S) == b"mine"
    with pytest.raises(NatsError):
        await read(order, read_subject(OTHER), REFUSED_S)
    await bus.complaint(f'permissions violation for publish to "{read_subject(OTHER).lower()}"')


@pytest.mark.parametrize("subject", [OWN, "keyring"])
async def test_bot_writes_no_record(bus: Ground, subject: str) -> None:
    order = await bus.bot("order")
    await order.publish(subject, b"forged")
    await bus.complaint(f'permissions violation for publish to "{subject}"')
    assert await read_record(bus.relay, OWN, PATIENCE_S) is None
    assert await read_keyring(bus.relay, PATIENCE_S) is None


async def test_list_of_keys_is_replaced_and_read(bus: Ground) -> None:
    order = await bus.bot("order")
    assert await read(order, KEYRING_READ, PATIENCE_S) is None
    for content in (b"one key", b"two keys"):
        await write_keyring(bus.relay, content, PATIENCE_S)
        assert await read_keyring(bus.relay, PATIENCE_S) == content
        assert await read(order, KEYRING_READ, PATIENCE_S) == content
