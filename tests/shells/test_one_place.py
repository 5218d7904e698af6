"""One bot takes the messages of a place by one handler or by one loop: two would share them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sealbus import Bot, InvalidInput, Message
from sealbus.life import session
from sealbus.receiving.messages import Messages
from sealbus.supervision import end
from sealbus.testing import TestBus
from sealbus_broker.policy.scaffold import scaffold
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

PATTERN = "greetings.sent"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[TestBus]:
    scaffold(tmp_path / "hello", "hello")
    async with TestBus(tmp_path / "hello") as bus:
        yield bus


@pytest.fixture
async def listener(bus: TestBus) -> Bot:
    return await bus.bot("listener")


async def handler(_: Message) -> None:
    """Does nothing."""


async def refused(messages: Messages) -> InvalidInput:
    """The error of a block that may not be entered."""
    with pytest.raises(InvalidInput) as error:
        async with messages:
            raise AssertionError("it was entered")
    return error.value


async def iterate(bot: Bot) -> AsyncIterator[Message]:
    """A generator with a block in it, which its caller may abandon."""
    async with bot.messages(PATTERN) as messages:
        async for message in messages:
            yield message


async def test_second_loop_over_a_place_is_refused(listener: Bot) -> None:
    async with listener.messages(PATTERN, durable="d"):
        error = await refused(listener.messages(PATTERN, durable="d"))
        assert error.what == (
            "listener has a loop over messages() for greetings.sent already with durable='d', and "
            "both would share its messages"
        )
        assert error.hint == "end that loop first, or give each a durable name of its own"
        async with listener.messages(PATTERN, durable="another"):
            pass


async def test_two_loops_that_begin_together_do_not_share(listener: Bot) -> None:
    async with AsyncExitStack() as stack:
        outcomes = await asyncio.gather(
            *(stack.enter_async_context(listener.messages(PATTERN)) for _ in range(2)),
            return_exceptions=True,
        )
    assert [type(outcome) for outcome in outcomes] == [Messages, InvalidInput]


async def test_handler_for_the_place_of_a_loop_is_refused(listener: Bot) -> None:
    async with listener.messages(PATTERN):
        with pytest.raises(InvalidInput, match="has a loop over messages"):
            listener.subscribe(PATTERN)(handler)
    listener.subscribe(PATTERN)(handler)
    assert "has a handler" in (await refused(listener.messages(PATTERN))).what


@pytest.mark.parametrize("way", ["end", "break", "error", "cancelled", "abandoned"])
async def test_place_is_free_when_its_loop_has_ended(bus: TestBus, listener: Bot, way: str) -> None:
    greeter = await bus.bot("greeter")
    entered = asyncio.Event()

    async def loop() -> None:
        if way == "abandoned":
            entered.set()
            await anext(iterate(listener))
            return
        async with listener.messages(PATTERN) as messages:
            entered.set()
            if way == "end":
                return
            async for _ in messages:
                if way == "error":
                    raise KeyError("the test's own")
                break

    running = asyncio.create_task(loop())
    await entered.wait()
    if way == "cancelled":
        await end(running)
    elif way != "end":
        while not running.done():
            await greeter.publish(PATTERN, {"text": "hello"})
    await asyncio.wait([running], timeout=PATIENCE_S)
    assert way != "error" or isinstance(running.exception(), KeyError)
    # Python closes an abandoned generator in a task of its own.
    await until(lambda: not listener._listener._taken, "the place is free")
    async with listener.messages(PATTERN):
        pass


async def test_place_is_free_after_an_entry_that_failed(
    bus: TestBus, listener: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def no_answer(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def enter() -> None:
        async with listener.messages(PATTERN):
            raise AssertionError("the relay answered")

    with monkeypatch.context() as patch:
        patch.setattr(listener._listener, "_ask_for_place", no_answer)
        entering = asyncio.create_task(enter())
        await asked.wait()
        await end(entering)
    async with listener.messages(PATTERN):
        pass
    greeter = await bus.bot("greeter")
    for _ in range(2):
        with pytest.raises(Exception, match="does not let greeter subscribe"):
            await greeter.messages(PATTERN).__aenter__()


async def test_ended_loops_make_room_for_other_durable_names(
    listener: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session has room for a number of names. The name used last is still there."""
    most = 3
    monkeypatch.setattr(session, "MAX_CONSUMERS", most)
    for number in range(2 * most):
        async with asyncio.timeout(PATIENCE_S), listener.messages(PATTERN, durable=f"job-{number}"):
            pass
    before = await listener._session.client()
    async with listener.messages(PATTERN, durable=f"job-{2 * most - 1}"):
        assert await listener._session.client() is before, "it costs no other login"


async def test_live_loops_share_nothing_and_all_may_listen(listener: Bot) -> None:
    listener.subscribe(PATTERN, live=True)(handler)
    async with (
        listener.messages(PATTERN, live=True),
        listener.messages(PATTERN, live=True),
        listener.messages(PATTERN),
    ):
        pass


async def test_one_block_is_not_entered_twice_at_once(listener: Bot) -> None:
    for live in (True, False):
        messages = listener.messages(PATTERN, live=live)
        async with messages:
            assert "was entered already" in (await refused(messages)).what
        async with messages:
            pass


async def test_two_tasks_do_not_iterate_over_one_block(bus: TestBus, listener: Bot) -> None:
    greeter = await bus.bot("greeter")
    async with listener.messages(PATTERN) as messages:
        first = asyncio.create_task(anext(messages))
        await asyncio.sleep(0)
        with pytest.raises(InvalidInput, match="two tasks iterate"):
            await anext(messages)
        await greeter.publish(PATTERN, {"text": "hello"})
        assert (await first).payload == {"text": "hello"}


async def test_handlers_on_a_live_subject_share_nothing(bus: TestBus, listener: Bot) -> None:
    """Their author need not say that it is live. The bus tells when the bot connects."""
    clock, handled = Bot(bus.credentials("clock")), list[str]()

    def handle(name: str) -> None:
        @clock.subscribe("clock.ask")
        async def note(_: Message) -> None:
            handled.append(name)

    handle("first")
    handle("second")
    await bus.connect(clock)
    handle("while connected")

    async def all_have_one() -> bool:
        await listener.publish("clock.ask", {"zone": "UTC"})
        return set(handled) == {"first", "second", "while connected"}

    await until(all_have_one, lambda: f"only these have one: {set(handled)}")


async def test_connect_refuses_two_handlers_on_a_stored_subject(bus: TestBus) -> None:
    """Before it connects, the bot does not know that the subject is stored."""
    bot = Bot(bus.credentials("listener"))
    for _ in range(2):
        bot.subscribe(PATTERN)(handler)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"has a handler for greetings\.sent already with"):
            await bot.connect()


async def test_registering_refuses_a_second_handler_while_connected(listener: Bot) -> None:
    listener.subscribe(PATTERN)(handler)
    with pytest.raises(InvalidInput, match=r"has a handler for greetings\.sent already with"):
        listener.subscribe(PATTERN)(handler)


def test_hint_about_two_reply_handlers_names_no_durable(listener_offline: Bot) -> None:
    listener_offline.reply("clock.ask")(handler)
    with pytest.raises(InvalidInput) as error:
        listener_offline.reply("clock.ask")(handler)
    assert error.value.hint == "use one handler with concurrency=n"


@pytest.fixture
def listener_offline(tmp_path: Path) -> Bot:
    scaffold(tmp_path / "hello", "hello")
    return Bot(TestBus(tmp_path / "hello").credentials("listener"))
