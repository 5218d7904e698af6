"""Frames of the NATS protocol, as an observer on the connection sees them.

There is no signature and no secret in them: they are plain text.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any

from sealbus.errors import Malformed
from sealbus.protocol.admission import AdmissionText

_PAYLOAD = {b"PUB": 1, b"MSG": 1, b"HPUB": 2, b"HMSG": 2}
"""How many sizes are at the end of the line of a frame with a payload."""

_PIECE = 65_536
"""The bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was sent."""

    verb: bytes
    words: tuple[bytes, ...]
    """The words after the verb, including the sizes."""
    payload: bytes
    """The payload, without headers."""
    raw: bytes

    @property
    def subject(self) -> str:
        """The subject of the frame."""
        return self.words[0].decode("utf-8", "replace") if self.words else ""


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes."""
        self._rest += data
        frames = []
        while (end := self._rest.find(b"\r\n")) >= 0:
            verb, *words = self._rest[:end].split(b" ")
            size, headers = 0, 0
            if verb in _PAYLOAD:
                size = int(words[-1])
                headers = int(words[-2]) if _PAYLOAD[verb] == 2 else 0
            total = end + 2 + (size + 2 if verb in _PAYLOAD else 0)
            if len(self._rest) < total:
                break
            raw, self._rest = self._rest[:total], self._rest[total:]
            payload = raw[end + 2 + headers : end + 2 + size]
            frames.append(Frame(verb, tuple(words), payload, raw))
        return frames


def pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    """A publish."""
    return (
        f"PUB {subject} {reply + ' ' if reply else ''}{len(payload)}\r\n".encode()
        + payload
        + b"\r\n"
    )


def hpub(subject: str, headers: bytes, payload: bytes) -> bytes:
    """A publish with a header block, valid or not."""
    return (
        f"HPUB {subject} {len(headers)} {len(headers) + len(payload)}\r\n".encode()
        + headers
        + payload
        + b"\r\n"
    )


def msg(subject: str, sid: bytes, payload: bytes, reply: str = "") -> bytes:
    """A delivery, as the server would write it."""
    middle = f" {reply}" if reply else ""
    return (
        f"MSG {subject} ".encode()
        + sid
        + f"{middle} {len(payload)}\r\n".encode()
        + payload
        + b"\r\n"
    )


class RawSession:
    """A NATS connection without a client library.

    A library would refuse to send most of the attacker's frames.
    """

    def __init__(self, wire: socket.socket, info: dict[str, Any]) -> None:
        self._wire = wire
        self._frames = FrameReader()
        self.challenge: str = info.get("nonce", "")
        self.errors: list[str] = []
        self.received: list[Frame] = []

    @classmethod
    async def open(cls, host: str, port: int) -> RawSession:
        """Connect, and read the server's greeting with its challenge."""
        wire, loop = socket.socket(), asyncio.get_running_loop()
        wire.setblocking(False)
        try:
            await loop.sock_connect(wire, (host, port))
            greeting = b""
            while not greeting.endswith(b"\r\n"):  # no byte follows it before the login
                if not (chunk := await loop.sock_recv(wire, _PIECE)):
                    raise ConnectionResetError(f"{host}:{port} does not greet")
                greeting += chunk
        except BaseException:
            wire.close()
            raise
        return cls(wire, json.loads(greeting.removeprefix(b"INFO ")))

    async def login(self, token: str | None, signature: str | None) -> bool:
        """Log in. Returns whether the server accepts it."""
        options: dict[str, Any] = {
            "verbose": False,
            "lang": "raw",
            "version": "0",
            "protocol": 1,
            "headers": True,
        }
        options |= {} if token is None else {"auth_token": token, "name": client_name(token)}
        options |= {"sig": signature} if signature is not None else {}
        return await self.say(b"CONNECT " + json.dumps(options).encode() + b"\r\n")

    async def say(self, data: bytes, within_s: float = 5.0) -> bool:
        """Send bytes, wait until the server has processed them, and answer its questions.

        Returns whether the connection is still open. The server ends a connection that leaves some
        of its questions without an answer, and it asks each second.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(within_s):
                # A server that closes the connection has sent a reason. It can be read even though
                # no more can be sent. asyncio's streams would lose it.
                with contextlib.suppress(OSError):
                    await loop.sock_sendall(self._wire, data + b"PING\r\n")
                while chunk := await loop.sock_recv(self._wire, _PIECE):
                    frames = self._frames.feed(chunk)
                    is_done = self._take(frames)
                    if any(frame.verb == b"PING" for frame in frames):
                        with contextlib.suppress(OSError):
                            await loop.sock_sendall(self._wire, b"PONG\r\n")
                    if is_done:
                        return True
        return False

    async def send(self, data: bytes) -> bool:
        """Send bytes as fast as the server reads them. Returns whether the connection is still
        open."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._wire, data)
        except OSError:
            return False
        return True

    def _take(self, frames: list[Frame]) -> bool:
        """Keep the frames that came. Returns whether a PONG is among them.

        Frames after the PONG are kept too, because they do not come again.
        """
        for frame in frames:
            if frame.verb == b"-ERR":
                self.errors.append(b" ".join(frame.words).decode("utf-8", "replace"))
            elif frame.verb in (b"MSG", b"HMSG"):
                self.received.append(frame)
        return any(frame.verb == b"PONG" for frame in frames)

    def stands(self) -> bool:
        """Whether the server still takes bytes. Its own frames are not read."""
        try:
            self._wire.send(b"PING\r\n")
        except BlockingIOError:  # it takes no bytes at present
            return True
        except OSError:
            return False
        return True

    async def close(self) -> None:
        """Close the connection."""
        self._wire.close()


def client_name(token: str) -> str:
    """The name of an honest client with this admission text; of another text, any name."""
    try:
        return AdmissionText.decode(token).client_name
    except Malformed:
        return "raw"
