"""A bot in a process of its own, for tests that send it signals.

Usage: ``python -m tests.e2e.stoppable SCENE CREDENTIALS [RELAY-PID]``. The bot writes its progress
to stdout.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from sealbus import Bot, Message


def say(what: str) -> None:
    """Tell the test."""
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def handled(bot: Bot) -> Bot:
    """Add a durable handler to the bot, so that ``connect()`` needs a relay."""

    @bot.subscribe("orders.placed", start="all")
    async def take(message: Message) -> None:
        say(f"took {message.payload['order_id']}")

    return bot


async def serve(path: str) -> None:
    """Serve until a signal."""
    bot = handled(Bot.from_file(path))
    bot.on_connected(lambda: say("connected"))
    await bot.run()


async def freeze_the_relay(path: str) -> None:
    """Freeze the relay after it admitted this bot, and before the bot asks for the subscription."""
    relay = int(sys.argv[3])

    class Admitted(Bot):
        async def _attach(self, client: Any) -> None:
            await super()._attach(client)
            os.kill(relay, signal.SIGSTOP)
            say("frozen")

    await handled(Admitted(Bot.from_file(path).credentials)).run()


async def serve_two(path: str) -> None:
    """Run two bots in one event loop."""
    bots = [Bot.from_file(path), Bot.from_file(path)]
    for bot in bots:
        bot.on_connected(lambda: say("connected"))
    await asyncio.gather(*(bot.run() for bot in bots))


async def never_finish(path: str) -> None:
    """Run a bot whose handler never ends, and whose ``close()`` waits an hour for it."""

    class Patient(Bot):
        # As the original has it.
        async def close(self, timeout: float = 3600) -> None:  # noqa: ASYNC109
            say("closing")
            await super().close(timeout)

    bot = Patient.from_file(path)

    @bot.subscribe("orders.placed", start="all")
    async def take(_: Message) -> None:
        say("began")
        await asyncio.Event().wait()

    bot.on_connected(lambda: say("connected"))
    asyncio.get_running_loop().call_soon(say, "running")
    await bot.run()


SCENES: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "serve": serve,
    "freeze": freeze_the_relay,
    "two": serve_two,
    "never-finish": never_finish,
}

if __name__ == "__main__":
    asyncio.run(SCENES[sys.argv[1]](sys.argv[2]))
