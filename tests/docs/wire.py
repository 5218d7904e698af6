"""A small NATS client that remembers every line, for the transcript in docs/protocol.md."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from sealbus import Credentials
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.seal import sign_connect
from tests.waiting import PATIENCE_S


def steady(headers: str) -> tuple[str, int]:
    """Headers without their variable parts.

    Also the bytes that the real ones have more than these.
    """
    saved = 0
    for header, shown, usual in (
        ("Nats-Time-Stamp", "<time>", 30),
        ("Nats-Sequence", "<sequence>", 1),
    ):
        if found := re.search(rf"{header}: (\S+)", headers):
            saved += len(found[1]) - usual
            headers = headers.replace(found[0], f"{header}: {shown}")
    return headers, saved


@dataclass(slots=True)
class Frame:
    """A message: the fields of its line, its headers, its body."""

    fields: list[str]
    headers: bytes
    body: bytes


@dataclass(slots=True)
class Wire:
    """One connection. ``told`` has all lines of both sides, each with ``C:`` or ``S:`` in front."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    told: list[str] = field(default_factory=list)

    @classmethod
    async def login(cls, credentials: Credentials, *consumers: str) -> Wire:
        """Connect as section 9 describes."""
        host, port = credentials.servers[0].removeprefix("nats://").split(":")
        wire = cls(*await asyncio.open_connection(host, int(port)))
        info = json.loads((await wire.line()).removeprefix("INFO "))
        shown = {
            name: info[name]
            for name in ("version", "proto", "headers", "max_payload", "auth_required", "nonce")
        }
        wire.told.append("S: INFO " + json.dumps({**shown, "nonce": "<challenge>"})[:-1] + ", …}")
        key = credentials.new_session_key(time.time_ns() // 1_000_000)
        said = AdmissionText.of(key, credentials.bot, consumers)
        admission = said.encode()
        signature = sign_connect(key.key, info["nonce"].encode(), admission.encode())
        options: dict[str, Any] = {
            "verbose": False,
            "headers": True,
            "name": said.client_name,
            "auth_token": admission,
        }
        signed = {**options, "sig": base64.b64encode(signature).decode()}
        wire.write(f"CONNECT {json.dumps(signed)}\r\n".encode())
        told = admission.replace(said.key, "U…").replace(said.certificate, "<certificate>")
        name = f"{said.bot} U… U… <not-before> <life>"
        shown = {**options, "name": name, "auth_token": told, "sig": "<signature>"}
        wire.told.append(f"C: CONNECT {json.dumps(shown, ensure_ascii=False)}")
        await wire.ping()
        return wire

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def say(self, line: str, body: bytes | None = None, what: str = "") -> None:
        """Send a line and its body. The transcript shows the body as ``what``."""
        self.write(line.encode() + b"\r\n" + (b"" if body is None else body + b"\r\n"))
        self.told.append(f"C: {line}")
        if body is not None:
            self.told.append(f"   {what or body.decode()}")

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.reader.readline()).decode().removesuffix("\r\n")

    async def ping(self) -> None:
        """Wait until the server has read everything."""
        self.say("PING")
        while (line := await self._answer()) != "PONG":
            self.told.append(f"S: {line}")
        self.told.append("S: PONG")

    async def _answer(self) -> str:
        """The next line that is not a ping of the server."""
        while (line := await self.line()) == "PING":
            self.write(b"PONG\r\n")
        return line

    async def message(self) -> Frame:
        """The next message."""
        line = await self._answer()
        kind, *fields = line.split(" ")
        assert kind in ("MSG", "HMSG"), line
        async with asyncio.timeout(PATIENCE_S):
            data = (await self.reader.readexactly(int(fields[-1]) + 2))[:-2]
        headed = int(fields[-2]) if kind == "HMSG" else 0
        return Frame(line.split(" "), data[:headed], data[headed:])

    def heard(self, frame: Frame, what: str) -> None:
        """Record a message that came, with its body shown as ``what``."""
        headers, saved = steady(frame.headers.decode())
        sizes = (
            [str(int(size) - saved) for size in frame.fields[-2:]] if saved else frame.fields[-2:]
        )
        self.told.append("S: " + " ".join([*frame.fields[:-2], *sizes]))
        self.told += [f"   {header}" for header in headers.split("\r\n")[:-2]]
        if frame.headers:
            self.told.append("")
        if frame.body or not frame.headers:
            self.told.append(f"   {what}")

    def close(self) -> None:
        self.writer.close()
