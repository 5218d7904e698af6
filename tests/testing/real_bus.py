"""The calls of :class:`~sealbus.testing.TestBus`, on a real nats-server and a relay's process."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sealbus import Bot, Credentials
from sealbus.own import QUARANTINE_LIST, QUARANTINE_SHOW
from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.policy.scaffold import BOTS, scaffold
from sealbus_broker.testing.kept import Kept, payloads_of
from tests.e2e.shop import Shop

SKEW = "clock_skew: 2s"
"""A relay waits for so long on a new bus; on one machine, whose clocks agree, less will do."""


class _Hello(Shop):
    """The bus that ``sealbus init`` makes."""

    def _make_example(self, folder: Path) -> None:
        scaffold(folder, "hello")
        policy = folder / "policy.yaml"
        text = policy.read_text()
        assert SKEW in text
        policy.write_text(text.replace(SKEW, "clock_skew: 100ms"))
        facts = BusFile("hello", (self.url,), (self.bus.open_secrets().bus.public,))
        for bot in BOTS:
            make_key(self.bus, bot, facts, datetime.now(UTC))


class RealBus:
    """The same calls as the in-memory bus has."""

    def __init__(self, folder: Path) -> None:
        self._shop = _Hello(folder)
        self._bots: list[Bot] = []

    async def __aenter__(self) -> Self:
        await self._shop.__aenter__()
        await self._shop.start_relay()
        return self

    async def __aexit__(self, *_: object) -> None:
        for bot in self._bots:
            await bot.close()
        await self._shop.__aexit__()

    async def bot(self, name: str) -> Bot:
        """A connected bot."""
        bot = Bot(self.credentials(name))
        await self.connect(bot)
        return bot

    async def connect(self, bot: Bot) -> None:
        """Connect a bot."""
        self._bots.append(bot)
        await bot.connect()

    def credentials(self, name: str) -> Credentials:
        """A bot's credentials."""
        return self._shop.credentials(name)

    async def quarantine(self, reason: str | None = None) -> list[Kept]:
        """The messages that the bus keeps, the oldest first."""
        operator = await self.bot("operator")
        wanted = {} if reason is None else {"reason": reason}
        listed = (await operator.request(QUARANTINE_LIST, wanted)).payload["records"]
        return [await self._kept(operator, record) for record in reversed(listed)]

    async def _kept(self, operator: Bot, record: dict[str, object]) -> Kept:
        asked = {"sequence": record["sequence"]}
        shown = (await operator.request(QUARANTINE_SHOW, asked)).payload
        data = base64.b64decode(shown["data"])
        return Kept(
            record=shown["record"]["sequence"],
            reason=shown["record"]["reason"],
            detail=shown["record"]["detail"],
            bot=shown["record"]["session"],
            subject=shown["record"]["subject"],
            payloads=payloads_of(data),
            data=data,
        )
