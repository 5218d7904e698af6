"""Many real bots in one process, which tell when each lost its session and was back.

``python -m tests.faults.returning FOLDER COUNT`` connects COUNT sessions with the credentials in
FOLDER, in turn, and says ``ready``. When its standard input ends, it says one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.sessions import AT_ONCE, raise_file_limit
from sealbus import Bot, ConnectionFailed
from sealbus.life import connecting
from sealbus.nats import diagnosis
from tests.faults.yard import say

LATE = "no relay admitted", "said nothing"
"""Words about a login that was not answered in time."""


@asynccontextmanager
async def crowd(folder: Path, count: int) -> AsyncIterator[tuple[list[float], list[float]]]:
    """Connect them; yield when each has lost its session, and was back, by the monotonic clock."""
    files = await asyncio.to_thread(lambda: sorted(folder.glob("*.toml")))
    lost: list[float] = []
    back: list[float] = []
    turns = asyncio.Semaphore(AT_ONCE)
    async with AsyncExitStack() as stack:

        async def connect(number: int) -> None:
            bot = Bot.from_file(files[number % len(files)])
            async with turns:
                await stack.enter_async_context(bot)
            bot.on_lost(lambda: lost.append(time.monotonic()))
            bot.on_connected(lambda: back.append(time.monotonic()))

        await asyncio.gather(*map(connect, range(count)))
        yield lost, back


async def run(folder: Path, count: int) -> None:
    """Run the bots, as the module says."""
    unanswered = 0

    def counting(*arguments: Any, **how: Any) -> ConnectionFailed:
        nonlocal unanswered
        failed = diagnosis.explain(*arguments, **how)
        unanswered += any(words in failed.what for words in LATE)
        return failed

    vars(connecting)["explain"] = counting
    async with crowd(folder, count) as (lost, back):
        say("ready")
        await asyncio.to_thread(sys.stdin.read)
        told = {"lost": list(lost), "back": list(back), "unanswered": unanswered}
        say(json.dumps(told))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # lost connections are intended
    raise_file_limit()
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
