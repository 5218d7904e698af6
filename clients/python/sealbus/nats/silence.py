"""Whether the server at the other end of a connection is still there.

A network that is cut, a machine without power and a process that was stopped say nothing, so a
connection to them looks like one on which nothing happens. This is a *half-open* connection. The
only sign is silence after a question.

How it works. :func:`watch` asks every :data:`PING_S` (``PING``), and counts the questions in a row
after which *nothing at all* was read. After :data:`MOST_SILENT` of them it returns, and the
connection is to be cut. So a server that vanishes is noticed after three to four seconds. Every
byte counts as an answer, because on a busy connection the ``PONG`` may wait behind megabytes.

*A blocked event loop is no silence.* While a handler blocks the loop, answers wait in the kernel.
They are read before the silence is judged, and a pause of any length counts as one question.

The loop ends with its connection. The next connection has another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from nats.errors import StaleConnectionError

PING_S: Final = 1.0
"""How often the server is asked. A question and its answer have 12 bytes, and take a bot about
0.1 ms. nats-server asks about as often, and need not where it was asked itself."""

MOST_SILENT: Final = 3
"""How many questions in a row may stay unanswered. Two would end the connections to a server that
a busy machine gives no turn for two seconds. With four, a loss would be noticed after five
seconds at the latest, and a login would have no time left."""

_TURNS: Final = 4
"""How many turns of the event loop bytes of the kernel take to be counted as read: the socket, with
TLS another one, the reading task, and this one."""


class Silent(StaleConnectionError):
    """The server did not answer for too long."""

    def __str__(self) -> str:
        return f"the server has not answered for {MOST_SILENT * PING_S:g} s"


async def watch(ask: Callable[[], object], read: Callable[[], int]) -> None:
    """Ask for ever; return when the server has been silent for too long.

    Args:
        ask: Sends one question.
        read: How often something was read so far.
    """
    await asyncio.sleep(PING_S)  # the login was answered just now
    silent = 0
    while silent < MOST_SILENT:
        before = read()
        ask()
        await asyncio.sleep(PING_S)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        silent = silent + 1 if read() == before else 0
