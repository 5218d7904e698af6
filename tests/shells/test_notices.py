"""A notice of the bus: a bot logs it, and goes on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import pytest

from sealbus import Bot
from sealbus.life import connecting
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.notice import Ended, Notice, seal_notice
from sealbus.protocol.subjects import notice_subject
from tests.refusal import refusal
from tests.shells.stage import Stage
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

REVOKED = "the bus has ended the session of order: the key was revoked"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(connecting, "BACKOFF_MOST_S", 0.01)


@pytest.fixture
async def bot(stage: Stage) -> AsyncIterator[Bot]:
    """The bot ``order`` with a session."""
    made = Bot(stage.credentials("order"))
    async with asyncio.timeout(PATIENCE_S):
        await made._session.open()
    yield made
    await made._session.close(flush=False)


def notice(stage: Stage) -> Notice:
    """The key of ``order`` was revoked just now."""
    key = stage.keys["order"].public.raw
    return Notice("shop", "order", time.time_ns() // 1_000_000, Ended.KEY_REVOKED, key)


async def tell(stage: Stage, bot: Bot, data: bytes) -> None:
    """Send bytes as a notice, and return when the bot has taken them."""
    stage.relay.write([pub(notice_subject("order").encode(), data)])
    await stage.relay.flush()
    # What the server sends to the bot after the notice comes after it.
    await (await bot._session.client()).flush(int(PATIENCE_S))


def has_another(bot: Bot, before: HardenedClient) -> bool:
    """Whether the bot has a connection that is not ``before``."""
    return bot._session._client not in (None, before)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.ERROR]


async def test_revoked_bot_says_why_it_is_not_admitted(
    stage: Stage, bot: Bot, caplog: pytest.LogCaptureFixture
) -> None:
    known = stage.policy
    sealed = seal_notice(stage.secrets.bus, notice(stage))
    # Twice, as it comes where the bot has two sessions.
    for _ in range(2):
        await tell(stage, bot, sealed)
    assert len(errors(caplog)) == 1
    assert errors(caplog)[0].startswith(REVOKED)
    assert "`sealbus keys new order --out FILE`" in errors(caplog)[0]
    assert bot._session.is_up

    stage.policy = replace(known, bots={})
    stage.server.cut("order")
    await until(lambda: "was not admitted" in str(bot._session.explain()), "it was tried")
    why = bot._session.explain()
    assert why.what.startswith(REVOKED)
    assert why.hint is not None
    assert why.hint.startswith("if the key was replaced")
    await until(lambda: f"no session with the bus: {REVOKED}" in caplog.text, "the log has it")

    stage.policy = known
    await until(lambda: bot._session.is_up, "it is admitted again")
    assert REVOKED not in str(bot._session.explain())
    assert len(errors(caplog)) == 1


async def test_connect_names_the_notice_as_the_cause(stage: Stage, bot: Bot) -> None:
    removed = Notice("shop", "order", notice(stage).at_ms, Ended.BOT_REMOVED)
    await tell(stage, bot, seal_notice(stage.secrets.bus, removed))
    stage.policy = replace(stage.policy, bots={})
    await bot._session.close(flush=False)
    failed = await refusal(bot, "order was not admitted")
    assert "policy does not have this bot any more" in failed.what
    assert failed.hint is not None
    assert failed.hint.startswith("have an operator put order into policy.yaml again")


async def test_second_revocation_is_told_again(
    stage: Stage, bot: Bot, caplog: pytest.LogCaptureFixture
) -> None:
    for count in (1, 2):
        await tell(stage, bot, seal_notice(stage.secrets.bus, notice(stage)))
        assert len(errors(caplog)) == count
        before = await bot._session.client()
        stage.server.cut("order")
        await until(partial(has_another, bot, before), "it is back")


@pytest.mark.parametrize(
    "case", ["forged", "of another bus", "for another bot", "old", "ahead", "garbage", "empty"]
)
async def test_invalid_notice_changes_nothing(
    case: str, stage: Stage, bot: Bot, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sealbus")
    good = notice(stage)
    bus, at_ms = stage.secrets.bus, good.at_ms
    data = {
        "forged": seal_notice(SigningKey.generate(KeyKind.BUS), good),
        "of another bus": seal_notice(bus, replace(good, bus="bazaar")),
        "for another bot": seal_notice(bus, replace(good, bot="inventory")),
        "old": seal_notice(bus, replace(good, at_ms=at_ms - 70_000)),
        "ahead": seal_notice(bus, replace(good, at_ms=at_ms + 70_000)),
        "garbage": b"\xc1",
        "empty": b"",
    }[case]
    await tell(stage, bot, data)
    assert "ignored an invalid notice" in caplog.text
    assert errors(caplog) == []
    assert REVOKED not in str(bot._session.explain())


async def test_notice_about_another_key_changes_nothing(
    stage: Stage, bot: Bot, caplog: pytest.LogCaptureFixture
) -> None:
    other = SigningKey.generate(KeyKind.BOT).public.raw
    await tell(stage, bot, seal_notice(stage.secrets.bus, replace(notice(stage), key=other)))
    assert errors(caplog) == []
    assert REVOKED not in str(bot._session.explain())
    await tell(stage, bot, seal_notice(stage.secrets.bus, replace(notice(stage), key=None)))
    assert len(errors(caplog)) == 1


async def test_a_bot_that_flooded_comes_back_when_told(
    stage: Stage, bot: Bot, caplog: pytest.LogCaptureFixture
) -> None:
    flooding = replace(notice(stage), reason=Ended.FLOODING, key=None, pause_ms=600_000)
    await tell(stage, bot, seal_notice(stage.secrets.bus, flooding))
    (said,) = errors(caplog)
    assert said.startswith("the bus has ended the session of order: the bot sends more than one")
    assert "order comes back by itself when its pause is over" in said
    stage.server.cut("order")
    await until(lambda: "has told order to pause for" in caplog.text, "it waits")
    # It is admitted, so nothing but its obedience keeps it away.
    assert not bot._session.is_up
    assert not bot._session._connector.failures
    assert "has to pause" in bot._session.explain().what


async def test_a_pause_ends_by_itself(stage: Stage, bot: Bot) -> None:
    flooding = replace(notice(stage), reason=Ended.FLOODING, key=None, pause_ms=1)
    await tell(stage, bot, seal_notice(stage.secrets.bus, flooding))
    before = await bot._session.client()
    stage.server.cut("order")
    await until(lambda: has_another(bot, before), "it is back")
