"""Prints every greeting until Ctrl-C, also those that came while it was away.

Run it in a folder that ``sealbus init`` made, while ``sealbus up`` runs::

    python subscribe.py
"""

import asyncio

from sealbus import Bot, Message

bot = Bot.from_file("credentials/listener.toml")


@bot.subscribe("greetings.sent")
async def greet(message: Message) -> None:
    print(message.bot, "says", message.payload["text"], flush=True)


asyncio.run(bot.run())
