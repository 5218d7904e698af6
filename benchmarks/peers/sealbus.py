"""Sealbus itself, with its public client: durable publishes with receipts, live requests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.peer import Order
from benchmarks.workload import reply
from sealbus import Bot, Message

if TYPE_CHECKING:
    from benchmarks.bus import Bus


class SealbusSender:
    """Bots ``s0``, ``s1`` …"""

    alone: ClassVar[bool] = False
    """Whether each message has an envelope of its own."""

    def __init__(self) -> None:
        self._bots: list[Bot] = []
        self._stack = AsyncExitStack()

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect."""
        for pair in range(pairs):
            bot = Bot.from_file(setup["credentials"].format(bot=f"s{pair}"))
            self._bots.append(await self._stack.enter_async_context(bot))

    async def send(self, pair: int, order: Order) -> None:
        """Durable. Returns with the relay's receipt."""
        await self._bots[pair].publish(f"orders.p{pair}", order, alone=self.alone)

    async def ask(self, pair: int, order: Order) -> None:
        """Live."""
        answer = await self._bots[pair].request(f"quotes.p{pair}", order)
        assert answer.payload["accepted"]

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()


class SealbusAloneSender(SealbusSender):
    """The same without bursts."""

    alone: ClassVar[bool] = True


class SealbusReceiver:
    """Bots ``r0``, ``r1`` …"""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Connect, with both handlers in place."""

        async def take(_: Message) -> None:
            received()

        async def answer(message: Message) -> Any:
            return reply(message.payload)

        for pair in range(pairs):
            bot = Bot.from_file(setup["credentials"].format(bot=f"r{pair}"))
            bot.subscribe(f"orders.p{pair}")(take)
            bot.reply(f"quotes.p{pair}")(answer)
            await self._stack.enter_async_context(bot)

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()


class Sealbus:
    """The bus of the round."""

    name: ClassVar[str] = "sealbus"
    title: ClassVar[str] = (
        f"Sealbus {version('sealbus')}: sealed envelopes, judged by a relay, stored in JetStream"
    )
    promises: ClassVar[str] = (
        "durable, signed end to end, replay-proof, schema- and grant-checked, receipt"
    )
    can_ask: ClassVar[bool] = True
    depths: ClassVar[tuple[int, ...]] = (256, 1024, 4096)
    sender: ClassVar[type[SealbusSender]] = SealbusSender
    receiver: ClassVar[type[SealbusReceiver]] = SealbusReceiver

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """The bus runs already."""
        del folder, pairs
        return {"credentials": str(self._bus.credentials("{bot}"))}

    def processes(self) -> dict[str, list[int]]:
        """The relay and the server."""
        return {"relay": self._bus.relay_pids, "nats-server": [self._bus.server_pid]}

    async def stop(self) -> None:
        """The bus goes on, because other peers use it."""


class SealbusTls(Sealbus):
    """A bus of its own, with mutual TLS, as HTTPS has it too."""

    name: ClassVar[str] = "sealbus-tls"
    title: ClassVar[str] = f"Sealbus {version('sealbus')}, over mutual TLS 1.3"
    promises: ClassVar[str] = f"{Sealbus.promises}, encrypted on the wire"

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Start the bus."""
        from benchmarks.bus import Bus, pairs_plan  # a sender or a receiver starts none

        bus = Bus(folder / "bus", pairs_plan(pairs), tls=True)
        self._bus = await self._stack.enter_async_context(bus)
        return {"credentials": str(bus.credentials("{bot}"))}

    async def stop(self) -> None:
        """End the bus."""
        await self._stack.aclose()


class SealbusAlone(Sealbus):
    """The same bus, with bursts switched off."""

    name: ClassVar[str] = "sealbus-alone"
    title: ClassVar[str] = f"Sealbus {version('sealbus')}, each message in an envelope of its own"
    can_ask: ClassVar[bool] = False
    depths: ClassVar[tuple[int, ...]] = (64, 256, 1024)
    sender: ClassVar[type[SealbusSender]] = SealbusAloneSender
