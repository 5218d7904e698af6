"""nats-server, as `sealbus up` runs it, in a process of its own.

It stays up while the relay is killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from examples.robbery.cues import cues, tell
from sealbus import SealbusError
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server.process import NatsServer


async def main(folder: str, port: str) -> None:
    """Run it for the bus in ``folder`` until the director is gone."""
    state = Path(folder) / ".sealbus"
    secrets = BusSecrets.load(state / "relay.toml")
    config = NatsConfig(
        store_dir=state / "jetstream",
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        port=int(port),
    )
    server = NatsServer(config, state)
    try:
        await server.start()
    except SealbusError as error:
        tell("failed", what=error.what, hint=error.hint)
        return
    tell("ready")
    try:
        async for _ in cues():
            pass
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
