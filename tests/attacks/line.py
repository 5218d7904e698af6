"""The owner of the line between a bot and the bus: one of our bots behind a wiretap, on a running
bus.

The bot is the order bot, with a durable subscription to ``orders.shipped``. It pins the key of the
shipping bot, so that an attacker with the bus key fails too. The attacker sees and changes every
frame, and speaks in the server's place. He has no key of a bot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from examples.robbery.frames import msg
from examples.robbery.wiretap import Wiretap
from sealbus import Bot, Credentials, Message
from tests.gate.world import BUS_KEYS, KEYS
from tests.waiting import until

HOST = "127.0.0.1"


@dataclass(slots=True)
class Line:
    """The wiretap, the bot behind it, and the messages that the bot handled."""

    tap: Wiretap
    bot: Bot
    handled: list[str] = field(default_factory=list)
    """The nonces of the messages that its handler got."""

    def deliver(
        self, delivery: bytes, *, subject: str = "accepted.orders.shipped", reply: str = ""
    ) -> None:
        """Put a delivery on the bot's line, as if nats-server sent it.

        ``reply`` is that of a genuine delivery, unless given.
        """
        inbox, sid = next(
            pair for pair in self.tap.session.subscriptions.items() if pair[0].endswith(".pull")
        )
        del inbox
        self.tap.deliver(msg(subject, sid, delivery, reply or self.reply))

    def receipt(self, nonce: bytes, stamp: bytes) -> None:
        """Put a receipt on the bot's line."""
        self.tap.deliver(
            msg(
                f"inbox.order.{nonce.hex()}", self.tap.session.subscriptions["inbox.order.*"], stamp
            )
        )

    @property
    def reply(self) -> str:
        """The acknowledgement subject of the last genuine delivery."""
        return self.tap.deliveries[-1].words[2].decode()

    @property
    def genuine(self) -> bytes:
        """The last genuine delivery."""
        return self.tap.deliveries[-1].payload


@asynccontextmanager
async def server_that_says(says: bytes, port: int) -> AsyncIterator[int]:
    """The port of a server that sends ``says`` to its first visitor and closes the connection.

    All other visitors are connected to ``port``.
    """
    visitors: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visitors.append(task)
        if len(visitors) == 1:
            writer.write(says)
        else:
            upstream, to_server = await asyncio.open_connection(HOST, port)
            await asyncio.gather(_pump(reader, to_server), _pump(upstream, writer))
        await _hang_up(writer)

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*visitors)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    await _hang_up(writer)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


def order_bot(port: int) -> Bot:
    """The order bot, whose credentials name ``port``. It pins the key of the shipping bot."""
    pins = {"shipping": frozenset([KEYS["shipping"].public.raw])}
    servers = (f"nats://{HOST}:{port}",)
    return Bot(Credentials("shop", "order", KEYS["order"], servers, BUS_KEYS, pins))


@asynccontextmanager
async def tapped(port: int) -> AsyncIterator[Line]:
    """The order bot on the bus at ``port``, by way of the wiretap."""
    tap = Wiretap(HOST, port, "order")
    line = Line(tap, order_bot(await tap.listen()))

    async def handle(message: Message) -> None:
        line.handled.append(message.nonce.hex())

    line.bot.subscribe("orders.shipped", start="new")(handle)
    async with line.bot:
        await until(
            lambda: any(subject.endswith(".pull") for subject in tap.session.subscriptions),
            "it pulls",
        )
        yield line
    await tap.close()


@contextmanager
def overheard(*beginnings: str) -> Iterator[list[str]]:
    """Collect the first argument of the log lines whose format begins in one of these ways."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if str(record.msg).startswith(beginnings) and isinstance(record.args, tuple):
                said.append(str(record.args[0]))

    ear = Ear()
    log = logging.getLogger("sealbus")
    log.addHandler(ear)
    try:
        yield said
    finally:
        log.removeHandler(ear)
