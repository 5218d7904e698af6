"""The relay alone answers for the bus's services, also when a bot may hear the questions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sealbus import Reason, Refused
from sealbus.protocol.subjects import RELAY, reply_subject
from tests.e2e.shop import Shop
from tests.waiting import PATIENCE_S


async def test_no_bot_answers_an_operators_question(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "shop")
    policy = shop.bus.path / "policy.yaml"
    granted = "publish: [metrics.scraped]\n    subscribe: [sealbus.quarantine.*]"
    policy.write_text(policy.read_text().replace("publish: [metrics.scraped]", granted))
    async with shop, asyncio.timeout(PATIENCE_S):
        await shop.start_relay()
        async with (
            shop.bot("scraper") as scraper,
            shop.bot("operator") as operator,
            scraper.messages("sealbus.quarantine.*", live=True) as questions,
        ):
            asking = asyncio.create_task(
                operator.request("sealbus.quarantine.list", {}, timeout=PATIENCE_S)
            )
            question = await anext(aiter(questions))
            with pytest.raises(Refused) as refused:
                await scraper.publish(
                    reply_subject(question.bot, question.nonce),
                    {"records": [], "next": None, "total": 0},
                    live=True,
                    parent=question,
                )
            assert (await asking).bot == RELAY
    assert refused.value.reason is Reason.CAUSE
    assert "the relay alone answers it" in str(refused.value.detail)
