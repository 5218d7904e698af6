"""The public API as a bot author's program uses it. mypy checks this file, and nothing runs it.

`make types` runs mypy in strict mode. ``assert_type`` says which type the author gets. A
``type: ignore`` with its code marks a mistake that mypy must report to the author. If mypy no
longer reports it, the comment itself is an error (``warn_unused_ignores``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

import sealbus
from sealbus import (
    BackgroundFailed,
    Bot,
    BotState,
    ConnectionFailed,
    Credentials,
    CredentialsError,
    Grants,
    InvalidInput,
    InvitationRefused,
    Malformed,
    Message,
    NoReply,
    NotConnected,
    Reason,
    Refused,
    RequestFailed,
    SealbusError,
    Stamp,
    SubscriptionDenied,
    Unresolved,
    Verdict,
    new_nonce,
)
from sealbus.testing import Kept, TestBus, expect_refused

bot = Bot.from_file("credentials/inventory.toml")


@dataclass
class Order:
    """An author's class for a payload."""

    order_id: str
    note: str | None = None


class OwnBot(Bot):
    """An author's own class."""


# ---- making a bot ------------------------------------------------------------------------------


def make() -> None:
    assert_type(Bot.from_file(Path("credentials/inventory.toml")), Bot)
    assert_type(Bot.from_environment(), Bot)
    assert_type(Bot(Credentials.load("credentials/inventory.toml")), Bot)
    assert_type(OwnBot.from_file("credentials/inventory.toml"), OwnBot)
    assert_type(Credentials.from_environment(), Credentials)
    assert_type(bot.name, str)
    assert_type(bot.state, BotState)
    assert_type(sealbus.__version__, str)

    Bot("credentials/inventory.toml")  # type: ignore[arg-type]
    Bot()  # type: ignore[call-arg]
    Bot.from_file(b"credentials/inventory.toml")  # type: ignore[arg-type]
    bot.name = "order"  # type: ignore[misc]
    sealbus.Robot  # type: ignore[attr-defined]  # noqa: B018


# ---- a bot's life ------------------------------------------------------------------------------


async def live() -> None:
    await bot.run()
    await bot.run(connect_timeout=30)

    await bot.run(30)  # type: ignore[call-arg]
    bot.run()  # type: ignore[unused-coroutine]


async def open_and_close() -> None:
    await bot.connect(timeout=None)
    await bot.connect(2.5)
    async with bot as opened:
        assert_type(opened, Bot)
        assert_type(await opened.grants(), Grants)
    async with OwnBot.from_environment() as own:
        assert_type(own, OwnBot)
    bot.stop()
    await bot.close(timeout=1)

    await bot.connect("soon")  # type: ignore[arg-type]


@bot.on_connected
def connected() -> None: ...


@bot.on_lost
async def lost(lost_bot: Bot) -> None: ...


@bot.on_denied
def denied(error: SubscriptionDenied) -> None:
    assert_type(error.pattern, str)


async def call_the_hooks() -> None:
    """A hook keeps its type."""
    connected()
    denied(SubscriptionDenied("not granted", pattern="orders.placed"))
    await lost(bot)

    denied()  # type: ignore[call-arg]
    bot.on_lost("lost")  # type: ignore[type-var]


# ---- sending -----------------------------------------------------------------------------------


async def publish(parent: Message) -> None:
    assert_type(await bot.publish("orders.placed", {"order_id": "ord-000001"}), Stamp)
    await bot.publish("orders.placed", Order("ord-000001"), parent=parent)
    await bot.publish("orders.placed", [1, None, "x", datetime.now(UTC)], schema="orders.placed.v1")
    await bot.publish("orders.placed", None, nonce=new_nonce(), ttl=5, timeout=2.5, live=False)

    await bot.publish("orders.placed", {}, alone=True)

    await bot.publish("orders.placed")  # type: ignore[call-arg]
    await bot.publish("orders.placed", {}, False)  # type: ignore[call-arg]
    await bot.publish("orders.placed", {}, parent=parent.nonce)  # type: ignore[arg-type]
    await bot.publish("orders.placed", {}, nonce="ab" * 16)  # type: ignore[arg-type]
    await bot.publish("orders.placed", {}, time_to_live=5)  # type: ignore[call-arg]


async def publish_many(orders: list[Order]) -> None:
    told = await bot.publish_many("orders.placed", orders, schema="orders.placed.v1", ttl=5)
    assert_type(told, list[Stamp | SealbusError])
    await bot.publish_many("orders.placed", ({"order_id": order.order_id} for order in orders))

    await bot.publish_many("orders.placed", 7)  # type: ignore[arg-type]
    await bot.publish_many("orders.placed", orders, nonce=new_nonce())  # type: ignore[call-arg]


async def resume(unresolved: Unresolved) -> None:
    assert_type(await bot.resume(unresolved, timeout=2.5), Stamp)

    await bot.resume(unresolved.nonce)  # type: ignore[arg-type]


async def request() -> None:
    answer = await bot.request("stock.check", {"sku": "ABC-0001"}, timeout=2.5)
    assert_type(answer, Message)

    await bot.request("stock.check", {}, nonce=new_nonce())  # type: ignore[call-arg]


async def read_the_stamp() -> None:
    stamp = await bot.publish("orders.placed", {})
    assert_type(stamp.verdict, Verdict)
    assert_type(stamp.reason, Reason | None)
    assert_type(stamp.judged_at_ms, int)
    assert_type(stamp.record, int | None)

    stamp.verdict = Verdict.ACCEPTED  # type: ignore[misc]


# ---- receiving ---------------------------------------------------------------------------------


@bot.subscribe("orders.placed", durable="reports", concurrency=4, attempts=3)
async def reserve(message: Message) -> None:
    assert_type(message.subject, str)
    assert_type(message.bot, str)
    assert_type(message.payload, Any)
    assert_type(message.nonce, bytes)
    assert_type(message.index, int)
    assert_type(message.id, str)
    assert_type(message.issued_at_ms, int)
    assert_type(message.stamp, Stamp)
    assert_type(message.attempt, int)
    assert_type(message.as_(Order), Order)

    message.payload = {}  # type: ignore[misc]
    message.as_(Order("ord-000001"))  # type: ignore[arg-type]
    message.text  # type: ignore[attr-defined]  # noqa: B018


@bot.reply("stock.check", concurrency=4)
async def level(message: Message) -> dict[str, int]:
    return {"available": len(message.bot)}


async def call_the_handlers(message: Message) -> None:
    """A handler keeps its type, so that a test can call it."""
    await reserve(message)
    assert_type(await level(message), dict[str, int])

    await level()  # type: ignore[call-arg]


def register_mistakes() -> None:
    def not_async(message: Message) -> None: ...

    async def takes_nothing() -> None: ...

    async def takes_a_payload(payload: dict[str, Any]) -> None: ...

    bot.subscribe("orders.placed")(not_async)  # type: ignore[type-var]
    bot.subscribe("orders.placed")(takes_nothing)  # type: ignore[type-var]
    bot.reply("stock.check")(takes_a_payload)  # type: ignore[type-var]
    bot.subscribe(not_async)  # type: ignore[arg-type]
    bot.subscribe("orders.placed", concurrency="4")  # type: ignore[arg-type]


async def iterate() -> None:
    async with bot.messages("orders.placed", durable="reports") as messages:
        async for message in messages:
            assert_type(message, Message)

    list(bot.messages("orders.placed"))  # type: ignore[call-overload]


# ---- errors ------------------------------------------------------------------------------------


def handle(error: SealbusError) -> None:
    assert_type(error.what, str)
    assert_type(error.hint, str | None)
    match error:
        case Refused():
            assert_type(error.reason, Reason)
            assert_type(error.faults, tuple[str, ...])
            assert_type(error.record, int | None)
            assert_type(error.index, int)
            assert_type(error.clock, str | None)
            assert_type(error.stamp, Stamp)
        case Unresolved():
            assert_type(error.nonce, bytes)
            assert_type(error.index, int)
        case RequestFailed():
            assert_type(error.error, str)
            assert_type(error.message, str)
            assert_type(error.bot, str | None)
        case BackgroundFailed():
            assert_type(error.part, str)
            assert_type(error.kind, str)
        case NoReply() | ConnectionFailed() | NotConnected() | CredentialsError():
            pass
        case InvitationRefused():
            pass
        case InvalidInput() | Malformed():
            as_builtin: ValueError = error
            raise as_builtin
    raise RequestFailed("no such sku", error="unknown-sku")


def compare(reason: Reason, verdict: Verdict, state: BotState) -> None:
    assert_type(reason.value, str)
    assert_type(reason.meaning, str)
    assert_type(reason is Reason.SCHEMA, bool)
    assert_type(verdict is Verdict.QUARANTINED, bool)
    assert_type(state is BotState.CONNECTED, bool)

    Reason.NO_SUCH  # type: ignore[attr-defined]  # noqa: B018


# ---- tests of an author's own ------------------------------------------------------------------


async def test_with(sealbus_bus: TestBus) -> None:
    order = await sealbus_bus.bot("order")
    assert_type(order, Bot)
    assert_type(sealbus_bus.credentials("order"), Credentials)
    await sealbus_bus.connect(Bot(sealbus_bus.credentials("inventory")))
    with expect_refused("schema") as refused:
        await order.publish("orders.placed", {})
    assert_type(refused.error, Refused)
    with expect_refused(Reason.NOT_GRANTED):
        await order.publish("stock.reserved", {})
    assert_type(await sealbus_bus.quarantine("schema"), list[Kept])
    kept = await sealbus_bus.quarantined("undeliverable", within_s=1)
    assert_type(kept.record, int)
    assert_type(kept.payload, Any)
    assert_type(kept.payloads, list[Any])
    assert_type(kept.data, bytes)

    await sealbus_bus.bot()  # type: ignore[call-arg]
    expect_refused()  # type: ignore[call-arg]
    sealbus.testing.TestRelay  # type: ignore[attr-defined]  # noqa: B018
