"""An author's invalid argument is refused in the author's own call, before anything happens."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sealbus import Bot, BotState, Credentials, InvalidInput, Message, Unresolved
from sealbus.arguments import MAX_ATTEMPTS, MAX_CONCURRENCY, MAX_WAIT_S, check_handler
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_CONSUMERS, MAX_LIVE_SUBSCRIPTIONS


@pytest.fixture
def bot() -> Bot:
    """A bot without a connection. Every error here comes before the bot notices that."""
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    key = SigningKey.generate(KeyKind.BOT)
    return Bot(Credentials("shop", "order", key, ("nats://127.0.0.1:4222",), bus_keys))


async def handler(_: Message) -> None:
    """A valid handler."""


TIMES = (0, -1, math.nan, math.inf, -math.inf, MAX_WAIT_S + 1, "5", None, True, 10**400)
"""Values that are no valid time for any call."""


@pytest.mark.parametrize("value", TIMES, ids=lambda value: f"{value!r:.20}")
async def test_a_timeout_out_of_range_is_refused(bot: Bot, value: Any) -> None:
    unresolved = Unresolved("no verdict", nonce=bytes(16))
    for call in (
        bot.publish("a.b", 1, timeout=value),
        bot.publish_many("a.b", [1], timeout=value),
        bot.resume(unresolved, timeout=value),
        bot.request("a.b", 1, timeout=value),
    ):
        with pytest.raises(InvalidInput, match="timeout"):
            await call
    if value is not None:  # waits for the bus as long as it takes
        with pytest.raises(InvalidInput, match="timeout"):
            await bot.connect(value)
    if value != 0:  # waits for nobody
        with pytest.raises(InvalidInput, match="timeout"):
            await bot.close(value)
    if value is not None:  # as above
        with pytest.raises(InvalidInput, match="connect_timeout"):
            await bot.run(connect_timeout=value)
        assert bot.state is BotState.NEW


@pytest.mark.parametrize(
    "ttl", [*TIMES[:5], 0.0001, 86_401, "5", True, 10**400], ids=lambda value: f"{value!r:.20}"
)
async def test_a_ttl_out_of_range_is_refused(bot: Bot, ttl: Any) -> None:
    with pytest.raises(InvalidInput, match="ttl"):
        await bot.publish("a.b", 1, ttl=ttl)


@pytest.mark.parametrize("nonce", ["x" * 16, b"", bytes(15), bytes(17), 7, bytearray(16)])
async def test_a_nonce_of_another_type_or_length_is_refused(bot: Bot, nonce: Any) -> None:
    with pytest.raises(InvalidInput, match="nonce"):
        await bot.publish("a.b", 1, nonce=nonce)


@pytest.mark.parametrize("schema", ["any.v01", "any", "any.v0", "Any.v1", "", 7])
async def test_a_schemas_name_that_is_none_is_refused(bot: Bot, schema: Any) -> None:
    for call in (bot.publish("a.b", 1, schema=schema), bot.request("a.b", 1, schema=schema)):
        with pytest.raises(InvalidInput, match="schema name"):
            await call


async def test_a_parent_that_is_no_message_is_refused(bot: Bot) -> None:
    with pytest.raises(InvalidInput, match="parent must be a Message, got dict"):
        await bot.publish("a.b", 1, parent={})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="include_parent=True needs a parent"):
        await bot.publish("a.b", 1, include_parent=True)


@pytest.mark.parametrize("subject", ["", "A", "a b", "a.*", None, 7, b"a"])
async def test_a_subject_that_is_none_is_refused(bot: Bot, subject: Any) -> None:
    for call in (bot.publish(subject, 1), bot.request(subject, 1)):
        with pytest.raises(InvalidInput, match="subject"):
            await call


@pytest.mark.parametrize("live", ["no", 0, 1])
async def test_a_word_for_live_is_refused(bot: Bot, live: Any) -> None:
    for call in (bot.publish("a.b", 1, live=live), bot.publish_many("a.b", [1], live=live)):
        with pytest.raises(InvalidInput, match="live must be True or False"):
            await call


@pytest.mark.parametrize("unresolved", [bytes(16), None, TimeoutError()])
async def test_only_an_unresolved_message_is_resumed(bot: Bot, unresolved: Any) -> None:
    with pytest.raises(InvalidInput, match="resume\\(\\) takes the Unresolved"):
        await bot.resume(unresolved)


@pytest.mark.parametrize("renew_s", [*TIMES[:5], 0.01, MAX_WAIT_S + 1, "5", True])
def test_a_renewal_out_of_range_is_refused(bot: Bot, renew_s: Any) -> None:
    with pytest.raises(InvalidInput, match="renew_s"):
        Bot(bot.credentials, renew_s=renew_s)


@pytest.mark.parametrize("credentials", ["order.toml", None])
def test_a_bot_of_something_else_than_credentials_is_refused(credentials: Any) -> None:
    with pytest.raises(InvalidInput, match="takes Credentials") as refused:
        Bot(credentials)
    assert "from_file" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(
            ({"concurrency": value}, "concurrency")
            for value in (0, -1, 1.5, "2", None, True, MAX_CONCURRENCY + 1)
        ),
        *(
            ({"durable": value}, "durable name")
            for value in ("Bad Name", "", "a.b", "a" * 65, None)
        ),
        ({"start": "yesterday"}, "start='yesterday'"),
        ({"start": None}, "start=None"),
        *(({"attempts": value}, "attempts") for value in (0, -1, 1.5, "2", True, MAX_ATTEMPTS + 1)),
        *(({"live": value}, "live must be True or False") for value in ("no", 0, 1)),
        ({"live": True, "durable": "d"}, "durable has no meaning for a live subscription"),
        ({"live": True, "start": "all"}, "start has no meaning for a live subscription"),
        ({"live": True, "attempts": 2}, "attempts has no meaning for a live subscription"),
    ],
)
def test_an_option_of_a_subscription_out_of_range_is_refused(
    bot: Bot, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        bot.subscribe("a.b", **options)
    if "concurrency" not in options:
        with pytest.raises(InvalidInput, match=said):
            bot.messages("a.b", **options)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, None, MAX_CONCURRENCY + 1])
def test_a_replys_concurrency_out_of_range_is_refused(bot: Bot, concurrency: Any) -> None:
    with pytest.raises(InvalidInput, match="concurrency"):
        bot.reply("a.b", concurrency=concurrency)


def test_an_unknown_option_is_refused_by_name(bot: Bot) -> None:
    with pytest.raises(TypeError, match="concurency"):
        bot.subscribe("a.b", concurency=2)  # type: ignore[call-arg]


# ---- handlers ------------------------------------------------------------------------------------


def plain(_: Message) -> None:
    """A newcomer's mistake: not async."""


async def yields(_: Message) -> AsyncIterator[int]:
    """An ``async def`` that is a generator and no coroutine function."""
    yield 1


async def takes_two(_: Message, __: int) -> None:
    """A function that a bot cannot call: it takes two arguments."""


async def takes_none() -> None:
    """A function that a bot cannot call: it takes no argument."""


class Takes:
    """Objects and methods as handlers."""

    async def method(self, _: Message) -> None:
        """A bound method."""

    def plain(self, _: Message) -> None:
        """A bound method that is not async."""

    async def __call__(self, _: Message) -> None:
        """An object that can be called."""


class Plain:
    """An object that can be called and is not async."""

    def __call__(self, _: Message) -> None:
        """Not async."""


NOT_HANDLERS = {
    "plain def": plain,
    "lambda": lambda _: None,
    "lambda of a coroutine": lambda message: Takes().method(message),
    "class": Takes,
    "partial of a plain def": functools.partial(plain),
    "partial without argument": functools.partial(takes_none),
    "async generator": yields,
    "method": Takes().plain,
    "object": Plain(),
    "two arguments": takes_two,
    "no argument": takes_none,
    "nothing": None,
    "text": "handler",
}
HANDLERS = {
    "async def": handler,
    "method": Takes().method,
    "object": Takes(),
    "partial": functools.partial(takes_two, __=1),
    "partial of a partial": functools.partial(functools.partial(takes_two, __=1)),
}


@pytest.mark.parametrize("case", NOT_HANDLERS)
def test_an_invalid_handler_is_refused_where_it_is_given(bot: Bot, case: str) -> None:
    for decorate in (bot.subscribe("a.b"), bot.subscribe("a.c", live=True), bot.reply("a.d")):
        with pytest.raises(InvalidInput) as refused:
            decorate(NOT_HANDLERS[case])  # type: ignore[type-var]
        assert "async def" in str(refused.value.hint)


@pytest.mark.parametrize("case", HANDLERS)
def test_an_awaitable_call_with_a_message_is_a_handler(case: str) -> None:
    assert check_handler(HANDLERS[case]) is HANDLERS[case]


# ---- handlers for one pattern --------------------------------------------------------------------


def test_one_place_for_two_handlers_is_refused(bot: Bot) -> None:
    bot.subscribe("a.b", durable="d")(handler)
    with pytest.raises(InvalidInput, match=r"has a handler for a\.b already"):
        bot.subscribe("a.b", durable="d")(handler)
    bot.subscribe("a.b", durable="e")(handler)
    bot.subscribe("a.>", durable="d")(handler)


def test_two_handlers_that_reply_to_one_pattern_are_refused(bot: Bot) -> None:
    bot.reply("a.b")(handler)
    with pytest.raises(InvalidInput, match=r"has a handler for a\.b already"):
        bot.reply("a.b")(handler)


def test_two_live_handlers_of_one_pattern_each_get_all(bot: Bot) -> None:
    bot.subscribe("a.b", live=True)(handler)
    bot.subscribe("a.b", live=True)(handler)


def test_more_subscriptions_than_a_session_may_have_are_refused(bot: Bot) -> None:
    for number in range(MAX_LIVE_SUBSCRIPTIONS):
        bot.subscribe(f"a.n{number}", live=True)(handler)
    with pytest.raises(
        InvalidInput, match=f"more than {MAX_LIVE_SUBSCRIPTIONS} live subscriptions"
    ):
        bot.subscribe("b", live=True)(handler)
    for number in range(MAX_CONSUMERS):
        bot.subscribe(f"a.n{number}")(handler)
    with pytest.raises(InvalidInput, match=f"more than {MAX_CONSUMERS} durable subscriptions"):
        bot.subscribe("b")(handler)


# ---- hooks ---------------------------------------------------------------------------------------


def test_a_hook_that_cannot_be_called_is_refused(bot: Bot) -> None:
    for decorate in (bot.on_connected, bot.on_lost, bot.on_denied):
        for hook in (takes_two, None, "hook"):
            with pytest.raises(InvalidInput, match="one argument or none"):
                decorate(hook)  # type: ignore[type-var]
        decorate(plain)
        decorate(takes_none)
