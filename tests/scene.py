"""A real nats-server with the bus's configuration, the relay's login and its admission.

Bots come in as they do on a real bus.
"""

from __future__ import annotations

import asyncio
import base64
import json
import select
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from examples.robbery.frames import client_name
from sealbus.nats.client import HardenedClient
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import sign_connect
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.throttle import PERIOD_S, QUIET_S
from sealbus_broker.gate.policy import BotKey, BotRule, Limits, Policy
from sealbus_broker.nats.config import NatsConfig, ServerTls
from sealbus_broker.nats.connection import connect
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.process import NatsServer
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until

MIB = 1024 * 1024
LIMITS = Limits(
    accepted_bytes=64 * MIB,
    ingress_bytes=32 * MIB,
    quarantine_bytes=32 * MIB,
    live_bytes=8 * MIB,
    clock_skew_ms=100,
)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def bot_rule(
    name: str, key: SigningKey, *, subscribe: tuple[str, ...] = (), publish: tuple[str, ...] = ()
) -> BotRule:
    """A bot with one key that is always valid, and that needs no session key."""
    keys = {key.public.raw: BotKey(key.public.raw, 0)}
    return BotRule(name, keys, publish, subscribe, seals_directly=True)


def a_policy(*bots: BotRule, limits: Limits = LIMITS) -> Policy:
    """A policy that knows ``bots`` and no subject. The rules that NATS enforces need no more."""
    return Policy("shop", bytes(32), frozenset(), {bot.name: bot for bot in bots}, (), limits)


def a_config(folder: Path, secrets: BusSecrets, port: int | None = None) -> NatsConfig:
    """The bus's NATS configuration on a free port.

    It is without fsync, because no test here is about power failures.
    """
    return NatsConfig(
        store_dir=folder / "jetstream",
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        port=port or free_port(),
        sync_interval="2m",
    )


class OrderedClient(Client):
    """nats-py's client, without two faults that a busy machine shows.

    nats-py 2.16 writes its PING past frames that still wait to be written. So flush() may return
    before the server knows a subscription. And it takes a PING of the server for the end of its own
    login, which a relay may still be deciding about. :class:`~sealbus.nats.client.HardenedClient`
    corrects both too.

    A PING is not answered if more has come behind it. nats-server may have refused the login and
    closed the connection. A write would fail then, and asyncio would lose the refusal.
    """

    async def _process_connect_init(self) -> None:
        transport = self._transport
        assert isinstance(transport, TcpTransport)
        read: Callable[[], Awaitable[bytes]] = transport.readline

        async def answering() -> bytes:
            while (line := bytes(await read())).upper() == b"PING\r\n":
                writer = transport._io_writer
                assert writer is not None
                if not more_has_come(writer):
                    writer.write(b"PONG\r\n")
            return line

        with patch.object(transport, "readline", answering):
            await super()._process_connect_init()

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        if self._pending:
            assert self._transport is not None
            self._transport.writelines(self._pending)
            self._pending = []
        await super()._send_ping(future)


def more_has_come(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer has sent more than was read from its connection, or has ended it."""
    connection = writer.get_extra_info("socket")
    return writer.is_closing() or bool(select.select([connection], [], [], 0)[0])


@dataclass(slots=True)
class Door:
    """One bot's connection, and the complaints of NATS about it."""

    nc: Client
    complaints: list[str]

    async def refused(self, what: str) -> None:
        """Wait until NATS has complained about ``what``."""
        await until(
            lambda: any(what in one for one in self.complaints),
            lambda: f"a complaint about {what}; got {self.complaints}",
        )


async def read_as_stranger(nc: Client, asked: str) -> bytes:
    """A record, or the list of bus keys, as a client without the library reads it."""
    answer = await nc.request(asked, b"", PATIENCE_S)
    assert "Status" not in (answer.headers or {})
    return answer.data


@dataclass(slots=True)
class Scene:
    """Everything that a test needs around it."""

    server: NatsServer
    secrets: BusSecrets
    policy: Policy
    keys: dict[str, SigningKey]
    relay: HardenedClient
    admission: Admission
    complaints: list[str] = field(default_factory=list)
    open: list[Client] = field(default_factory=list)
    tls: TlsFiles | None = None
    """The certificates of the relay's connections."""

    @property
    def url(self) -> str:
        """The address of NATS."""
        return self.server.url

    def change(self, **fields: Any) -> None:
        """Put another policy in force."""
        self.policy = replace(self.policy, **fields)

    async def login(self) -> HardenedClient:
        """Make another connection of the relay."""

        async def complain(error: Exception) -> None:
            self.complaints.append(str(error))

        client = await connect(
            [self.url], self.secrets.relay.seed_text, name="test", tls=self.tls, on_error=complain
        )
        self.open.append(client)
        return client

    async def bot(
        self,
        name: str,
        *,
        key: SigningKey | None = None,
        consumers: tuple[str, ...] = (),
        token: str | None = None,
        sign: Callable[[SigningKey, bytes, bytes], bytes] = sign_connect,
        called: str | None = None,
        **options: Any,
    ) -> Door:
        """Connect like a bot, by nats-py's public interface alone.

        ``called`` is the client's name, if not the right one. Raises nats-py's error if
        NATS refuses.
        """
        key = key or self.keys[name]
        admission = token or AdmissionText(name, key.public.text, consumers).encode()
        complaints: list[str] = []

        async def complain(error: Exception) -> None:
            complaints.append(str(error))

        def answer(challenge: str) -> bytes:
            return base64.b64encode(sign(key, challenge.encode(), admission.encode()))

        usual = {"error_cb": complain, "inbox_prefix": f"inbox.{name}"}
        client = await self.client(
            **(usual | options),
            name=client_name(admission) if called is None else called,
            token=admission,
            signature_cb=answer,
        )
        return Door(client, complaints)

    async def client(self, **options: Any) -> Client:
        """Connect by nats-py's public interface. Raises nats-py's error if NATS refuses."""
        client = OrderedClient()
        self.open.append(client)
        await client.connect(
            self.url, **({"allow_reconnect": False, "connect_timeout": PATIENCE_S} | options)
        )
        return client

    async def api(self, call: str, body: object = None) -> dict[str, Any]:
        """Ask JetStream as the relay does."""
        data = b"" if body is None else json.dumps(body).encode()
        answered: dict[str, Any] = json.loads(
            (await self.relay.request(f"$JS.API.{call}", data, PATIENCE_S)).data
        )
        return answered

    async def stored(self, stream: str) -> int:
        """The number of messages in ``stream``."""
        count: int = (await self.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
        return count

    async def make_consumer(self, name: str) -> None:
        """Make the durable consumer ``name`` of ``orders.>``."""
        config = {
            "durable_name": name,
            "ack_policy": "explicit",
            "filter_subject": "accepted.orders.>",
        }
        answer = await self.api(
            f"CONSUMER.CREATE.ACCEPTED.{name}",
            {"stream_name": "ACCEPTED", "config": config, "action": "create"},
        )
        assert "error" not in answer, answer

    async def close(self) -> None:
        """End everything."""
        for client in self.open:
            await client.close()
        await self.server.stop()


def no_quiet() -> Callable[[], float]:
    """A clock with so much time between any two lines that each is written into the log."""
    return count(0, max(QUIET_S, PERIOD_S)).__next__


async def raise_curtain(folder: Path, tls: ServerTls | None = None) -> Scene:
    """Start a bus of three bots, with the certificates ``tls`` if there are any.

    ``order`` publishes, ``inventory`` subscribes to ``orders.>`` and ``thief`` to ``news.>``.
    """
    secrets = BusSecrets.generate()
    keys = {name: SigningKey.generate(KeyKind.BOT) for name in ("order", "inventory", "thief")}
    policy = a_policy(
        bot_rule("order", keys["order"], publish=("orders.placed",)),
        bot_rule("inventory", keys["inventory"], subscribe=("orders.>",)),
        bot_rule("thief", keys["thief"], subscribe=("news.>",)),
    )
    config = a_config(folder, secrets)
    server = NatsServer(config if tls is None else replace(config, tls=tls), folder)
    own = None if tls is None else TlsFiles(tls.ca, tls.cert, tls.key)
    await server.start()
    scene: Scene

    async def complain(error: Exception) -> None:
        scene.complaints.append(str(error))

    relay = await connect(
        [server.url], secrets.relay.seed_text, name="test relay", tls=own, on_error=complain
    )
    admission = Admission(
        nc=relay, issuer=secrets.issuer, policy=lambda: scene.policy, monotonic=no_quiet()
    )
    scene = Scene(server, secrets, policy, keys, relay, admission, open=[relay], tls=own)
    await admission.start()
    return scene
