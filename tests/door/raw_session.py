"""A connection to nats-server without a client library, which could hide what the server says."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.seal import sign_connect
from tests.scene import Scene
from tests.waiting import PATIENCE_S

Refusal = tuple[str, str, str]
"""``Publish`` or ``Subscription``, the subject, and the queue group or an empty text."""

_REFUSED: Final = re.compile(
    r"-ERR 'Permissions Violation for (Publish|Subscription) to \"([^\"]*)\""
    r"(?: using queue \"([^\"]*)\")?'"
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came to the session."""

    subject: str
    sid: int
    body: str


@dataclass(slots=True)
class RawSession:
    """One session, and all that nats-server has said to it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    refusals: list[Refusal] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)

    def send(self, *frames: str) -> None:
        """Send ``frames``."""
        self.writer.write("".join(f"{frame}\r\n" for frame in frames).encode())

    async def ask(self, *frames: str) -> None:
        """Send ``frames``, and read until the server has answered the PING behind them."""
        self.send(*frames, "PING")
        async with asyncio.timeout(PATIENCE_S):
            while (line := await self._line()) != "PONG":
                verb, *words = line.split(" ")
                if verb in ("MSG", "HMSG"):
                    body = await self.reader.readexactly(int(words[-1]) + 2)
                    self.arrivals.append(Arrival(words[0], int(words[1]), body[:-2].decode()))
                elif found := _REFUSED.fullmatch(line):
                    self.refusals.append((found[1], found[2], found[3] or ""))
                elif verb == "PING":
                    self.send("PONG")
                else:
                    assert verb == "INFO", line

    async def _line(self) -> str:
        return (await self.reader.readuntil(b"\r\n"))[:-2].decode()

    def close(self) -> None:
        """End the connection."""
        self.writer.close()


def sub(subject: str, sid: int, queue: str = "") -> str:
    """The frame that subscribes."""
    return f"SUB {subject} {queue} {sid}" if queue else f"SUB {subject} {sid}"


def pub(subject: str, body: str, reply: str = "") -> str:
    """The frame that publishes ``body``, which is ASCII."""
    return f"PUB {subject} {reply} {len(body)}\r\n{body}"


async def open_bot(
    scene: Scene, name: str, consumers: tuple[str, ...], tls: ssl.SSLContext | None
) -> RawSession:
    """Log in as a bot."""
    key = scene.keys[name]
    said = AdmissionText(name, key.public.text, consumers)
    text = said.encode()

    def login(challenge: bytes) -> dict[str, Any]:
        signature = sign_connect(key, challenge, text.encode())
        sig = base64.b64encode(signature).decode()
        return {"auth_token": text, "sig": sig, "name": said.client_name}

    return await _open(scene, login, tls)


async def open_relay(scene: Scene, tls: ssl.SSLContext | None) -> RawSession:
    """Log in as a relay."""
    key: SigningKey = scene.secrets.relay

    def login(challenge: bytes) -> dict[str, Any]:
        signature = base64.b64encode(key.sign(challenge)).decode()
        return {"nkey": key.public.text, "sig": signature}

    return await _open(scene, login, tls)


async def _open(
    scene: Scene, login: Callable[[bytes], dict[str, Any]], tls: ssl.SSLContext | None
) -> RawSession:
    address = urlsplit(scene.url)
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        session = RawSession(reader, writer)
        info = json.loads((await session._line()).removeprefix("INFO "))
        assert bool(info.get("tls_required")) is bool(tls)
        if tls:
            await writer.start_tls(tls, server_hostname=address.hostname)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    # Not pedantic, so the server takes a wildcard in a publish literally.
    options = {"verbose": False, "pedantic": False, "headers": True}
    options |= login(info["nonce"].encode())
    await session.ask(f"CONNECT {json.dumps(options)}")
    return session
