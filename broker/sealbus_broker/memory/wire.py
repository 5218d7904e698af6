"""NATS's client protocol from the server's side: bytes to commands, and answers to bytes. Pure.

Subjects are text in Latin-1 here, so that any bytes of a client come through unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sealbus.protocol.value import value

MAX_CONTROL_LINE: Final = 16 * 1024
"""As the bus configures nats-server: ``max_control_line``."""

_BLANK: Final = re.compile(rb"[ \t]+")


class ProtocolViolation(Exception):
    """The client broke the protocol: it is told ``str(error)``, and the connection ends."""


class Message(NamedTuple):
    """A message on its way through the server."""

    subject: str
    reply: str = ""
    headers: bytes = b""
    """The whole block with its closing empty line, or nothing."""
    data: bytes = b""


@value
class Connect:
    """The client's first line."""

    options: Mapping[str, Any]


@value
class Subscribe:
    """The client wants messages on a subject."""

    subject: str
    queue: str
    sid: str


@value
class Unsubscribe:
    """The client wants no more. ``most``: after so many messages in all; 0: at once."""

    sid: str
    most: int


class Ping:
    """The client asks for a PONG."""


class Pong:
    """The client answers a PING."""


Command = Connect | Message | Subscribe | Unsubscribe | Ping | Pong


@dataclass(slots=True)
class Reader:
    """Cuts a client's bytes into commands."""

    max_payload: int
    _buffer: bytearray

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add bytes of the client."""
        self._buffer += data

    def next(self) -> Command | None:
        """The next whole command, or ``None``. Raises :class:`ProtocolViolation`."""
        while True:
            end = self._buffer.find(b"\r\n")
            if end > MAX_CONTROL_LINE or (end < 0 and len(self._buffer) > MAX_CONTROL_LINE):
                raise ProtocolViolation("maximum control line exceeded")
            if end < 0:
                return None
            line = bytes(self._buffer[:end])
            if not line.strip():
                del self._buffer[: end + 2]
                continue
            word, *fields = _BLANK.split(line.strip())
            if word.upper() in (b"PUB", b"HPUB"):
                return self._publish(word.upper() == b"HPUB", fields, end + 2)
            del self._buffer[: end + 2]
            return _command(word.upper(), fields, line)

    def _publish(self, has_headers: bool, fields: list[bytes], start: int) -> Message | None:
        sizes = 2 if has_headers else 1
        are_sizes = all(size.isdigit() for size in fields[-sizes:])
        if len(fields) not in (1 + sizes, 2 + sizes) or not are_sizes:
            raise ProtocolViolation("Parser Error")
        subject, *reply = fields[:-sizes]
        whole = int(fields[-1])
        block = int(fields[-2]) if has_headers else 0
        if whole > self.max_payload:
            raise ProtocolViolation("Maximum Payload Violation")
        if block > whole:
            raise ProtocolViolation("Parser Error")
        end = start + whole
        if len(self._buffer) < end + 2:
            return None
        if self._buffer[end : end + 2] != b"\r\n":
            raise ProtocolViolation("Parser Error")
        content = bytes(self._buffer[start:end])
        del self._buffer[: end + 2]
        place = reply[0].decode("latin-1") if reply else ""
        return Message(subject.decode("latin-1"), place, content[:block], content[block:])


def _command(word: bytes, fields: list[bytes], line: bytes) -> Command:
    texts = [field.decode("latin-1") for field in fields]
    if word == b"PING":
        return Ping()
    if word == b"PONG":
        return Pong()
    if word == b"SUB" and len(texts) in (2, 3):
        return Subscribe(texts[0], texts[1] if len(texts) == 3 else "", texts[-1])
    if word == b"UNSUB" and len(texts) in (1, 2):
        return Unsubscribe(texts[0], int(texts[1]) if len(texts) == 2 and texts[1].isdigit() else 0)
    if word == b"CONNECT":
        try:
            options = json.loads(line.strip()[len(word) :])
        except ValueError:
            options = None
        if isinstance(options, dict):
            return Connect(options)
    raise ProtocolViolation("Unknown Protocol Operation")


def msg(message: Message, sid: str) -> bytes:
    """One delivery to the subscription ``sid``."""
    place = f"{message.subject} {sid}" + (f" {message.reply}" if message.reply else "")
    if not message.headers:
        return f"MSG {place} {len(message.data)}\r\n".encode("latin-1") + message.data + b"\r\n"
    block = len(message.headers)
    line = f"HMSG {place} {block} {block + len(message.data)}\r\n".encode("latin-1")
    return line + message.headers + message.data + b"\r\n"


def info(fields: Mapping[str, Any]) -> bytes:
    """The server's greeting."""
    return b"INFO " + json.dumps(fields).encode() + b"\r\n"


def err(text: str) -> bytes:
    """A complaint."""
    return f"-ERR '{text}'\r\n".encode("latin-1", "replace")
