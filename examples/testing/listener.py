"""A bot that a test can make: it takes its credentials, and the place for what it hears."""

import asyncio

from sealbus import Bot, Credentials, Message


def make_listener(credentials: Credentials, heard: asyncio.Queue[str]) -> Bot:
    bot = Bot(credentials)

    @bot.subscribe("greetings.sent")
    async def greet(message: Message) -> None:
        await heard.put(message.payload["text"])

    return bot
