"""A task in the background of a relay ends in an unexpected way.

The relay goes on, or it ends with an error that names the task.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from sealbus import BackgroundFailed, Bot, SealbusError
from sealbus_broker.nats.streams import PARTITIONS
from tests.disturb import ERRORS, disturb, disturbable, forgotten
from tests.e2e.relay_here import a_relay
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until

AMONG_THEM = (
    {f"partition {partition}" for partition in range(PARTITIONS)}
    | {"live messages", "looking after the bus's health", "the door", "signs of life"}
    | {f"WatchedClient.{loop}" for loop in ("_read_loop", "_flusher", "_ping_interval")}
)
"""Tasks that the test must find. It may find more."""


async def goes_on_or_says_why(
    sender: Bot, running: asyncio.Task[None], number: int
) -> SealbusError | None:
    """Wait until the relay has judged and stored a message, or until it has ended.

    Returns the error with which it ended, or ``None``.
    """
    publishing = asyncio.create_task(
        sender.publish("orders.placed", order(number), timeout=PATIENCE_S)
    )
    await until(lambda: publishing.done() or running.done(), "the relay goes on, or ends")
    if not running.done():
        await publishing
        return None
    publishing.cancel()
    with suppress(SealbusError, asyncio.CancelledError):
        await publishing
    error = running.exception()
    assert isinstance(error, SealbusError), repr(error)
    return error


def is_settled(others: set[asyncio.Task[Any]], running: asyncio.Task[None]) -> bool:
    """Whether all tasks run again, or the relay has ended.

    A relay may still store a message before it ends.
    """
    return running.done() or disturbable(others).keys() >= AMONG_THEM


@pytest.mark.parametrize("kind", ERRORS)
async def test_a_relay_goes_on_or_says_which_task_ended(empty_shop: Shop, kind: str) -> None:
    """The test finds the tasks by itself, so that a new task is tested too."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tried, number, ended = set[str](), 0, True
    sender, others = empty_shop.bot("order"), asyncio.all_tasks()
    with capture_logs() as logs:
        while ended:  # start another relay for the tasks that are left
            ended = False
            async with a_relay(empty_shop) as running:
                if not number:
                    before = asyncio.all_tasks()
                    await sender.connect(PATIENCE_S)
                    others |= asyncio.all_tasks() - before
                not_its = {*others, running}
                while not ended and (left := disturbable(not_its).keys() - tried):
                    name, number = min(left), number + 1
                    tried.add(name)
                    disturb(disturbable(not_its)[name], ERRORS[kind]())
                    error = await goes_on_or_says_why(sender, running, number)
                    assert error is None or isinstance(error, BackgroundFailed), (
                        f"{name}: {error!r}"
                    )
                    await until(
                        partial(is_settled, not_its, running), f"all tasks run again, after {name}"
                    )
                    ended = running.done()
            gc.collect()  # asyncio reports a forgotten exception when its task is deleted
            assert forgotten(complaints) == [], tried
        await sender.close()
    assert tried >= AMONG_THEM
    assert [entry for entry in logs if "a payload's value" in str(entry)] == []
