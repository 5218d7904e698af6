"""The cost of a login on a bus with many sessions.

``python -m benchmarks.logins`` opens sessions of a hundred bots on a real nats-server, whose door
runs in this process. It measures further logins, one after the other, and a thousand at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from benchmarks.sessions import raise_file_limit
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import sign_connect
from sealbus_broker.door.admission import Admission
from tests.scene import Scene, bot_rule, raise_curtain

BOTS: Final = 100
SIZES: Final = (10, 1_000, 3_000)
"""The sessions that are there before a measurement."""

TRIES: Final = 200
STORM: Final = 1_000
AT_ONCE: Final = 50
"""The logins of a storm that are under way together. nats-server gives each two seconds."""

QUIET_S: Final = 2.5
"""How long a door counts sessions that have ended, and some more."""


class Crowd:
    """Bots that log in by NATS's protocol, without a client library."""

    def __init__(self, scene: Scene) -> None:
        address = urlsplit(scene.url)
        self._address = address.hostname, address.port
        self._keys = [SigningKey.generate(KeyKind.BOT) for _ in range(BOTS)]
        names = [f"b{number}" for number in range(BOTS)]
        rules = map(bot_rule, names, self._keys)
        scene.change(bots={rule.name: rule for rule in rules})
        self._open: list[asyncio.StreamWriter] = []

    @property
    def size(self) -> int:
        """How many sessions are open."""
        return len(self._open)

    async def log_in(self, number: int) -> float:
        """Open the session ``number``; return how long it took (ms)."""
        name, key = f"b{number % BOTS}", self._keys[number % BOTS]
        said = AdmissionText(name, key.public.text)
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection(*self._address)
        challenge = json.loads((await reader.readline()).removeprefix(b"INFO "))["nonce"]
        signature = sign_connect(key, challenge.encode(), said.encode().encode())
        options = {
            "verbose": False,
            "headers": True,
            "name": said.client_name,
            "auth_token": said.encode(),
            "sig": base64.b64encode(signature).decode(),
        }
        writer.write(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
        while (line := await reader.readline()) != b"PONG\r\n":
            if not line or line.startswith(b"-ERR"):
                raise ConnectionError(f"a login failed: {line.decode()!r}")
        self._open.append(writer)
        return (time.perf_counter() - began) * 1000

    async def one_by_one(self, count: int) -> list[float]:
        """Open ``count`` sessions, one after the other."""
        return [await self.log_in(self.size) for _ in range(count)]

    async def at_once(self, count: int) -> list[float]:
        """Open ``count`` sessions, :data:`AT_ONCE` at a time."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def log_in(number: int) -> float:
            async with turns:
                return await self.log_in(number)

        return await asyncio.gather(*(log_in(self.size + number) for number in range(count)))

    async def leave(self, count: int) -> None:
        """End the ``count`` last sessions, and wait until the door does not count them."""
        for writer in self._open[-count:]:
            writer.close()
        del self._open[-count:]
        await asyncio.sleep(QUIET_S)


async def run() -> None:
    """Measure, and print a line for each size."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as folder:
        scene = await raise_curtain(Path(folder))
        # Another one, because time stands still for that of a test.
        await scene.admission.stop()
        login, issuer = await scene.login(), scene.secrets.issuer
        admission = Admission(nc=login, issuer=issuer, policy=lambda: scene.policy)
        await admission.start()
        crowd = Crowd(scene)
        for size in SIZES:
            await crowd.at_once(size - crowd.size)
            times = await crowd.one_by_one(TRIES)
            await crowd.leave(TRIES)
            began = time.perf_counter()
            stormy = await crowd.at_once(STORM)
            rate = STORM / (time.perf_counter() - began)
            await crowd.leave(STORM)
            p95 = statistics.quantiles(times, n=20)[-1]
            print(
                f"{size:5} sessions: a login {statistics.median(times):.1f} ms (p95 {p95:.1f},"
                f" worst {max(times):.1f}); a storm of {STORM}: {rate:.0f} logins/s, worst"
                f" {max(stormy):.0f} ms",
                flush=True,
            )
        await admission.stop()
        await scene.close()


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(run())
