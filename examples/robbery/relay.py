"""The relay in a process of its own, so that it can be killed.

Its log has JSON lines, which the director reads as evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import structlog

from examples.robbery.cues import cues, tell
from sealbus import SealbusError
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.watching import WatchedFolder
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.secrets import BusSecrets


async def main(folder: str, server: str, name: str) -> None:
    """Serve the bus in ``folder`` on the NATS at ``server`` until the director is gone."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    secrets = BusSecrets.load(Path(folder) / ".sealbus" / "relay.toml")
    own = frozenset([secrets.bus.public])
    loaded = load(Path(folder), own)
    policy = loaded.policy
    if policy is None:
        tell("failed", what=str(loaded.problems[0]), hint=None)
        return
    stopping = asyncio.Event()
    relay = Relay(
        servers=[server],
        secrets=secrets,
        policy=policy,
        name=name,
        folder=WatchedFolder(Path(folder), own),
    )
    serving = asyncio.create_task(relay.run(stopping, lambda: tell("ready")))
    listening = asyncio.create_task(_until_alone())
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    stopping.set()
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    try:
        await serving
    except SealbusError as error:
        tell("failed", what=error.what, hint=error.hint)


async def _until_alone() -> None:
    async for _ in cues():
        pass


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
