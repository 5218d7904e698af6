"""The states of a session key that comes from exchanges. The bus is a function here;
tests/e2e/test_identities.py has a real one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import pytest

from sealbus import ConnectionFailed, Credentials, CredentialsError, Malformed
from sealbus.life import exchanging
from sealbus.life.exchanging import Exchanger
from sealbus.protocol.certificate import Certificate, certify
from sealbus.protocol.exchange import ExchangeRecord
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.tokens import TokenFunction
from tests.oidc.issuer import encode
from tests.waiting import PATIENCE_S, until

ISSUER: Final = SigningKey.generate(KeyKind.BOT)
BUS_KEY: Final = SigningKey.generate(KeyKind.BUS).public.text
SERVER: Final = "tls://127.0.0.1:4222"
LIFE_S: Final = 1000


class Clock:
    """Both clocks of the module: they go on only by hand."""

    def __init__(self) -> None:
        self.passed = 0.0

    def time(self) -> float:
        return time.time() + self.passed

    def monotonic(self) -> float:
        return 5000.0 + self.passed


class Bus(Exchanger):
    """Exchanges tokens as relays do: once each."""

    def __init__(self, token: Callable[[], Any], clock: Clock) -> None:
        credentials = Credentials.from_oidc(
            bus="shop", bot="order", servers=[SERVER], bus_keys=[BUS_KEY], token=token
        )
        assert credentials.tokens is not None
        super().__init__(credentials, credentials.tokens)
        self.clock = clock
        self.records: dict[str, ExchangeRecord] = {}
        self.asked: list[str] = []
        self.loses_answers = False
        self.bus = "shop"

    async def _ask(self, server: str, token: str, identity: str, key: SigningKey) -> ExchangeRecord:
        self.asked.append(identity)
        certificate = certify(
            ISSUER,
            key.public.raw,
            bus=self.bus,
            bot="order",
            not_before_ms=int(self.clock.time() * 1000),
            life_ms=LIFE_S * 1000,
        )
        record = self.records.setdefault(identity, ExchangeRecord(key.public.raw, certificate))
        if self.loses_answers:
            raise ConnectionFailed("the connection was lost")
        return record


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(exchanging, "time", made)
    return made


@pytest.fixture
def bus(clock: Clock) -> Bus:
    numbers = count()
    return Bus(lambda: a_token(next(numbers)), clock)


def a_token(number: int) -> str:
    payload = json.dumps({"jti": number}).encode()
    return ".".join(encode(part) for part in (b"{}", payload, b"x"))


def fails() -> str:
    raise CredentialsError("no token today")


def give(bus: Bus, token: Callable[[], Any]) -> None:
    bus._source = TokenFunction(token)


async def test_key_is_kept_for_half_of_its_life(bus: Bus, clock: Clock) -> None:
    first = await bus.session_key(SERVER)
    assert bus.enrolled == ISSUER.public.raw
    clock.passed += LIFE_S / 2 - 1
    assert await bus.session_key(SERVER) is first
    assert bus.renew_s == pytest.approx(LIFE_S / 4, abs=2)
    clock.passed += 2
    second = await bus.session_key(SERVER)
    assert second.key.public.raw != first.key.public.raw
    assert len(bus.asked) == 2


async def test_key_serves_on_while_there_is_no_token(
    bus: Bus, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    first = await bus.session_key(SERVER)
    give(bus, fails)
    clock.passed += LIFE_S - 100
    with caplog.at_level(logging.WARNING, logger="sealbus"):
        assert await bus.session_key(SERVER) is first
    assert "no new session key for order yet: no token today" in caplog.text
    assert bus.renew_s == pytest.approx(50, abs=1)
    clock.passed += 100
    with pytest.raises(CredentialsError, match="no token today"):
        await bus.session_key(SERVER)


async def test_same_token_is_not_shown_again(bus: Bus, clock: Clock) -> None:
    """As with a file that the platform has not replaced yet."""
    give(bus, lambda: a_token(7))
    first = await bus.session_key(SERVER)
    clock.passed += LIFE_S * 0.6
    assert await bus.session_key(SERVER) is first
    assert len(bus.asked) == 1
    clock.passed += LIFE_S
    with pytest.raises(CredentialsError, match="was used before"):
        await bus.session_key(SERVER)


async def test_doubted_key_is_replaced_at_once(bus: Bus) -> None:
    first = await bus.session_key(SERVER)
    bus.doubt()
    second = await bus.session_key(SERVER)
    assert second is not first
    assert await bus.session_key(SERVER) is second


async def test_doubted_key_is_tried_on_without_a_token(bus: Bus) -> None:
    """The refusal may have had another cause, such as a relay that was away."""
    first = await bus.session_key(SERVER)
    give(bus, fails)
    bus.doubt()
    assert await bus.session_key(SERVER) is first


async def test_lost_answer_does_not_use_the_token_up(bus: Bus) -> None:
    give(bus, lambda: a_token(7))
    bus.loses_answers = True
    with pytest.raises(ConnectionFailed):
        await bus.session_key(SERVER)
    bus.loses_answers = False
    key = await bus.session_key(SERVER)
    (record,) = bus.records.values()
    assert record.key == key.key.public.raw
    assert Certificate.decode(key.certificate).life_ms == LIFE_S * 1000


async def test_token_of_another_process_is_named_once(bus: Bus, clock: Clock) -> None:
    give(bus, lambda: a_token(7))
    other = Bus(lambda: a_token(7), clock)
    other.records = bus.records
    await other.session_key(SERVER)
    with pytest.raises(CredentialsError, match="by another process") as told:
        await bus.session_key(SERVER)
    assert "needs a new one" in str(told.value.hint)
    with pytest.raises(CredentialsError, match="was used before"):
        await bus.session_key(SERVER)
    assert len(bus.asked) == 1


async def test_certificate_for_another_bus_is_refused(bus: Bus) -> None:
    bus.bus = "other"
    with pytest.raises(Malformed, match="the certificate does not hold for its session key"):
        await bus.session_key(SERVER)


async def test_source_that_hangs_is_asked_once(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanging, "TOKEN_S", 0.01)
    calls = 0
    released = asyncio.Event()

    async def slow() -> str:
        nonlocal calls
        calls += 1
        await released.wait()
        return a_token(1)

    give(bus, slow)
    for _ in range(3):
        with pytest.raises(CredentialsError, match="has not come within"):
            await bus.session_key(SERVER)
    monkeypatch.setattr(exchanging, "TOKEN_S", PATIENCE_S)
    released.set()
    await bus.session_key(SERVER)
    assert calls == 1


async def give_up(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an attempt that ends before the source answers."""
    with monkeypatch.context() as hasty:
        hasty.setattr(exchanging, "TOKEN_S", 0.01)
        with pytest.raises(CredentialsError, match="has not come within"):
            await bus.session_key(SERVER)


@pytest.mark.parametrize(("pause_s", "calls"), [(59, 1), (61, 2)])
async def test_token_that_comes_between_attempts_is_taken(
    bus: Bus, clock: Clock, monkeypatch: pytest.MonkeyPatch, pause_s: int, calls: int
) -> None:
    """The source takes longer than an attempt. A token that has waited for a minute is dropped."""
    numbers = count()
    released = asyncio.Event()

    async def slow() -> str:
        number = next(numbers)
        await released.wait()
        return a_token(number)

    give(bus, slow)
    await give_up(bus, monkeypatch)
    released.set()
    await until(lambda: bus._getting is not None and bus._getting.done())
    clock.passed += pause_s
    await bus.session_key(SERVER)
    assert next(numbers) == calls


async def test_source_that_failed_between_attempts_is_told(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()

    async def slow() -> str:
        await released.wait()
        return fails()

    give(bus, slow)
    await give_up(bus, monkeypatch)
    released.set()
    with pytest.raises(CredentialsError, match="no token today"):
        await bus.session_key(SERVER)
    give(bus, lambda: a_token(1))
    await bus.session_key(SERVER)


async def test_errors_of_an_attempt_are_sentences(bus: Bus) -> None:
    assert "not exchanged yet" in bus.explain(None).what
    assert "was not exchanged within 10 s" in bus.explain(TimeoutError()).what
    assert bus.explain(CredentialsError("no token", hint="get one")).hint == "get one"
    assert bus.explain(ValueError("s3cr3t")).what == (
        "order could not get a session key: ValueError"
    )
