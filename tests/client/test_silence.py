"""When a silent server is left, and when a blocked event loop is not taken for silence."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator

import pytest

from sealbus import Credentials
from sealbus.life import blocking, connecting
from sealbus.life.blocking import Blocking
from sealbus.life.connecting import Connector
from sealbus.nats import silence
from sealbus.nats.client import HardenedClient
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.supervision import Supervisor
from sealbus_broker.nats import config
from tests.listening import listening
from tests.waiting import patiently

BOT, BUS = SigningKey.generate(KeyKind.BOT), SigningKey.generate(KeyKind.BUS)
CREDENTIALS = Credentials("shop", "order", BOT, ("nats://h:4222",), frozenset([BUS.public.raw]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "PING_S", 0.01)
    monkeypatch.setattr(blocking, "TICK_S", 0.01)
    monkeypatch.setattr(blocking, "BLOCKED_S", 0.05)


def test_both_sides_notice_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    interval_s = float(config.PING_INTERVAL.removesuffix("ms")) / 1000
    # nats-server finds nothing said, asks that often, and then ends the connection.
    assert (config.PING_MAX + 2) * interval_s < 5
    # One question was answered just before, and the others are not.
    assert (silence.MOST_SILENT + 1) * silence.PING_S < 5


async def test_server_that_never_answers_is_left() -> None:
    asked = itertools.count()
    await patiently(silence.watch(lambda: next(asked), lambda: 0))
    assert next(asked) == silence.MOST_SILENT


async def test_any_byte_counts_as_an_answer() -> None:
    asked = 0
    answers: Iterator[bool] = iter([True, False, False, True, False, False, False])
    read = 0

    def ask() -> None:
        nonlocal asked, read
        asked += 1
        read += next(answers)

    # The answer comes in the turn of the question, so it is counted with the one before.
    await patiently(silence.watch(lambda: asyncio.get_running_loop().call_soon(ask), lambda: read))
    assert asked == 7


async def test_blocked_loop_is_named_as_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    watching = Blocking("order", Supervisor("order"))
    watching.begin()
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251  # this is the fault
    for _ in range(3):  # the loop looks at its timers, and calls them
        await asyncio.sleep(0)
    cause = watching.cause
    watching.end()
    assert cause is not None
    assert "event loop was blocked" in cause
    assert "asyncio.to_thread" in caplog.text


async def test_loop_that_runs_is_no_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    watching = Blocking("order", Supervisor("order"))
    assert watching.cause is None
    watching.begin()
    watching.end()
    assert watching.cause is None
    assert caplog.text == ""


async def test_login_goes_on_while_the_server_asks_for_a_sign_of_life() -> None:
    """nats-server asks after a second, and a relay may take longer to admit a bot."""
    said: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"S","version":"2.15.1","max_payload":1048576}\r\n')
        said.extend([await reader.readline(), await reader.readline()])  # CONNECT and PING
        writer.write(b"PING\r\n")
        said.append(await reader.readline())
        writer.write(b"PONG\r\n")
        while await reader.read(1024):
            pass

    async with listening(serve) as port:
        client = HardenedClient()
        address = f"nats://127.0.0.1:{port}"
        await patiently(client.connect(servers=[address], allow_reconnect=False))
        assert client.is_connected
        client.abort()
    assert said[-1] == b"PONG\r\n"


def connector(*, away: bool, spread_s: float = 0.0) -> Connector:
    async def attach(_: HardenedClient) -> None:
        pass

    made = Connector(CREDENTIALS, attach, on_denied=lambda _: None)
    made._is_away = away
    made.spread(spread_s)
    return made


def test_server_that_is_away_is_tried_again_soon() -> None:
    pauses = [connector(away=True).next_pause() for _ in range(20)]
    made = connector(away=True)
    pauses += [made.next_pause() for _ in range(20)]
    assert max(pauses) <= connecting.AWAY_S
    # A relay tries so much sooner that it is there first.
    assert connecting.AWAY_S + connecting.RELAYS_FIRST_S < 0.5


def test_server_that_says_no_is_tried_ever_later() -> None:
    made = connector(away=False)
    pauses = [made.next_pause() for _ in range(20)]
    assert connecting.BACKOFF_MOST_S / 2 <= pauses[-1] <= connecting.BACKOFF_MOST_S


def test_large_bus_spreads_the_return_of_its_bots() -> None:
    pauses = [connector(away=True, spread_s=8.0).next_pause() for _ in range(400)]
    assert all(0 <= pause <= 8 for pause in pauses)
    assert min(pauses) < 2
    assert max(pauses) > 6


def test_single_loss_on_a_small_bus_is_replaced_at_once() -> None:
    small = connector(away=False, spread_s=connecting.AT_ONCE_S)
    assert small.pause_after_loss(is_steady=True) == 0
    large = connector(away=False, spread_s=connecting.AT_ONCE_S + 4)
    assert all(large.pause_after_loss(is_steady=True) <= 4 for _ in range(100))
    assert small.pause_after_loss(is_steady=False) > 0
