"""Disturb background tasks.

An operation that a task waits for fails, as if our own code had a bug there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

NUMBERED = re.compile(r"Task-\d+")


class Foreign(BaseException):
    """A kind of error that no code expects."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "a mistake": lambda: ValueError("a payload's value"),
    "foreign": lambda: Foreign("a payload's value"),
    "cancelled": asyncio.CancelledError,
}


def name_of(task: asyncio.Task[Any]) -> str:
    """The name that the starter gave to a task, or the name of its code. nats-py gives no names."""
    name = task.get_name()
    return getattr(task.get_coro(), "__qualname__", name) if NUMBERED.fullmatch(name) else name


def disturbable(others: set[asyncio.Task[Any]]) -> dict[str, asyncio.Task[Any]]:
    """The tasks of this event loop that wait for something, by name, without ``others``.

    A task that waits for another task is left out, because the other one is in the result too.
    """
    found = {}
    for task in asyncio.all_tasks() - others:
        waits_for = getattr(task, "_fut_waiter", None)
        if (
            waits_for is not None
            and not isinstance(waits_for, asyncio.Task)
            and not waits_for.done()
        ):
            found[name_of(task)] = task
    return found


def forgotten(complaints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """asyncio's complaints, without those about the tasks that :func:`disturb` has ended."""
    return [
        one for one in complaints if not isinstance(one.get("exception"), asyncio.InvalidStateError)
    ]


def disturb(task: asyncio.Task[Any], error: BaseException) -> None:
    """Let the operation that ``task`` waits for end in ``error``.

    A cancellation that nobody requested looks the same.
    """
    # There is no other way into a running task.
    waits_for = task._fut_waiter  # type: ignore[attr-defined]
    if isinstance(error, asyncio.CancelledError):
        waits_for.cancel()
    else:
        waits_for.set_exception(error)
