"""The clerk: it enrols keys that came by an invitation, on a real nats-server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sealbus.nats.records import record_subject
from sealbus.protocol.joining import JOIN, JoinProof, JoinRecord, record_id
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.records import write_once
from sealbus_broker.policy.inviting import add_invitation
from sealbus_broker.policy.loader import load
from sealbus_broker.relay.clerk import AGAIN_S, Clerk
from tests.cli.folders import unwritable
from tests.policy.folder import Folder
from tests.scene import Scene, now_ms
from tests.waiting import PATIENCE_S, until

OWN = SigningKey.generate(KeyKind.BUS)


class Office:
    """A folder, its clerk, and the keys that come."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.bus = Folder(folder)
        self.now = 100.0
        self.is_due = True
        self.policy = self.read()
        self.clerk = Clerk(
            nc=scene.relay,
            folder=self.bus.root,
            policy=lambda: self.policy,
            is_due=lambda: self.is_due,
            monotonic=lambda: self.now,
        )

    def read(self) -> Policy:
        found = load(self.bus.root, frozenset([OWN.public])).policy
        assert found is not None
        return found

    def invite(self, *, approve: bool = False) -> SigningKey:
        """The key of an invitation of the bot ``order`` that is in force."""
        token = SigningKey.generate(KeyKind.BOT)
        hour = timedelta(hours=1)
        now = datetime.now(UTC)
        add_invitation(self.bus.root, "order", token.public, now=now, life=hour, approve=approve)
        self.policy = self.read()
        return token

    async def comes(self, token: SigningKey, data: bytes) -> None:
        """Write the record of an invitation, as the door does."""
        subject = record_subject(JOIN, record_id(token.public.raw))
        assert await write_once(self.scene.relay, subject, data, PATIENCE_S) == data

    async def look(self) -> list[str]:
        """Let the clerk look once. The events of the log."""
        with capture_logs() as logs:
            await self.clerk.look()
        return [str(entry["event"]) for entry in logs]

    @property
    def keys(self) -> set[bytes]:
        return set(self.read().bots["order"].keys)


def record(token: SigningKey, key: SigningKey, *, bot: str = "order") -> bytes:
    proof = JoinProof.make(token, key.public.raw, bus="shop", bot=bot)
    return JoinRecord(key.public.raw, proof, now_ms()).encode()


@pytest.fixture
def office(streams: Scene, tmp_path: Path) -> Office:
    return Office(streams, tmp_path / "bus")


async def test_key_that_came_is_enrolled_once(office: Office) -> None:
    token, key = office.invite(), SigningKey.generate(KeyKind.BOT)
    assert await office.look() == []
    assert office.keys == set()
    await office.comes(token, record(token, key))
    assert await office.look() == ["invitation.accepted"]
    assert office.keys == {key.public.raw}
    # The relay has not read the folder yet, and then it has.
    assert await office.look() == []
    office.policy = office.read()
    assert await office.look() == []
    assert office.keys == {key.public.raw}


async def test_clerk_of_another_worker_leaves_the_record(office: Office) -> None:
    """One of several relays enrols, and the next one goes on when that one is gone."""
    token, key = office.invite(), SigningKey.generate(KeyKind.BOT)
    await office.comes(token, record(token, key))
    office.is_due = False
    assert await office.look() == []
    office.is_due = True
    assert await office.look() == ["invitation.accepted"]


async def test_invitation_that_needs_an_operator_is_left(office: Office) -> None:
    token = office.invite(approve=True)
    await office.comes(token, record(token, SigningKey.generate(KeyKind.BOT)))
    assert await office.look() == []
    assert office.keys == set()


async def test_operator_asked_for_in_the_folder_alone_counts(office: Office) -> None:
    """The policy in force is older: the relay has not read the change, or refuses the folder."""
    token, key = office.invite(), SigningKey.generate(KeyKind.BOT)
    file = office.bus.root / "keys" / "order.yaml"
    asked = file.read_text()
    file.write_text(f"{asked}    approve: true\n")
    await office.comes(token, record(token, key))
    assert await office.look() == []
    assert office.keys == set()
    file.write_text(asked)
    assert await office.look() == ["invitation.accepted"]


@pytest.mark.parametrize("kind", ["spoilt", "another bot's", "another invitation's"])
async def test_forged_record_enrols_nobody_and_is_told_once(office: Office, kind: str) -> None:
    """Whoever has the relays' login can write records, and nothing that is believed."""
    token, thief = office.invite(), SigningKey.generate(KeyKind.BOT)
    data = {
        "spoilt": b"spoilt",
        "another bot's": record(token, thief, bot="inventory"),
        "another invitation's": record(SigningKey.generate(KeyKind.BOT), thief),
    }[kind]
    await office.comes(token, data)
    assert await office.look() == ["invitation.not-accepted"]
    office.now += AGAIN_S
    assert await office.look() == []
    assert office.keys == set()


async def test_own_key_of_the_bus_is_not_enrolled(office: Office) -> None:
    token = office.invite()
    await office.comes(token, record(token, SigningKey(OWN.raw_seed, KeyKind.BOT)))
    assert await office.look() == ["invitation.not-accepted"]
    assert office.keys == set()


async def test_folder_that_cannot_be_written_is_told_and_tried_again(office: Office) -> None:
    token, key = office.invite(), SigningKey.generate(KeyKind.BOT)
    await office.comes(token, record(token, key))
    with unwritable(office.bus.root / "keys"):
        with capture_logs() as logs:
            await office.clerk.look()
        (entry,) = logs
        assert entry["event"] == "invitation.not-accepted"
        assert "cannot be written" in entry["text"]
        assert "sealbus invites accept" in entry["hint"]
    assert await office.look() == []
    office.now += AGAIN_S
    assert await office.look() == ["invitation.accepted"]
    assert office.keys == {key.public.raw}


async def test_clerk_outlives_a_lost_server(office: Office) -> None:
    token, key = office.invite(), SigningKey.generate(KeyKind.BOT)
    await office.comes(token, record(token, key))
    await office.scene.server.stop()
    assert "invitation.accepted" not in await office.look()
    await office.scene.server.start()

    async def is_enrolled() -> bool:
        await office.look()
        return bool(office.keys)

    await until(is_enrolled, "the key is enrolled")
    assert office.keys == {key.public.raw}
