"""Whatever ends a task in the background of a relay: the relay goes on, or ends with a sentence that names it."""

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
"""Tasks that are certain to be there."""


async def goes_on_or_says_why(sender: Bot, running: asyncio.Task[None], number: int) -> SealbusError | None:
    """Wait until the relay has judged and stored a message, or has ended, with the error that is returned."""
    publishing = asyncio.create_task(sender.publish("orders.placed", order(number), timeout=PATIENCE_S))
    await until(lambda: publishing.done() or running.done(), "it goes on, or ends")
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
    """Whether all tasks are there again, or the relay has ended: it may do so after it has worked once more."""
    return running.done() or disturbable(others).keys() >= AMONG_THEM


@pytest.mark.parametrize("kind", ERRORS)
async def test_a_relay_goes_on_or_says_which_task_ended(empty_shop: Shop, kind: str) -> None:
    """The tasks are found here, so that a new one is among them."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tried, number, ended = set[str](), 0, True
    sender, others = empty_shop.bot("order"), asyncio.all_tasks()
    with capture_logs() as logs:
        while ended:  # the next one, for the tasks that are left
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
                    assert error is None or isinstance(error, BackgroundFailed), f"{name}: {error!r}"
                    await until(partial(is_settled, not_its, running), f"all is there again, after {name}")
                    ended = running.done()
            gc.collect()  # a forgotten exception is reported when its task goes
            assert forgotten(complaints) == [], tried
        await sender.close()
    assert tried >= AMONG_THEM
    assert [entry for entry in logs if "a payload's value" in str(entry)] == []
