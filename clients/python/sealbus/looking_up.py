"""The addresses of a host. A name server that does not answer holds up nobody but the caller.

A look-up goes on after its caller has given up, and the next caller for the same host takes its
answer. So one that is slow serves a later attempt, and no attempt adds a thread.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from concurrent.futures import Future
from typing import Any, Final

from sealbus.supervision import start_thread

_UNDER_WAY: Final[dict[tuple[str, int | None], Future[list[str]]]] = {}
"""The look-ups of this process that have no answer yet, by host and port."""

# The threads that look up stay in the parent. Nobody would settle their answers in the child.
os.register_at_fork(after_in_child=_UNDER_WAY.clear)


async def addresses_of(host: str, port: int | None) -> list[str]:
    """The addresses at which ``host`` takes TCP connections, at least one, in the order in which
    they should be tried.

    It has no deadline of its own. Raises :class:`socket.gaierror` if the name leads to no address,
    or if no name server has given an answer.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return await asyncio.wrap_future(_look_up(host, port))
    return [host]


def _look_up(host: str, port: int | None) -> Future[list[str]]:
    """Begin to look ``host`` up, or return the look-up that is under way."""
    key = host, port
    found = _UNDER_WAY.get(key)
    if found is not None:
        return found
    answer: Future[list[str]] = Future()
    # From now on nobody can cancel it: whoever waits may give up, and the look-up goes on.
    answer.set_running_or_notify_cancel()
    _UNDER_WAY[key] = answer

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a label that is empty or too long
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
        del _UNDER_WAY[key]
        answer.set_result(list(dict.fromkeys(_literal(row[4]) for row in rows)))

    def failed(error: BaseException) -> bool:
        del _UNDER_WAY[key]
        answer.set_exception(error)
        return False

    # Not by the event loop, whose threads the end of a process waits for.
    try:
        start_thread("name look-up", look_up, failed)
    except BaseException:
        # Nobody settles it, so that no later caller may wait for it.
        del _UNDER_WAY[key]
        raise
    return answer


def _literal(address: tuple[Any, ...]) -> str:
    """An address as text. A link-local one of IPv6 needs the number of its interface."""
    scope = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{scope}" if scope else f"{address[0]}"
