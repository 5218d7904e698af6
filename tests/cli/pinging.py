"""Pings of a bus that works, on a machine that may be busy."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable

from tests.cli.command import Ran
from tests.waiting import PATIENCE_S, until


def succeeded(ran: Ran) -> bool:
    """Whether the ping found no error."""
    return ran.code == 0


def is_ok(ran: Ran) -> bool:
    """Whether the ping, which was told ``--json``, found no error and no warning either."""
    found = json.loads(ran.out)
    return (ran.code, found["health"], found["problems"]) == (0, "ok", [])


def pinged(ping: Callable[[], Ran], holds: Callable[[Ran], bool] = succeeded) -> Ran:
    """The first ping that ``holds``. Fails with the last one after :data:`PATIENCE_S`.

    A ping waits some seconds for each answer. On a busy machine, an answer may come later.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not holds(ran := ping()):
        assert time.monotonic() < deadline, f"{ran.out}\n{ran.err}"
    return ran


async def pinged_beside(
    ping: Callable[[], Awaitable[Ran]], holds: Callable[[Ran], bool] = succeeded
) -> Ran:
    """The same, beside the event loop of this process."""
    last: Ran

    async def found() -> bool:
        nonlocal last
        last = await ping()
        return holds(last)

    await until(found, lambda: f"{last.out}\n{last.err}")
    return last
