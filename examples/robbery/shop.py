"""The bus of the demo: the repository's example bus with fresh keys, in a temporary folder."""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

from sealbus import Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.keys import add_key
from sealbus_broker.relay.secrets import BusSecrets

ROOT = Path(__file__).resolve().parents[2]
BUS = "shop"
BOTS = ("order", "inventory", "shipping", "scraper", "operator")


class Shop:
    """A bus folder with the policy and schemas of the repository, and new keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        shutil.copy(ROOT / "policy.yaml", folder)
        shutil.copytree(ROOT / "schemas", folder / "schemas")
        self.secrets = BusSecrets.generate()
        self.secrets.write(folder / ".sealbus" / "relay.toml")
        self._keys = {bot: SigningKey.generate(KeyKind.BOT) for bot in BOTS}
        for bot, key in self._keys.items():
            add_key(folder, bot, key.public, datetime.now(UTC))
        self.port = free_port()

    @property
    def url(self) -> str:
        """The address of nats-server."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def nats_log(self) -> Path:
        """nats-server's log."""
        return self.folder / ".sealbus" / "nats.log"

    def credentials(self, bot: str, port: int | None = None) -> Credentials:
        """The credentials of ``bot``.

        ``port`` is the port for NATS in them, if it is not the real one.
        """
        server = f"nats://127.0.0.1:{port or self.port}"
        return Credentials(
            BUS, bot, self._keys[bot], (server,), frozenset([self.secrets.bus.public.raw])
        )

    def write_credentials(self, bot: str, port: int | None = None) -> Path:
        """The same credentials as a file."""
        path = self.folder / "credentials" / f"{bot}.toml"
        self.credentials(bot, port).write(path)
        return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
