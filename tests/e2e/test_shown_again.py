"""Somebody on the wire shows a restarted subscriber a stored message again.

The bus cannot notice that, but the handler that docs/bots.md shows can.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealbus import Bot, Message
from tests.e2e.shop import ROOT, Shop, order
from tests.listening import listening
from tests.waiting import until

_DELIVERY = re.compile(rb"HMSG accepted\.\S+ (\d+) (\S+) (\d+) (\d+)\r\n")
_PULL = re.compile(rb"SUB inbox\.\S+\.pull +(\d+)\r\n")


class Wire:
    """A connection to the bus on which somebody keeps the first stored message.

    Later, that somebody can send it again to the subscriber of that time.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = ""
        self._kept: tuple[re.Match[bytes], bytes] | None = None
        self._listener: tuple[asyncio.StreamWriter, bytes] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listener = None
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        answering = asyncio.create_task(self._answer(back, writer))
        try:
            while data := await reader.read(65536):
                if (found := _PULL.search(data)) is not None:
                    self._listener = writer, found[1]
                forth.write(data)
        finally:
            answering.cancel()
            forth.close()
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while data := await reader.read(65536):
            writer.write(data)
            if self._kept is None:
                seen += data
                found = _DELIVERY.search(seen)
                if found is not None and len(seen) >= (end := found.end() + int(found[4]) + 2):
                    self._kept = found, seen[found.end() : end]

    async def say_again(self) -> None:
        """Send the kept message to the present subscription, as nats-server would."""
        assert self._kept is not None
        await until(lambda: self._listener is not None)
        assert self._listener is not None
        found, body = self._kept
        writer, listener = self._listener
        head = found[0].replace(b" %s " % found[1], b" %s " % listener, 1)
        writer.write(head + body)


@asynccontextmanager
async def wire_to(shop: Shop) -> AsyncIterator[Wire]:
    made = Wire(shop.port)
    async with listening(made.serve) as port:
        made.url = f"nats://127.0.0.1:{port}"
        yield made


def documented() -> tuple[Callable[[Message], Any], sqlite3.Connection]:
    """The handler that docs/bots.md shows, and its database."""
    section = (ROOT / "docs/bots.md").read_text().split("## Handled once")[1]
    text = section.split("```python\n")[1].split("```")[0]
    bot = SimpleNamespace(subscribe=lambda _: lambda handler: handler)
    names: dict[str, Any] = {"bot": bot, "Message": Message}
    exec(compile(text, "docs/bots.md", "exec"), names)  # noqa: S102  # the document's own example
    return names["reserve"], names["shop"]


async def test_the_documented_handler_acts_once(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handled: list[bytes] = []
    async with shop.bot("order") as sender, wire_to(shop) as wire:

        async def listen(again: bool) -> int:
            """Listen until the message is handled once more. Returns the number of reservations."""
            bot = Bot(replace(shop.credentials("inventory"), servers=(wire.url,)))
            keep, database = documented()
            before = len(handled)

            @bot.subscribe("orders.placed", start="all", durable="plain")
            async def count(message: Message) -> None:
                handled.append(message.nonce)
                await keep(message)

            async with bot:
                if again:
                    await wire.say_again()
                await until(lambda: len(handled) > before)
            (reserved,) = database.execute("SELECT count(*) FROM reserved").fetchone()
            database.close()
            return int(reserved)

        await sender.publish("orders.placed", order(1))
        assert await listen(again=False) == 1
        assert await listen(again=True) == 1
    assert len(handled) == 2
    assert len(set(handled)) == 1
