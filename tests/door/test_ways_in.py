"""A nats-server that listens for WebSocket too. A bot's login by that way opens nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.seal import sign_connect
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.server import process
from tests.ports import free_port
from tests.scene import Scene, raise_curtain
from tests.scene_fixtures import render_patiently
from tests.waiting import PATIENCE_S


class WebSocket:
    """NATS's protocol in WebSocket frames (RFC 6455), as far as one login needs them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = b""

    @classmethod
    async def open(cls, port: int) -> WebSocket:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return cls(reader, writer)

    def send(self, data: bytes) -> None:
        """Send one frame. A mask of zeros leaves the bytes as they are."""
        self._writer.write(struct.pack("!BBH4x", 0x82, 0x80 | 126, len(data)) + data)

    async def line(self) -> bytes:
        """The next line of the server. A login needs no frame of 64 KiB."""
        while b"\r\n" not in self._unread:
            _, size = await self._reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            self._unread += await self._reader.readexactly(size)
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def web_port() -> int:
    return free_port()


@pytest.fixture
async def open_scene(
    tmp_path: Path, web_port: int, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    """A nats-server that listens for WebSocket too."""

    def with_websocket(config: NatsConfig) -> str:
        listener = f'websocket {{ listen: "127.0.0.1:{web_port}", no_tls: true }}\n'
        return render_patiently(config) + listener

    monkeypatch.setattr(process, "render", with_websocket)
    scene = await raise_curtain(tmp_path)
    yield scene
    await scene.close()


async def test_login_by_websocket_is_denied(open_scene: Scene, web_port: int) -> None:
    key = open_scene.keys["order"]
    admission = AdmissionText("order", key.public.text, ()).encode()
    async with asyncio.timeout(PATIENCE_S):
        socket = await WebSocket.open(web_port)
        info = json.loads((await socket.line()).removeprefix(b"INFO "))
        signature = sign_connect(key, info["nonce"].encode(), admission.encode())
        options: dict[str, Any] = {
            "auth_token": admission,
            "sig": base64.b64encode(signature).decode(),
            "verbose": False,
        }
        with capture_logs() as logs:
            socket.send(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
            assert await socket.line() == b"-ERR 'Authorization Violation'"
        socket.close()
    (why,) = [entry["why"] for entry in logs]
    assert why == "the login came by Client/websocket, and bots come by Client/nats alone"
    # The control: the same credentials by the plain way.
    assert (await open_scene.bot("order")).nc.is_connected
