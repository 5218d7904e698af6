"""One bot asks for the time, and another bot answers.

Run it in a folder that ``sealbus init`` made, while ``sealbus up`` runs::

    python request_reply.py
"""

import asyncio
from datetime import UTC, datetime

from sealbus import Bot, Message

clock = Bot.from_file("credentials/clock.toml")
asker = Bot.from_file("credentials/listener.toml")


@clock.reply("clock.ask")
async def tell(message: Message) -> dict[str, datetime]:
    print(message.bot, "asks for the time")
    return {"time": datetime.now(UTC)}


async def main() -> None:
    async with clock, asker:
        answer = await asker.request("clock.ask", {"zone": "UTC"})
    print(answer.bot, "says", answer.payload["time"])


asyncio.run(main())
