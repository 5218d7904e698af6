"""Requests that fail, on a running bus. The bot that asks learns the reason at once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from sealbus import Bot, Message, NoReply, Reason, Refused, RequestFailed
from sealbus.protocol.subjects import reply_subject
from tests.e2e.shop import Shop

LONG_S = 300.0
"""No test waits so long. A request that ends sooner ended for its own reason."""

ASK = {"sku": "ABC-0001"}


def is_a_warning(record: logging.LogRecord) -> bool:
    """Whether it warns of anything but a loop that a busy machine gave no turn."""
    stood_still = "the event loop did not run" in record.getMessage()
    return record.levelno >= logging.WARNING and not stood_still


def replying(shop: Shop, handler: Any) -> Bot:
    inventory = shop.bot("inventory")
    inventory.reply("stock.check")(handler)
    return inventory


async def test_a_request_that_nobody_listens_to_fails_at_once(shop: Shop) -> None:
    async with shop.bot("order") as asker:
        with pytest.raises(NoReply, match=r"nobody listens on stock\.check"):
            await asker.request("stock.check", ASK, timeout=LONG_S)


async def test_a_request_fails_at_once_after_its_answerer_has_left(shop: Shop) -> None:
    async def level(message: Message) -> Any:
        return {"sku": message.payload["sku"], "available": 1}

    async with shop.bot("order") as asker:
        async with replying(shop, level):
            assert (await asker.request("stock.check", ASK, timeout=LONG_S)).payload[
                "available"
            ] == 1
        with pytest.raises(NoReply, match="nobody listens"):
            await asker.request("stock.check", ASK, timeout=LONG_S)


async def test_an_error_in_the_handler_is_told_by_its_class_alone(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async def level(_: Message) -> Any:
        raise KeyError("a secret of the handler")

    async with replying(shop, level), shop.bot("order") as asker:
        with pytest.raises(RequestFailed) as failed:
            await asker.request("stock.check", ASK, timeout=LONG_S)
    error = failed.value
    assert (error.error, error.message, error.bot) == (
        "KeyError",
        "the handler failed",
        "inventory",
    )
    assert "secret" not in str(error)
    (told,) = [record for record in caplog.records if record.exc_info]
    assert told.message.startswith("the handler failed for the request order.")
    assert " on stock.check;" in told.message
    assert str(told.exc_info[1]) == "'a secret of the handler'" if told.exc_info else False


async def test_an_author_says_what_the_asker_is_told(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    async def level(_: Message) -> Any:
        raise RequestFailed("no such sku \N{SNOWMAN}\x1b[2J" + "x" * 300, error="unknown-sku")

    async with replying(shop, level), shop.bot("order") as asker:
        with pytest.raises(RequestFailed) as failed:
            await asker.request("stock.check", ASK, timeout=LONG_S)
    assert failed.value.error == "unknown-sku"
    assert failed.value.message.startswith("no such sku \N{SNOWMAN}")
    assert len(failed.value.message) == 200
    assert "\x1b" not in str(failed.value)
    assert not [record for record in caplog.records if is_a_warning(record)]


async def test_an_error_from_another_bot_is_not_passed_on(shop: Shop) -> None:
    async def level(_: Message) -> Any:
        raise RequestFailed("between the two of us", error="secret", bot="shipping")

    async with replying(shop, level), shop.bot("order") as asker:
        with pytest.raises(RequestFailed) as failed:
            await asker.request("stock.check", ASK, timeout=LONG_S)
    assert (failed.value.error, failed.value.message) == ("RequestFailed", "the handler failed")


async def test_a_handler_whose_own_task_was_cancelled_is_told(shop: Shop) -> None:
    async def level(_: Message) -> Any:
        waiting = asyncio.create_task(asyncio.sleep(LONG_S))
        waiting.cancel()
        await waiting

    async with replying(shop, level), shop.bot("order") as asker:
        with pytest.raises(RequestFailed) as failed:
            await asker.request("stock.check", ASK, timeout=LONG_S)
    assert failed.value.error == "CancelledError"


@pytest.mark.parametrize(
    ("payload", "error", "said"),
    [
        ({"sku": "ABC-0001", "available": "many"}, "answer-refused", "/available: type"),
        ({"sku": "ABC-0001"}, "answer-refused", "required available"),
        (None, "answer-refused", "(root): type"),
        ({"sku": object()}, "InvalidInput", "the handler failed"),
    ],
)
async def test_an_answer_that_breaks_its_schema_is_told(
    shop: Shop, payload: Any, error: str, said: str
) -> None:
    async def level(_: Message) -> Any:
        return payload

    async with replying(shop, level), shop.bot("order") as asker:
        with pytest.raises(RequestFailed) as failed:
            await asker.request("stock.check", ASK, timeout=LONG_S)
    assert failed.value.error == error
    assert said in failed.value.message


async def test_only_the_bus_can_say_that_nobody_listens(shop: Shop) -> None:
    async def level(_: Message) -> Any:
        raise RequestFailed("trust me", error="nobody-listens")

    async with replying(shop, level), shop.bot("order") as asker:
        with pytest.raises(RequestFailed) as failed:
            await asker.request("stock.check", ASK, timeout=LONG_S)
    assert failed.value.bot == "inventory"


async def test_an_error_of_a_service_is_told_likewise(shop: Shop) -> None:
    async with shop.bot("operator") as operator:
        with pytest.raises(RequestFailed) as failed:
            await operator.request("sealbus.quarantine.show", {"sequence": 999_999}, timeout=LONG_S)
    error = failed.value
    assert (error.bot, error.error) == ("sealbus", "not-served")
    assert error.message == "the quarantine holds nothing at 999999"


async def test_a_place_that_is_not_granted_has_a_word_of_its_own(shop: Shop) -> None:
    """The client recognises a denial by this word, and not by the sentence for people."""
    ask = {"pattern": "orders.placed", "durable": "default", "from": "new"}
    async with shop.bot("scraper") as scraper:
        with pytest.raises(RequestFailed) as failed:
            await scraper.request("sealbus.subscribe", ask, timeout=LONG_S)
    assert (failed.value.bot, failed.value.error) == ("sealbus", "not-granted")


async def test_listeners_are_not_shown_the_probe(shop: Shop) -> None:
    seen: list[Message] = []

    async def level(message: Message) -> Any:
        seen.append(message)
        return {"sku": message.payload["sku"], "available": 1}

    async with replying(shop, level) as inventory, shop.bot("order") as asker:
        await asyncio.gather(
            *(asker.request("stock.check", ASK, timeout=LONG_S) for _ in range(50))
        )
        assert len(seen) == 50
        assert inventory.refused_deliveries == {}
        assert asker.refused_deliveries == {}


async def test_a_second_answer_is_refused_and_disturbs_nobody(shop: Shop) -> None:
    """The bot that asked got an error already, so an answer from the handler comes too late."""
    seen: list[Message] = []

    async def level(message: Message) -> Any:
        seen.append(message)
        raise ValueError

    async with replying(shop, level) as inventory, shop.bot("order") as asker:
        with pytest.raises(RequestFailed):
            await asker.request("stock.check", ASK, timeout=LONG_S)
        subject = reply_subject("order", seen[0].nonce)
        with pytest.raises(Refused) as refused:
            await inventory.publish(
                subject, {"sku": "ABC-0001", "available": 1}, live=True, parent=seen[0]
            )
    assert refused.value.reason is Reason.ALREADY_ANSWERED
