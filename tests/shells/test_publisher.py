"""The publisher on a session: retry, resending and refusal, with verdicts that the test gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import DEFAULT_PENDING_SIZE

from sealbus import Refused, Stamp, Unresolved
from sealbus.life import connecting
from sealbus.nats.client import HardenedClient
from sealbus.protocol.codec import is_bundle, pack_json, split_bundle
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.sending import sender as sender_module
from sealbus.sending.publisher import Publisher
from sealbus.sending.sender import Sender as BurstSender
from sealbus.supervision import Supervisor, end
from sealbus_broker.relay.secrets import BusSecrets
from tests.contract.ground import Inbox
from tests.shells.stage import Judge, Kept, Stage
from tests.waiting import PATIENCE_S, patiently, until

HEADER = Header("shop", "order", "orders.placed", bytes(16), 0, 30_000)


class Sender:
    """A publisher on a session, as a bot puts them together."""

    def __init__(self, stage: Stage) -> None:
        supervisor = Supervisor("a test")
        self.kept = Kept(stage, "order")
        self.publisher = Publisher(
            sender=BurstSender(
                credentials=stage.credentials("order"),
                session=self.kept.session,
                verifier=Verifier(),
                supervisor=supervisor,
            ),
            supervisor=supervisor,
        )
        self.kept.on_attach = self._listen
        self._running = supervisor.keep("sending", self.publisher.run)

    async def _listen(self, client: HardenedClient) -> None:
        await client.subscribe_direct("inbox.order.*", self._receive)

    def _receive(self, _: bytes, __: bytes, ___: bytes, data: bytes) -> None:
        self.publisher.receive(data)

    def publish(
        self, timeout_s: float = PATIENCE_S, *, payload: object = None
    ) -> asyncio.Task[Stamp]:
        """Publish one message."""
        sending = self.publisher.publish(
            HEADER,
            pack_json({} if payload is None else payload),
            live=False,
            resumed=False,
            timeout_s=timeout_s,
        )
        return asyncio.create_task(sending)

    async def close(self) -> None:
        """Everything ends."""
        await end(self._running)
        await self.kept.session.close()


@pytest.fixture
async def sender(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sender]:
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    one = Sender(stage)
    await one.kept.session.open()
    yield one
    await one.close()


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message without verdict is sent again soon."""
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", 0.02)


@pytest.fixture
def sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message without verdict is not sent again by itself."""
    monkeypatch.setattr(sender_module, "RETRY_FIRST_S", PATIENCE_S)


async def test_accepted_message_has_its_stamp(
    stage: Stage,
    sender: Sender,
    sent_once: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    envelope = await judge.next()
    await judge.accept(envelope)
    assert (await publishing).nonce == envelope.header.nonce
    assert judge.is_empty


async def test_message_without_verdict_is_sent_again(
    stage: Stage,
    sender: Sender,
    soon_again: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    first, second = await judge.next(), await judge.next()
    assert first.header.nonce == second.header.nonce
    assert first.header.issued_at_ms <= second.header.issued_at_ms
    await judge.accept(first)
    assert (await publishing).nonce == first.header.nonce


async def test_lost_connection_has_it_sent_at_once(
    stage: Stage,
    sender: Sender,
    sent_once: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    first = await judge.next()
    stage.server.cut("order")
    await until(lambda: len(sender.kept.attached) >= 2, "it is back")
    sender.publisher.resend()
    second = await judge.next()
    assert first.header.nonce == second.header.nonce
    await judge.accept(second)
    await publishing


async def test_connection_lost_with_unsent_bytes_is_survived(
    stage: Stage, sender: Sender, soon_again: None
) -> None:
    """A server takes nothing more, and its connection ends while 4 MB wait to be sent."""
    inbox = await Inbox(stage.relay, "send.*").open()
    client = await sender.kept.session.client()
    stage.server.stall()
    publishing = [sender.publish(payload="x" * 100_000) for _ in range(40)]
    await until(lambda: client.unsent_bytes > DEFAULT_PENDING_SIZE, "the publisher waits")
    stage.server.cut("order")
    stage.server.stall(False)
    await until(lambda: len(sender.kept.attached) >= 2, "it is back")
    sender.publisher.resend()
    nonces = set[bytes]()
    while len(nonces) < len(publishing):
        data = (await patiently(inbox.next())).data
        sealed = split_bundle(data) if is_bundle(data) else [data]
        nonces.update(Envelope.decode(one).header.nonce for one in sealed)
    await end(*publishing)


async def test_message_waits_for_a_connection(
    stage: Stage,
    sender: Sender,
    sent_once: None,
) -> None:
    judge = await Judge.of(stage)
    published: list[asyncio.Task[Stamp]] = []
    sender.kept.on_lost = lambda: published.append(sender.publish())
    stage.server.cut("order")
    await judge.accept(await judge.next())
    await published[0]


async def test_refusal_ends_the_message(stage: Stage, sender: Sender, sent_once: None) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    await judge.refuse(await judge.next(), Reason.NOT_GRANTED)
    with pytest.raises(Refused) as refused:
        await publishing
    assert refused.value.reason is Reason.NOT_GRANTED


async def test_refused_retry_does_not_end_it(
    stage: Stage,
    sender: Sender,
    soon_again: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    first, second = await judge.next(), await judge.next()
    await judge.refuse(second, Reason.SCHEMA)
    await judge.next()  # it goes on: the first attempt may have been accepted
    await judge.accept(first)
    await publishing


async def test_verdict_of_another_bus_is_ignored(
    stage: Stage,
    sender: Sender,
    sent_once: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    envelope = await judge.next()
    own = stage.secrets
    stage.secrets = BusSecrets.generate()
    await judge.refuse(envelope, Reason.SCHEMA)
    stage.secrets = own
    await judge.accept(envelope)
    await publishing


async def test_no_verdict_in_time_is_unresolved(
    stage: Stage,
    sender: Sender,
    sent_once: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish(timeout_s=0.05)
    envelope = await judge.next()
    with pytest.raises(Unresolved) as unresolved:
        await publishing
    assert unresolved.value.nonce == envelope.header.nonce


async def test_closing_leaves_a_message_unresolved(
    stage: Stage,
    sender: Sender,
    sent_once: None,
) -> None:
    judge = await Judge.of(stage)
    publishing = sender.publish()
    await judge.next()
    sender.publisher.abandon()
    with pytest.raises(Unresolved, match="closed before the verdict"):
        await publishing
