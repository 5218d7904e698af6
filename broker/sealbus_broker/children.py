"""Processes of our own. Most end by themselves when their standard input is closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Any, Final

BIRTHS: Final = 5
"""How often a process is started at most, where it dies before it runs its program."""

BIRTH_PAUSE_S: Final = 0.1
"""The pause in between."""

_PASSING: Final = frozenset({errno.EPIPE, errno.EAGAIN, errno.ENOMEM})
"""The errors of a start that the next one may not have. Two starts had a broken pipe while a
schedule of faults killed the new process. The others are a system without room for now."""


async def start_child(*command: str, **options: Any) -> asyncio.subprocess.Process:
    """Start a process, again where it died before it ran its program.

    Args:
        command: The program and its arguments.
        options: Those of :func:`asyncio.create_subprocess_exec`.

    Raises:
        OSError: It cannot be started.
    """
    births = 0
    while True:
        births += 1
        try:
            return await asyncio.create_subprocess_exec(*command, **options)
        except OSError as error:
            if error.errno not in _PASSING or births == BIRTHS:
                raise
        await asyncio.sleep(BIRTH_PAUSE_S)


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
