"""Logins with a join proof on a real nats-server: who may read which record, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs

from sealbus.nats.records import read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.joining import JOIN, JoinProof, JoinRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.seal import sign_connect
from sealbus.supervision import Supervisor
from sealbus_broker.door import errands, joining
from sealbus_broker.gate.policy import Invitation
from sealbus_broker.nats.records import read_record, write_once
from sealbus_broker.relay.floods import watch as flood_watch
from sealbus_broker.relay.floods.watch import FloodWatch
from sealbus_broker.relay.store.stream_store import StreamStore
from tests.scene import LIMITS, Door, Scene, now_ms, read_as_stranger
from tests.waiting import PATIENCE_S, until

HOUR = 3_600_000


def new() -> SigningKey:
    return SigningKey.generate(KeyKind.BOT)


class Host:
    """A host with a token: it makes a key, and logs in as `sealbus join` does."""

    def __init__(
        self, scene: Scene, token: SigningKey, key: SigningKey, bot: str = "order"
    ) -> None:
        self.scene, self.token, self.key, self.bot = scene, token, key, bot

    def proof(self, *, bus: str = "shop", bot: str | None = None) -> JoinProof:
        return JoinProof.make(self.token, self.key.public.raw, bus=bus, bot=bot or self.bot)

    @property
    def record(self) -> str:
        return record_subject(JOIN, record_id(self.token.public.raw))

    async def login(
        self,
        *,
        proof: JoinProof | None = None,
        word: str | None = None,
        more: str = "",
        name: str | None = None,
        sign: Callable[[SigningKey, bytes, bytes], bytes] = sign_connect,
    ) -> Door:
        """Log in by nats-py's public interface. Raises nats-py's error if NATS refuses."""
        word = word or (proof or self.proof()).word
        text = f"sealbus/1 {self.bot} {self.key.public.text} {word}{more}"
        complaints: list[str] = []

        async def complain(error: Exception) -> None:
            complaints.append(str(error))

        def answer(challenge: str) -> bytes:
            return base64.b64encode(sign(self.key, challenge.encode(), text.encode()))

        client = await self.scene.client(
            name=f"{self.bot} join {self.token.public.text}" if name is None else name,
            token=text,
            signature_cb=answer,
            inbox_prefix=inbox(self.token.public.raw),
            error_cb=complain,
        )
        return Door(client, complaints)

    async def first(self, door: Door) -> bytes:
        """The key in the record, as the session reads it."""
        data = await read_as_stranger(door.nc, read_subject(self.record))
        return JoinRecord.decode(data).key

    async def refused(self, **how: Any) -> str:
        """Why the door refuses the login. The client is told nothing."""
        told = re.compile("authorization violation", re.IGNORECASE)
        with capture_logs() as logs, pytest.raises(nats.errors.Error, match=told):
            await self.login(**how)
        (denied,) = [entry for entry in logs if entry["event"] == "admission.denied"]
        assert not [entry for entry in logs if entry["event"].startswith("invitation.")]
        return str(denied["why"])


def invited(scene: Scene, token: SigningKey, *, bot: str = "order", ends_ms: int = HOUR) -> None:
    now = now_ms()
    raw = token.public.raw
    rule = replace(scene.policy.bots[bot], invitations={raw: Invitation(raw, now, now + ends_ms)})
    scene.change(bots={**scene.policy.bots, bot: rule})


@pytest.fixture
def host(streams: Scene) -> Host:
    """A host with a token of the bot ``order``."""
    token = new()
    invited(streams, token)
    return Host(streams, token, new())


async def test_key_of_an_invitation_is_recorded_and_shown(host: Host) -> None:
    began = now_ms()
    with capture_logs() as logs:
        door = await host.login()
        assert await host.first(door) == host.key.public.raw
    assert [entry["event"] for entry in logs] == ["invitation.joined"]
    assert logs[0]["key"] == host.key.public.text
    data = await read_record(host.scene.relay, host.record, PATIENCE_S)
    assert data is not None
    record = JoinRecord.decode(data)
    assert record.proof == host.proof()
    assert began <= record.at_ms <= now_ms()


async def test_same_key_may_come_again(host: Host) -> None:
    await host.login()
    door = await host.login()
    assert await host.first(door) == host.key.public.raw


async def test_first_key_wins_and_the_second_is_told(host: Host) -> None:
    await host.login()
    second = Host(host.scene, host.token, new())
    with capture_logs() as logs:
        assert await second.first(await second.login()) == host.key.public.raw
    (entry,) = logs
    assert entry["event"] == "invitation.joined-twice"
    assert entry["first"] == host.key.public.text
    assert entry["key"] == second.key.public.text


async def test_of_many_at_once_one_key_wins(host: Host) -> None:
    hosts = [Host(host.scene, host.token, new()) for _ in range(8)]
    doors = await asyncio.gather(*(one.login() for one in hosts))
    won = {await one.first(door) for one, door in zip(hosts, doors, strict=True)}
    assert len(won) == 1
    assert won <= {one.key.public.raw for one in hosts}


async def test_session_may_read_its_record_and_do_nothing_else(host: Host) -> None:
    door = await host.login()
    other = record_subject(JOIN, record_id(new().public.raw))
    for subject in (
        "send.order",
        "call.order",
        "send.inventory",
        "record.join.x",
        host.record,
        read_subject(other),
        "$JS.API.STREAM.INFO.RECORDS",
        "$JS.API.DIRECT.GET.RECORDS",
        "$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.order_aaaaaaaaaaaaaaaa",
        "bus.orders.placed",
        "inbox.order.notice",
        inbox(host.token.public.raw) + ".x",
    ):
        await door.nc.publish(subject, b"x")
        await door.refused(f'publish to "{subject.lower()}')
    for subject in (
        "inbox.order.>",
        "inbox.order.notice",
        "bus.>",
        "bus.stock.reserved",
        "join.>",
        inbox(new().public.raw) + ".>",
        ">",
    ):
        await door.nc.subscribe(subject)
        await door.refused(f'subscription to "{subject.lower()}')
    assert await host.first(door) == host.key.public.raw


async def test_session_ends_after_half_a_minute(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert errands.SESSION_MS == 30_000
    monkeypatch.setattr("sealbus_broker.door.deciding.SESSION_MS", 1500)
    door = await host.login()
    await until(lambda: door.nc.is_closed, "the session is over")
    assert "expired" in str(door.nc.last_error)


async def test_the_key_opens_nothing_before_it_is_accepted(host: Host) -> None:
    await host.login()
    text = AdmissionText("order", host.key.public.text).encode()
    with capture_logs() as logs, pytest.raises(nats.errors.Error):
        await host.scene.bot("order", key=host.key, token=text)
    assert "not one of this bot's" in logs[0]["why"]


async def test_the_token_opens_nothing_by_itself(host: Host) -> None:
    text = AdmissionText("order", host.token.public.text).encode()
    with capture_logs() as logs, pytest.raises(nats.errors.Error):
        await host.scene.bot("order", key=host.token, token=text)
    assert "not one of this bot's" in logs[0]["why"]


@pytest.mark.parametrize("ends_ms", [0, -1])
async def test_invitation_that_has_ended_opens_nothing(host: Host, ends_ms: int) -> None:
    invited(host.scene, host.token, ends_ms=ends_ms)
    assert "has ended" in await host.refused()


async def test_invitation_that_has_not_begun_opens_nothing(host: Host) -> None:
    raw = host.token.public.raw
    later = now_ms() + LIMITS.clock_skew_ms + HOUR
    rule = host.scene.policy.bots["order"]
    rule = replace(rule, invitations={raw: Invitation(raw, later, later + HOUR)})
    host.scene.change(bots={**host.scene.policy.bots, "order": rule})
    assert "has not begun" in await host.refused()


async def test_withdrawn_invitation_opens_nothing(host: Host) -> None:
    await host.login()
    rule = replace(host.scene.policy.bots["order"], invitations={})
    host.scene.change(bots={**host.scene.policy.bots, "order": rule})
    assert "no such invitation" in await host.refused()


async def test_token_of_another_bot_opens_nothing(host: Host) -> None:
    thief = Host(host.scene, host.token, new(), bot="inventory")
    assert "no such invitation" in await thief.refused()


async def test_proof_for_another_bus_bot_or_key_opens_nothing(host: Host) -> None:
    other = Host(host.scene, host.token, new())
    for proof in (host.proof(bus="shop2"), host.proof(bot="thief"), other.proof()):
        assert "not for this key, bot and bus" in await host.refused(proof=proof)


async def test_proof_without_the_private_key_opens_nothing(host: Host) -> None:
    """Whoever sees a login cannot have the key of another host enrolled in his own session."""
    mine = new()

    def as_me(_: SigningKey, challenge: bytes, admission: bytes) -> bytes:
        return sign_connect(mine, challenge, admission)

    assert "signature does not hold" in await host.refused(sign=as_me)
    assert await read_record(host.scene.relay, host.record, PATIENCE_S) is None


async def test_key_that_is_somebodys_is_not_recorded(host: Host) -> None:
    """Relays would refuse the folder with a key of two."""
    for key in (host.scene.keys["inventory"], host.scene.keys["order"], host.token):
        taken = Host(host.scene, host.token, key)
        assert "enrolled already, or belongs to an invitation" in await taken.refused()
    assert await read_record(host.scene.relay, host.record, PATIENCE_S) is None


async def test_weak_key_is_not_recorded(host: Host) -> None:
    """One signature of a key of small order fits many messages."""
    neutral = PublicKey((1).to_bytes(32, "little"), KeyKind.BOT)
    proof = JoinProof.make(host.token, neutral.raw, bus="shop", bot="order")
    text = f"sealbus/1 order {neutral.text} {proof.word}"
    with capture_logs() as logs, pytest.raises(nats.errors.Error):
        await host.scene.bot("order", key=host.key, token=text)
    assert "not a valid Ed25519 key" in logs[0]["why"]
    assert await read_record(host.scene.relay, host.record, PATIENCE_S) is None


async def test_login_with_consumers_is_refused(host: Host) -> None:
    assert "no consumers" in await host.refused(more=" order_aaaaaaaaaaaaaaaa")


async def test_another_name_of_the_client_is_refused(host: Host) -> None:
    for name in ("order", f"order {host.key.public.text}", f"order {host.key.public.text} 1 2", ""):
        assert "client's name" in await host.refused(name=name)


async def test_spoilt_proof_is_refused(host: Host) -> None:
    for word, why in (("join:", "0 bytes"), ("join:AAAA", "3 bytes"), ("join:!", "not base64")):
        assert why in await host.refused(word=word)


async def test_stranger_and_invited_bot_get_the_same_words(host: Host) -> None:
    """Nobody can find out which bots have an invitation."""
    told = set()
    for bot, token in (("ghost", new()), ("order", new()), ("inventory", new())):
        with pytest.raises(nats.errors.Error) as error:
            await Host(host.scene, token, new(), bot=bot).login()
        told.add(str(error.value))
    assert len(told) == 1


async def test_logins_by_one_token_are_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST_LOGINS", 3)
    monkeypatch.setattr(host.scene.admission._joins._latest, "_monotonic", lambda: 100.0)
    for _ in range(3):
        await host.login()
    with capture_logs() as logs, pytest.raises(nats.errors.Error):
        await host.login()
    assert "more than 3 logins by one token" in logs[0]["why"]
    monkeypatch.setattr(host.scene.admission._joins._latest, "_monotonic", lambda: 130.5)
    await host.login()


async def test_without_jetstream_nobody_is_admitted(scene: Scene) -> None:
    """A key that is not recorded could be another one's a moment later."""
    token = new()
    invited(scene, token)
    assert "JetStream did not record" in await Host(scene, token, new()).refused()


async def test_spoilt_record_admits_nobody(host: Host) -> None:
    await write_once(host.scene.relay, host.record, b"spoilt", PATIENCE_S)
    with capture_logs() as logs, pytest.raises(nats.errors.Error):
        await host.login()
    assert "is not readable" in logs[0]["why"]


async def test_flood_by_a_token_ends_no_session_of_its_bot(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder may be a stranger: no operator has approved the key yet."""
    scene = host.scene
    monkeypatch.setattr(flood_watch, "LOOK_S", 0.01)
    monkeypatch.setattr(flood_watch, "TELL_S", 0.01)
    scene.change(limits=replace(scene.policy.limits, flood_messages=1000))
    watch = FloodWatch(
        nc=scene.relay,
        key=scene.secrets.bus,
        policy=lambda: scene.policy,
        relay="one",
        now_ms=now_ms,
        supervisor=Supervisor("a test"),
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(watch.run(StreamStore(scene.relay), stopping))
    await until(lambda: bool(watch._listed_us), "it looks")
    own = await scene.bot(host.bot)
    stranger = await host.login()
    for _ in range(4000):
        await stranger.nc.publish("send.order", b"x")
    await until(lambda: stranger.nc.is_closed, "the session of the token ends")
    with pytest.raises(nats.errors.Error, match="maximum account active connections"):
        await host.login()
    assert own.nc.is_connected
    assert (await scene.bot(host.bot)).nc.is_connected
    stopping.set()
    await running
