"""Many real bots in one process, each publishing now and then.

``python -m benchmarks.sessions FOLDER FIRST COUNT SUBJECTS`` connects the bots ``b<FIRST>``… of a
:class:`benchmarks.crowd.Crowd`. It says ``ready``, publishes until its stdin ends, and then says
how many messages were accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks.crowd import Crowd
from benchmarks.workload import order
from sealbus import Bot

AT_ONCE: Final = 8
"""Bots that connect at the same time. nats-server gives the relay two seconds to admit one."""

EVERY_S: Final = 10.0
"""The time between two messages of a bot."""

FILES: Final = 8192
"""The wanted number of open files: as many as the server accepts connections."""


def raise_file_limit() -> None:
    """Allow as many open files as are wanted, or as many as possible. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def run(folder: Path, numbers: range, crowd: Crowd) -> None:
    """Run the bots ``numbers``, as the module says."""
    routes = crowd.routes()
    accepted = 0
    turns = asyncio.Semaphore(AT_ONCE)

    async def connect(number: int) -> Bot:
        async with turns:
            return await stack.enter_async_context(
                Bot.from_file(folder / f"{routes[number].bot}.toml")
            )

    async def publish(bot: Bot, number: int) -> None:
        nonlocal accepted
        await asyncio.sleep(EVERY_S * (number - numbers[0]) / len(numbers))
        while True:
            await bot.publish(routes[number].subject, order(number, 1024))
            accepted += 1
            await asyncio.sleep(EVERY_S)

    async with AsyncExitStack() as stack:
        bots = await asyncio.gather(*(connect(number) for number in numbers))
        print("ready", flush=True)
        publishing = [
            asyncio.create_task(publish(bot, number))
            for bot, number in zip(bots, numbers, strict=True)
        ]
        await asyncio.to_thread(sys.stdin.read)
        failed = [task.exception() for task in publishing if task.done()]
        for task in publishing:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*publishing, return_exceptions=True)
        print(f"failed: {failed[0]}" if failed else accepted, flush=True)


def main() -> None:
    """The process."""
    first, count, subjects = (int(text) for text in sys.argv[2:5])
    raise_file_limit()
    asyncio.run(
        run(
            Path(sys.argv[1]),
            range(first, first + count),
            Crowd(first + count, subjects, first + count),
        )
    )


if __name__ == "__main__":
    main()
