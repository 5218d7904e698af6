"""A connection to nats-server without a client library, which could hide the server's words."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.seal import sign_connect
from sealbus.supervision import end
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


class RawSession:
    """One session, and all that nats-server has said to it.

    It listens all the time, because nats-server ends a session that leaves three of its PINGs
    without an answer. On a busy machine a test is often away for longer.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.refusals: list[Refusal] = []
        self.arrivals: list[Arrival] = []
        self._reader, self._writer = reader, writer
        self._asked: deque[asyncio.Future[None]] = deque()
        """The PINGs that the server has not answered, the oldest first."""
        self._listening = asyncio.create_task(self._listen())

    def send(self, *frames: str) -> None:
        """Send ``frames``."""
        self._writer.write("".join(f"{frame}\r\n" for frame in frames).encode())

    async def ask(self, *frames: str) -> None:
        """Send ``frames``, and wait until the server has answered the PING behind them."""
        answered = asyncio.get_running_loop().create_future()
        self._asked.append(answered)
        self.send(*frames, "PING")
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait((answered, self._listening), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            assert not self._listening.cancelled(), "the session is closed"
            self._listening.result()  # it has failed, and says how

    async def _listen(self) -> NoReturn:
        while True:
            verb, *words = (line := await read_line(self._reader)).split(" ")
            if verb in ("MSG", "HMSG"):
                body = await self._reader.readexactly(int(words[-1]) + 2)
                self.arrivals.append(Arrival(words[0], int(words[1]), body[:-2].decode()))
            elif found := _REFUSED.fullmatch(line):
                self.refusals.append((found[1], found[2], found[3] or ""))
            elif verb == "PING":
                self.send("PONG")
            elif verb == "PONG":
                self._asked.popleft().set_result(None)
            else:
                assert verb == "INFO", line

    async def close(self) -> None:
        """End the connection."""
        await end(self._listening)
        self._writer.close()


async def read_line(reader: asyncio.StreamReader) -> str:
    """The next line of nats-server, without its end."""
    return (await reader.readuntil(b"\r\n"))[:-2].decode()


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
        info = json.loads((await read_line(reader)).removeprefix("INFO "))
        assert bool(info.get("tls_required")) is bool(tls)
        if tls:
            await writer.start_tls(tls, server_hostname=address.hostname)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
    # Not pedantic, so the server takes a wildcard in a publish literally.
    options = {"verbose": False, "pedantic": False, "headers": True}
    options |= login(info["nonce"].encode())
    session = RawSession(reader, writer)
    try:
        await session.ask(f"CONNECT {json.dumps(options)}")
    except BaseException:
        await session.close()
        raise
    return session
