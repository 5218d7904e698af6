"""Waiting that a signal or a deadline ends, and waiting that nothing cuts short."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sealbus.supervision import beside, spawn

T = TypeVar("T")


class Interrupted(Exception):
    """An event was set before the work was done. Never leaves the client, nor the
    relay."""


class Overdue(Exception):
    """The deadline passed before the work was done. Likewise."""


async def race(
    work: Coroutine[Any, Any, T],
    *events: asyncio.Event,
    timeout_s: float | None = None,
) -> T:
    """Return the result of ``work``, or raise its error.

    Raises :class:`Interrupted` once one of ``events`` is set, and :class:`Overdue` after
    ``timeout_s``; ``work`` is cancelled then, and over. Work that is done already counts, whatever
    else has come.
    """
    loop = asyncio.get_running_loop()
    deadline = None if timeout_s is None else loop.time() + timeout_s
    async with beside(work, name="work with an end") as (task,):
        # Goes round again where asyncio's timer ran out a little early, or an event was cleared.
        while True:
            left_s = None if deadline is None else deadline - loop.time()
            waits = [spawn(event.wait(), "waiting for an event") for event in events]
            try:
                await asyncio.wait(
                    (task, *waits),
                    timeout=left_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                for wait in waits:
                    # Not waited for: a wait for an event has nothing to end.
                    wait.cancel()
            if task.done():
                result: T = task.result()
                return result
            if any(event.is_set() for event in events):
                raise Interrupted
            if deadline is not None and loop.time() >= deadline:
                raise Overdue


async def before(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, or ``None`` if ``stop`` is set first; ``work`` is then cancelled."""
    try:
        return await race(work, stop)
    except Interrupted:
        return None


async def set_after(event: asyncio.Event, *others: asyncio.Event) -> None:
    """Wait for ``event``, then set ``others``."""
    await event.wait()
    for other in others:
        other.set()


async def undisturbed(work: Coroutine[Any, Any, T], *, name: str) -> T:
    """Return the result of ``work``, or raise its error, when it has ended.

    For work that others depend on, and that takes a bounded time. A cancellation of the caller does
    not reach it, however often it comes. It is raised when the work has ended.
    """
    task = spawn(work, name)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
