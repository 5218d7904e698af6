"""A bus in memory whose folder a test changes, and clients that do not renew their sessions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from sealbus.life.connecting import Connector
from sealbus.nats.client import HardenedClient
from sealbus.protocol.streams import HEALTH
from sealbus_broker.gate.policy import Policy
from sealbus_broker.relay.following.folder import CHANGING, OBEYED_PREFIX, Following
from sealbus_broker.relay.relay import Relay
from sealbus_broker.testing.bus import NAME, TestBus
from tests.policy.folder import Folder
from tests.scene import now_ms
from tests.waiting import PATIENCE_S, until

POLICY = """\
version: 1
bus: shop
limits:
  payload_bytes: 64KiB
bots:
  order:
    publish: [orders.placed, ticks.now]
    subscribe: []
  inventory:
    publish: []
    subscribe: [orders.placed]
  watcher:
    publish: []
    subscribe: [ticks.now]
subjects:
  orders.placed:
    schema: order.v1
  orders.paid:
    schema: order.v1
  ticks.now:
    delivery: live
    schema: order.v1
"""

WATCHER = "  watcher:\n    publish: []\n    subscribe: [ticks.now]\n"
"""Take it out, and the bot is gone."""


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses short, and leave each session the time to move."""
    for name, seconds in {
        "sealbus.life.session.ASKED_S": 0.0,
        "sealbus.life.session.APART_S": 0.0,
        "sealbus.life.connecting.BACKOFF_FIRST_S": 0.05,
        "sealbus.life.connecting.BACKOFF_MOST_S": 0.05,
        "sealbus_broker.relay.following.live_sessions.LOOK_S": 0.005,
        "sealbus_broker.relay.following.live_sessions.GRACE_S": PATIENCE_S,
        "sealbus_broker.relay.following.live_sessions.SETTLE_S": 0.0,
        "sealbus_broker.relay.following.folder.AGAIN_S": 0.01,
        "sealbus_broker.nats.connection.RECONNECT_S": 0.01,
    }.items():
        monkeypatch.setattr(name, seconds)


class Shop:
    """The bus, its folder, and its log."""

    def __init__(self, root: Path, log: list[Any]) -> None:
        self.folder = Folder(root)
        self.folder.write("policy.yaml", POLICY)
        self.bus = TestBus(root)
        self.server = self.bus._server
        self._log = log

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.relay._policy()

    @property
    def relay(self) -> Relay:
        """The relay that runs."""
        assert self.bus._relay is not None
        return self.bus._relay

    @property
    def following(self) -> Following:
        """The part of the relay that follows the folder."""
        assert self.relay._following is not None
        return self.relay._following

    @property
    def newest(self) -> bytes:
        """The digest of the policy in the folder."""
        policy = self.bus._load().policy
        assert policy is not None
        return policy.digest

    @property
    def is_followed(self) -> bool:
        """Whether the policy in the folder is in force."""
        return self.policy.digest == self.newest

    async def follow(self, old: str, new: str) -> None:
        """Change the policy's file, and wait until all sessions obey it."""
        self.folder.change(old, new)
        await self.bus.reload()
        assert self.is_followed

    def events(self, name: str) -> list[Any]:
        """The lines of the log with this event."""
        return [line for line in self._log if line["event"] == name]

    def limits(self) -> dict[str, tuple[Any, ...]]:
        """For each stream, its fields that follow the policy."""
        fields = ("max_bytes", "max_age", "duplicate_window", "max_msgs_per_subject")
        return {
            name: tuple(stream.config.get(field) for field in fields)
            for name, stream in self.server.jetstream.streams.items()
        }

    @property
    def obeyed(self) -> bytes | None:
        """The digest of the policy that all sessions obey, as HEALTH has it."""
        stored = self.server.jetstream.streams[HEALTH].messages()
        found = [one.data for one in stored if one.subject == f"{OBEYED_PREFIX}.{NAME}"]
        return bytes.fromhex(found[-1].decode()) if found and found[-1] != CHANGING else None

    async def health(self) -> list[str]:
        """The problems of the policy that the relay tells when it is asked."""
        nc = self.following._nc
        report = json.loads((await nc.request("relay.ping", b"", PATIENCE_S)).data)
        problems = [one for one in report["problems"] if one["about"] == "policy"]
        return [f"{one['level']}: {one['what']}" for one in problems]

    @asynccontextmanager
    async def client(self, bot: str) -> AsyncIterator[HardenedClient]:
        """A session of a bot that stays when the server asks it to move."""
        client = HardenedClient()
        credentials = self.bus.credentials(bot)
        connector = Connector(credentials, _attach, on_denied=lambda _: None)
        key = credentials.new_session_key(now_ms())
        options = connector.options(key, frozenset()) | {"connect_timeout": PATIENCE_S}
        try:
            await client.connect(servers=[self.server.url], **options)
        except BaseException:
            client.abort()
            raise
        try:
            yield client
        finally:
            await client.close()


async def _attach(_: HardenedClient) -> None: ...


@asynccontextmanager
async def open_shop(root: Path) -> AsyncIterator[Shop]:
    """A bus that runs. The relay has looked at the folder once."""
    with structlog.testing.capture_logs() as log:
        shop = Shop(root, log)
        async with shop.bus:
            await shop.bus.reload()
            await until(lambda: shop.obeyed == shop.newest, "the first policy is obeyed")
            yield shop
