"""Publishes one greeting and prints the relay's verdict.

Run it in a folder that ``sealbus init`` made, while ``sealbus up`` runs::

    python publish.py "good morning"
"""

import asyncio
import sys

from sealbus import Bot, Refused


async def main(text: str) -> None:
    async with Bot.from_file("credentials/greeter.toml") as bot:
        try:
            stamp = await bot.publish("greetings.sent", {"text": text})
        except Refused as refused:
            print("refused:", refused.reason)
        else:
            print(stamp.verdict)


asyncio.run(main(sys.argv[1]))
