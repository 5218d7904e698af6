"""The example shop on a real nats-server.

Each relay is a process of its own, so that a test can kill it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sealbus import Bot, BotState, Credentials
from sealbus.nats.client import HardenedClient
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.nats.connection import connect
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.server.process import NatsServer
from tests.asking import answered
from tests.forked import ForkedProgram, Program
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
SKEW = "clock_skew: 1s"
"""The setting that says how long a new bus waits before it opens.

The tests use a tenth of it, because all clocks of one machine agree.
"""
BOTS = ("order", "inventory", "shipping", "scraper", "operator")


def order(number: int) -> dict[str, Any]:
    """A valid order."""
    return {
        "order_id": f"ord-{number:06d}",
        "customer": "cus-0001",
        "placed_at": "2026-11-24T08:00:00Z",
        "currency": "EUR",
        "items": [{"sku": "ABC-0001", "quantity": 1, "unit_price_cents": 250}],
        "ship_to": {
            "name": "Zoë",
            "street": "Weg 1",
            "city": "Graz",
            "postcode": "8010",
            "country": "AT",
        },
    }


class Shop:
    """One bus: its folder, its server, its relays."""

    relay_module: tuple[str, ...] = ("sealbus_broker",)
    """The module that starts a relay, and its first arguments."""

    sync_interval = "always"
    """When JetStream syncs the disk: as `sealbus up` writes it."""

    def __init__(self, folder: Path, make_folder: Callable[[Path], None] | None = None) -> None:
        """Make the folder of the bus.

        ``make_folder`` fills it. The default is the example bus, with a key for each bot.
        """
        self.bus = BusFolder(folder)
        folder.mkdir()
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.urls = self._find_urls()
        if make_folder is None:
            self._make_example(folder)
        else:
            make_folder(folder)
        self.secrets = self.bus.open_secrets()
        self.server = self._make_server()
        self.relays: list[Program] = []
        self._stack = AsyncExitStack()

    def _make_example(self, folder: Path) -> None:
        policy = (ROOT / "policy.yaml").read_text()
        assert SKEW in policy
        (folder / "policy.yaml").write_text(policy.replace(SKEW, "clock_skew: 100ms"))
        shutil.copytree(ROOT / "schemas", folder / "schemas")
        facts = BusFile("shop", self.urls, (self.bus.open_secrets().bus.public,))
        for bot in BOTS:
            make_key(self.bus, bot, facts, datetime.now(UTC))

    def _find_urls(self) -> tuple[str, ...]:
        """The addresses at which bots and relays find NATS."""
        return (self.url,)

    def _make_server(self) -> NatsServer:
        config = NatsConfig(
            store_dir=self.bus.state / "jetstream",
            relay=self.secrets.relay.public,
            issuer=self.secrets.issuer.public,
            port=self.port,
            sync_interval=self.sync_interval,
        )
        return NatsServer(config, self.bus.state)

    async def restart_server(self) -> None:
        """Stop the server, if it runs, and start it again on the same port and store."""
        await self.server.stop()
        self.server = self._make_server()
        await self.server.start()

    async def __aenter__(self) -> Self:
        await self.server.start()
        self._stack.push_async_callback(self._stop_server)
        return self

    async def _stop_server(self) -> None:
        await self.server.stop()

    async def __aexit__(self, *_: object) -> None:
        for relay in self.relays:
            if relay.returncode is None:
                relay.kill()
                await relay.wait()
        await self._stack.aclose()

    async def start_relay(self, name: str = "relay") -> Program:
        """Start a relay, and wait until it says that the bus is up."""
        log = self.bus.path / f"{name}.log"
        with log.open("ab") as output:
            before = output.tell()
        command = (*self.relay_module, "relay", "--dir", str(self.bus.path))
        servers = [part for url in self.urls for part in ("--server", url)]
        relay = ForkedProgram((*command, *servers, "--name", name), log)
        self.relays.append(relay)

        def is_up() -> bool:
            said = log.read_bytes()[before:]
            assert relay.returncode is None, f"the relay ended before it was up: {said.decode()}"
            return b"is up at" in said

        await until(is_up)
        return relay

    async def replace_relay(self, old: str, new: str) -> Program:
        """Stop all relays, change the policy, and start a new relay, which knows no other one."""
        for relay in self.relays:
            if relay.returncode is None:
                relay.terminate()
                await relay.wait()
        path = self.bus.path / "policy.yaml"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
        return await self.start_relay("changed")

    def credentials(self, bot: str) -> Credentials:
        return Credentials.load(self.bus.credentials(bot))

    def bot(self, name: str) -> Bot:
        return Bot(self.credentials(name))

    async def nats(self) -> HardenedClient:
        """Log in with the relay's rights, to look at the streams from outside."""

        async def ignore(_: Exception) -> None:
            pass

        seed = self.secrets.relay.seed_text
        return await connect(list(self.urls), seed, name="test", on_error=ignore)

    async def stored(self, stream: str) -> int:
        """The number of messages in a stream."""
        count: int = (await self._state(stream))["messages"]
        return count

    async def last(self, stream: str) -> int:
        """The last sequence of a stream, which is the number of messages that it ever had."""
        sequence: int = (await self._state(stream))["last_seq"]
        return sequence

    async def consumers(self, stream: str) -> int:
        """The number of consumers of a stream."""
        count: int = (await self._state(stream))["consumer_count"]
        return count

    async def _state(self, stream: str) -> dict[str, Any]:
        nc = await self.nats()
        try:
            state: dict[str, Any] = json.loads(
                (await answered(nc, f"$JS.API.STREAM.INFO.{stream}")).data
            )["state"]
            return state
        finally:
            await nc.close()


def state(bot: Bot) -> BotState:
    """The bot's state.

    It is a call, because mypy expects no change of an attribute after an assertion about it.
    """
    return bot.state
