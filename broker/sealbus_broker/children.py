"""Processes of our own that end by themselves when their standard input is closed."""

from __future__ import annotations

import asyncio
import contextlib


async def end_child(process: asyncio.subprocess.Process, *, within_s: float) -> bool:
    """End a process by closing its standard input, and by force after ``within_s`` seconds.

    Where this is cancelled it is killed at once, so that no process is left that nobody knows.

    Returns:
        Whether it ended by itself.
    """
    if process.returncode is not None:
        return True
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        return False
    finally:
        kill(process)
    return True


def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process, unless it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
