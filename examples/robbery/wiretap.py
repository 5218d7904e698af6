"""The attacker on the network: a TCP proxy on the order bot's connection to NATS.

It sees every frame. It may hold back or change any of them. It may put its own frames into the
authenticated session, in either direction. It does not have the order bot's signing key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from examples.robbery.frames import Frame, FrameReader
from sealbus.protocol.codec import is_bundle, split_bundle

Change = Callable[[Frame], bytes]


@dataclass(slots=True, eq=False)
class Tapped:
    """One connection under the wiretap."""

    to_server: asyncio.StreamWriter
    to_bot: asyncio.StreamWriter
    login: dict[str, str] = field(default_factory=dict)
    subscriptions: dict[str, bytes] = field(default_factory=dict)
    """Subject to subscription id, as the bot asked for them."""
    errors: list[str] = field(default_factory=list)
    """The server's errors about injected frames. The bot never gets them."""


class Wiretap:
    """Listens on a port of its own, and passes everything on to NATS."""

    def __init__(self, host: str, port: int, bot: str) -> None:
        self._upstream = (host, port)
        self._bot = bot
        self._tapped: Tapped | None = None
        self._server: asyncio.Server | None = None
        self._lines: list[asyncio.Task[None]] = []
        self._change: Change | None = None
        self._waiting: asyncio.Future[Frame] | None = None
        self.said: list[bytes] = []
        """All envelopes of the bot as they passed."""
        self.orders: list[bytes] = []
        """Envelopes of orders as they passed."""
        self.stamps: list[bytes] = []
        """The relay's receipts as they passed: sealed stamps."""
        self.deliveries: list[Frame] = []
        """Stamped shipments as they passed."""

    async def listen(self) -> int:
        """Start; return the port."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Stop listening, and wait until all clients have closed their connections."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*self._lines)

    @property
    def session(self) -> Tapped:
        """The order bot's authenticated session, which the attacker can use."""
        assert self._tapped is not None
        return self._tapped

    def inject(self, data: bytes) -> None:
        """Put frames into the session, as if the bot had sent them."""
        self.session.to_server.write(data)

    def deliver(self, data: bytes) -> None:
        """Put frames into the session, as if the server had sent them."""
        self.session.to_bot.write(data)

    async def next_order(self, change: Change | None = None) -> Frame:
        """Wait for the next order that passes.

        ``change`` returns the frame to pass on in its place.
        """
        self._change = change
        self._waiting = asyncio.get_running_loop().create_future()
        return await self._waiting

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.append(line)
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        tapped = Tapped(to_server=upstream_writer, to_bot=writer)
        self._tapped = tapped
        ways = (
            self._pump(reader, upstream_writer, lambda frame: self._from_bot(tapped, frame)),
            self._pump(upstream_reader, writer, lambda frame: self._from_server(tapped, frame)),
        )
        await asyncio.gather(*ways)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, see: Change
    ) -> None:
        frames = FrameReader()
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                # Only whole frames are passed on, so an injected frame never lands inside another.
                writer.write(b"".join(see(frame) for frame in frames.feed(data)))
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    def _from_bot(self, tapped: Tapped, frame: Frame) -> bytes:
        if frame.verb == b"CONNECT":
            tapped.login = json.loads(b" ".join(frame.words))
        elif frame.verb == b"SUB":
            tapped.subscriptions[frame.subject] = frame.words[-1]
        elif frame.verb == b"PUB" and frame.subject in (f"send.{self._bot}", f"call.{self._bot}"):
            self.said.extend(_apart(frame.payload))
            if frame.subject.startswith("send."):
                return self._see_order(frame)
        return frame.raw

    def _see_order(self, frame: Frame) -> bytes:
        self.orders.extend(_apart(frame.payload))
        waiting, change = self._waiting, self._change
        if waiting is None or waiting.done() or is_bundle(frame.payload):
            return frame.raw
        self._waiting, self._change = None, None
        passed = change(frame) if change else frame.raw
        waiting.set_result(frame)
        return passed

    def _from_server(self, tapped: Tapped, frame: Frame) -> bytes:
        if frame.verb == b"-ERR":
            tapped.errors.append(b" ".join(frame.words).decode("utf-8", "replace"))
            return b""
        if frame.verb == b"MSG" and frame.subject.startswith(f"inbox.{self._bot}."):
            self.stamps.extend(_apart(frame.payload))
        elif frame.verb in (b"MSG", b"HMSG") and frame.subject.startswith("accepted."):
            self.deliveries.append(frame)
        return frame.raw


def _apart(payload: bytes) -> list[bytes]:
    """The items of one frame: one envelope or stamp, or a bundle of several."""
    return split_bundle(payload) if is_bundle(payload) else [payload]
