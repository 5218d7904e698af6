"""The attacker is on the order bot's network connection, and has taken over the bot scraper."""

from __future__ import annotations

import asyncio
import hashlib
import sys

from examples.robbery.attempts import ATTEMPTS
from examples.robbery.cues import cues, tell
from examples.robbery.thief import Thief
from sealbus import Credentials


async def main(port: str, scraper: str) -> None:
    """Listen on order's line, and try the attacks that the director names."""
    thief = Thief("127.0.0.1", int(port), Credentials.load(scraper))
    tell("listening", port=await thief.tap.listen())
    async for cue in cues():
        if "loot" in cue:
            thief.loot = Credentials.load(cue["loot"])
        sent = await ATTEMPTS[cue["do"]](thief)
        tell("tried", attack=cue["do"], sha256=[hashlib.sha256(body).hexdigest() for body in sent])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
