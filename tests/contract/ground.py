"""What the contract's tests stand on: one server, the relay's login, its admission, and bots."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from nats.errors import Error as NatsError

from sealbus.nats.acks import Ack, read_ack
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.nats.parser import read_headers
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import sign_connect
from sealbus_broker.door.admission import Admission
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.nats.connection import connect
from sealbus_broker.relay.secrets import BusSecrets
from tests.scene import bot_rule
from tests.waiting import PATIENCE_S, until

_MIB: Final = 1024 * 1024
LIMITS: Final = Limits(
    accepted_bytes=64 * _MIB,
    ingress_bytes=32 * _MIB,
    quarantine_bytes=32 * _MIB,
    live_bytes=8 * _MIB,
    ingress_messages=4,
    clock_skew_ms=100,
)
_GRANTS: Final = {
    "order": ("orders.>",),
    "inventory": ("orders.>",),
    "thief": ("news.>",),
}
"""By bot: the subjects that it may subscribe to."""


def a_policy(keys: dict[str, SigningKey]) -> Policy:
    """Three bots, and no subject: the servers need no more."""
    bots = {name: bot_rule(name, keys[name], subscribe=grants) for name, grants in _GRANTS.items()}
    return Policy("shop", bytes(32), frozenset(), bots, (), LIMITS)


@dataclass(slots=True)
class Received:
    """One message or status, as it came."""

    subject: str
    reply: str
    headers: dict[str, str]
    data: bytes

    @property
    def status(self) -> str:
        """Its status code; empty for a message."""
        return self.headers.get("Status", "")

    @property
    def ack(self) -> Ack:
        """What the server says of the message."""
        found = read_ack(self.reply.encode())
        assert found is not None, f"{self.reply} is no acknowledgement subject"
        return found


class Inbox:
    """Everything that comes on one subject of one client."""

    def __init__(self, client: HardenedClient, subject: str) -> None:
        self.client = client
        self.subject = subject
        self.all: list[Received] = []
        self._queue: asyncio.Queue[Received] = asyncio.Queue()

    async def open(self, queue: str = "") -> Self:
        """Subscribe, and wait until the server knows."""
        await self.client.subscribe_direct(self.subject, self._receive, queue)
        await self.client.flush()
        return self

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        one = Received(subject.decode(), reply.decode(), read_headers(headers), data)
        self.all.append(one)
        self._queue.put_nowait(one)

    async def next(self) -> Received:
        """The next one."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._queue.get()

    async def take(self, count: int) -> list[Received]:
        """The next ``count``."""
        return [await self.next() for _ in range(count)]

    @property
    def is_empty(self) -> bool:
        """Whether all that came was taken."""
        return self._queue.empty()


@dataclass(slots=True)
class Ground:
    """One server and who is connected to it."""

    url: str
    secrets: BusSecrets
    keys: dict[str, SigningKey]
    policy: Policy
    stop: Callable[[], Coroutine[Any, Any, None]]
    start_again: Callable[[], Coroutine[Any, Any, None]]
    """Starts the server that was stopped, on the same address and with the same files."""
    reload: Callable[[], Coroutine[Any, Any, None]]
    """Has the server read its configuration anew. It may return before the server is done."""
    relay: HardenedClient = field(init=False)
    admission: Admission = field(init=False)
    complaints: list[str] = field(default_factory=list)
    """What the server said to the bots."""
    open: list[HardenedClient] = field(default_factory=list)

    async def begin(self) -> None:
        """The relay logs in, and admits bots from now on."""
        self.relay = await self.login()
        self.admission = Admission(
            nc=self.relay,
            issuer=self.secrets.issuer,
            policy=lambda: self.policy,
        )
        await self.admission.start()

    async def restart(self) -> None:
        """The server stops and starts, and the relay's connection comes back."""
        before = self.relay.server_id
        await self.stop()
        await until(lambda: not self.relay.is_connected, "the connection is lost")
        await self.start_again()
        await until(
            lambda: self.relay.is_connected and self.relay.server_id != before,
            "the connection is back",
        )
        await self.relay.flush()

    async def end(self) -> None:
        """Everything ends."""
        for client in self.open:
            await client.close()
        await self.stop()

    def limit(self, **limits: Any) -> None:
        """Another policy is in force."""
        self.policy = replace(self.policy, limits=replace(self.policy.limits, **limits))

    async def _complain(self, error: Exception) -> None:
        self.complaints.append(str(error).lower())

    async def login(self, seed: str | None = None) -> HardenedClient:
        """Another connection of a relay's."""
        seed = seed or self.secrets.relay.seed_text
        client = await connect([self.url], seed, name="relay", on_error=self._complain)
        self.open.append(client)
        return client

    async def bot(
        self,
        name: str,
        *consumers: str,
        key: SigningKey | None = None,
        no_wait: bool = False,
    ) -> HardenedClient:
        """A bot's connection. Raises nats-py's error where the server refuses.

        ``no_wait``: return while the server is still asking.
        """
        key = key or self.keys[name]
        words = ("sealbus/1", name, self.keys[name].public.text, "-", *consumers)
        admission = " ".join(words)

        def answer(challenge: str) -> bytes:
            signed = sign_connect(key, challenge.encode(), admission.encode())
            return base64.b64encode(signed)

        client = HardenedClient()
        self.open.append(client)
        await client.connect(
            servers=[self.url],
            name=f"{name} {self.keys[name].public.text}",
            token=admission,
            signature_cb=answer,
            allow_reconnect=False,
            connect_timeout=PATIENCE_S,
            inbox_prefix=f"inbox.{name}",
            error_cb=self._complain,
        )
        return client

    async def refuses(self, connecting: Coroutine[Any, Any, HardenedClient]) -> str:
        """The server's words where it refuses a login."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await connecting
        except (NatsError, OSError) as error:
            return str(error).lower()
        raise AssertionError("the login was not refused")

    async def complaint(self, words: str) -> None:
        """Wait until the server has said ``words``."""
        said = self.complaints
        await until(lambda: any(words in one for one in said), lambda: f"{words} in {said}")

    async def api(self, call: str, body: object = None) -> dict[str, Any]:
        """The relay asks JetStream."""
        data = b"" if body is None else json.dumps(body).encode()
        answer = await self.relay.request(f"$JS.API.{call}", data, PATIENCE_S)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def done(self, call: str, body: object = None) -> dict[str, Any]:
        """As :meth:`api`; the answer must be no error."""
        found = await self.api(call, body)
        assert "error" not in found, found["error"]
        return found

    async def store(self, subject: str, data: bytes = b"x", /, **headers: str) -> dict[str, Any]:
        """Publish to a stream and return its answer. ``Nats_Msg_Id=`` is the header Nats-Msg-Id."""
        fields = {name.replace("_", "-"): text for name, text in headers.items()}
        answer = await self.relay.request(subject, data, PATIENCE_S, headers=fields or None)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def send(self, bot: str, *texts: bytes) -> None:
        """Put a bot's messages into INGRESS.

        INGRESS acknowledges nothing, and nats-server may still store a message when it has answered
        a flush. So a call of JetStream's API that follows at once could miss the message.
        """
        last = await self._last_in_ingress() + len(texts)
        for text in texts:
            await self.relay.publish(f"send.{bot}", text)

        async def is_stored() -> bool:
            return await self._last_in_ingress() >= last

        await until(is_stored, "INGRESS has the messages")

    async def _last_in_ingress(self) -> int:
        last: int = (await self.done("STREAM.INFO.INGRESS"))["state"]["last_seq"]
        return last

    async def a_stream(self, name: str, **config: Any) -> None:
        """A stream of the test's own, with the subjects ``name.>``."""
        wanted = {"name": name, "subjects": [f"{name.lower()}.>"]} | config
        await self.done(f"STREAM.CREATE.{name}", wanted)

    async def a_consumer(self, stream: str, name: str = "puller", /, **config: Any) -> Puller:
        """A consumer of the test's own on ``stream``, and a client that pulls from it."""
        wanted = {"durable_name": name, "ack_policy": "explicit"} | config
        body = {"stream_name": stream, "config": wanted, "action": "create"}
        await self.done(f"CONSUMER.CREATE.{stream}.{name}", body)
        return await self.puller(stream, name)

    async def puller(self, stream: str, name: str, client: HardenedClient | None = None) -> Puller:
        """A client that pulls from a consumer that exists."""
        client = client or self.relay
        inbox = await Inbox(client, f"{client.new_inbox()}.*").open()
        return Puller(self, inbox, stream, name)


@dataclass(slots=True)
class Puller:
    """One client that asks one consumer for messages."""

    ground: Ground
    inbox: Inbox
    stream: str
    name: str
    asked: int = 0

    def ask(self, batch: int = 1, *, expires_s: float = 30.0, **fields: Any) -> str:
        """Ask for messages; return the subject on which the request's status comes."""
        self.asked += 1
        reply = self.inbox.subject.replace("*", str(self.asked))
        wanted: dict[str, Any] = {"batch": batch, **fields}
        if expires_s:
            wanted["expires"] = int(expires_s * 1e9)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.name}"
        frame = pub(subject.encode(), json.dumps(wanted).encode(), reply.encode())
        self.inbox.client.write([frame])
        return reply

    async def next(self) -> Received:
        """The next message or status."""
        return await self.inbox.next()

    async def fetch(self, batch: int = 1) -> list[Received]:
        """Ask for ``batch`` messages and wait for them."""
        self.ask(batch)
        return await self.inbox.take(batch)

    async def settle(self, message: Received, text: bytes) -> None:
        """Acknowledge, or give back, and wait until the server has taken it."""
        await self.inbox.client.request(message.reply, text, PATIENCE_S)

    async def info(self) -> dict[str, Any]:
        """What the server says of the consumer."""
        return await self.ground.done(f"CONSUMER.INFO.{self.stream}.{self.name}")


def make_keys() -> dict[str, SigningKey]:
    """A key for each bot."""
    return {name: SigningKey.generate(KeyKind.BOT) for name in _GRANTS}
