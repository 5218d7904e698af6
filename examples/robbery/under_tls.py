"""The last act: the operator turns TLS on, and the attacker is still on the order bot's line.

The shop was closed, and opens again by the commands that an operator runs: ``sealbus certs init``
and ``sealbus up``. The order bot places one more order. Its connection leads through the attacker,
who keeps every byte. Then the attacker connects directly.

Before that act the same line was readable: the attacker took whole orders and logins from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Self

from examples.robbery.catalogue import NO_CERTIFICATE, READ, Attack
from examples.robbery.judging import Finding
from examples.robbery.order_book import Order
from examples.robbery.shop import BUS, Shop
from examples.robbery.stage import STOP_S, StageError
from sealbus_broker.policy.bus_file import BusFile, write_bus_file

READY_S: Final = 30.0
"""How long a command may take. They take half a second, and `sealbus up` two seconds."""

LEAST_BYTES: Final = 1000
"""How many bytes must have passed, so that the evidence is about a line that was used."""

ORDER_ID: Final = "ord-777777"

SECRETS: Final = (b"INFO {", b"CONNECT {", b"send.order", b"orders.placed", ORDER_ID.encode())
"""Words of NATS, and of the order, that pass on a line without TLS."""


class TlsShop:
    """The shop with TLS, as a context."""

    scheme = "tls"
    """That of its address."""

    def __init__(self, shop: Shop, logs: Path, say: Callable[[str], None]) -> None:
        self._shop = shop
        self._log = logs / "up.log"
        self._say = say
        self._up: Process | None = None

    async def __aenter__(self) -> Self:
        shop = self._shop
        write_bus_file(shop.folder, BusFile(BUS, (shop.url,), (shop.secrets.bus.public,)))
        # The old file leads through the attacker's first line.
        (shop.folder / "credentials" / "order.toml").unlink()
        shop.write_credentials("order")
        await self._encrypt()
        try:
            await self._open()
        except BaseException:  # also a cancellation: no process may be left behind
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _encrypt(self) -> None:
        self._say("the operator turns TLS on: sealbus certs init, sealbus up")
        await self._run("certs", "init")

    async def _open(self) -> None:
        with self._log.open("ab") as log:
            self._up = await self._start("up", output=log.fileno())
        async with asyncio.timeout(READY_S):
            while "relay.started" not in self._log.read_text():
                if self._up.returncode is not None:
                    raise StageError(f"sealbus up ended; its log is {self._log.name}")
                await asyncio.sleep(0.1)

    async def _close(self) -> None:
        if self._up is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._up.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._up.wait()
        except TimeoutError:
            self._up.kill()
            await self._up.wait()

    async def read_line(self, order: Order) -> Finding:
        """Place ``order`` under another id through the attacker, and look at what passed."""
        heard = bytearray()
        told = json.dumps({**order, "order_id": ORDER_ID})
        async with _tap(self._shop.port, heard) as port:
            line = f"{self.scheme}://127.0.0.1:{port}"
            await self._run("pub", "orders.placed", told, "--as", "order", "--server", line)
        read = [word.decode() for word in SECRETS if word in heard]
        if read or len(heard) < LEAST_BYTES:
            return Finding(READ, None, f"{len(heard)} bytes passed, with {read}", "")
        return Finding(READ, READ.where, READ.why, f"{len(heard)} bytes passed, none in the clear")

    async def connect_without_certificate(self, _: Order) -> Finding:
        """Connect with nothing but the authority's certificate, and look into nats-server's log."""
        before = self._shop.nats_log.stat().st_size
        authority = self._shop.folder / "credentials" / "ca.crt"
        context = ssl.create_default_context(cafile=str(authority))
        words = b""
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._shop.port, ssl=context
            )
            words = await reader.read(1)
            writer.close()
        return await self._logged(NO_CERTIFICATE, before, words)

    async def _logged(self, attack: Attack, before: int, words: bytes) -> Finding:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                while attack.why not in self._shop.nats_log.read_text()[before:]:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                if not words:
                    return Finding(attack, attack.where, attack.why, "nats-server log")
        return Finding(attack, None, "nats-server spoke" if words else "not refused", "")

    async def _run(self, *arguments: str) -> None:
        process = await self._start(*arguments, output=PIPE)
        async with asyncio.timeout(READY_S):
            said, _ = await process.communicate()
        if process.returncode:
            raise StageError(f"sealbus {arguments[0]}: {said.decode(errors='replace')[-500:]}")

    async def _start(self, *arguments: str, output: int) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sealbus_broker",
            *arguments,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            cwd=self._shop.folder,
            env=os.environ,
            start_new_session=True,
        )


@contextlib.asynccontextmanager
async def _tap(port: int, heard: bytearray) -> AsyncIterator[int]:
    """Pass everything on to ``port``, and keep a copy in ``heard``. Yields a port of its own."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                heard.extend(data)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, forth), pump(back, writer))

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
