"""A session whose signer blocks, fails or lies, on the server in memory."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from sealbus import Bot, Credentials, CredentialsError
from sealbus.life import certifying, connecting
from sealbus.nats import diagnosis
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.supervision import end
from tests.refusal import refusal
from tests.shells.stage import Kept, Stage
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.slow

SECRET = "the PIN is 1234"
"""Text of a strange error, which nobody may see."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short. No attempt ends by time, because the tests count the calls of a signer."""
    monkeypatch.setattr(connecting, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(connecting, "BACKOFF_MOST_S", 0.01)
    monkeypatch.setattr(connecting, "ATTEMPT_S", PATIENCE_S)
    monkeypatch.setattr(certifying.Certifier, "within_s", PATIENCE_S)


@pytest.fixture
def signers_have_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt is given up when its signer has not answered within 0.3 s."""
    monkeypatch.setattr(certifying.Certifier, "within_s", 0.3)


class Elsewhere:
    """A signer with a key of its own. A test says how it signs, and counts its calls."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.sign_now: Callable[[bytes], bytes] = key.sign
        self.threads: list[threading.Thread] = []
        self.overlaps = 0
        """How often it was called during another call."""
        self._inside = threading.Lock()

    @property
    def public(self) -> PublicKey:
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        if not self._inside.acquire(blocking=False):
            self.overlaps += 1
            self._inside.acquire()
        try:
            self.threads.append(threading.current_thread())
            return self.sign_now(message)
        finally:
            self._inside.release()

    def works(self) -> None:
        """Sign as it should from now on."""
        self.sign_now = self._key.sign


@pytest.fixture
def signer(stage: Stage) -> Elsewhere:
    return Elsewhere(stage.keys["order"])


def kept(stage: Stage, signer: Elsewhere) -> Kept:
    """A session of a bot whose key is elsewhere."""
    return Kept(stage, "order", credentials=replace(stage.credentials("order"), key=signer))


async def opens(one: Kept) -> None:
    """Open the session, and close it again."""
    async with asyncio.timeout(PATIENCE_S):
        await one.session.open()
    assert one.session.is_up
    await one.session.close()


async def test_signer_elsewhere_is_called_in_a_daemon_thread(
    stage: Stage, signer: Elsewhere
) -> None:
    await opens(kept(stage, signer))
    (thread,) = signer.threads
    assert thread is not threading.main_thread()
    assert thread.daemon


async def test_each_connection_asks_the_signer_once(stage: Stage, signer: Elsewhere) -> None:
    one = kept(stage, signer)
    async with asyncio.timeout(PATIENCE_S):
        await one.session.open()
    first = one.session.key
    stage.server.cut("order")
    await until(lambda: one.back != [], "it is back")
    assert one.session.key.key.public != first.key.public
    assert len(signer.threads) == len(one.attached) == 2
    await one.session.close()


async def test_key_in_memory_needs_no_thread(stage: Stage) -> None:
    before = threading.active_count()
    await opens(Kept(stage, "order"))
    assert threading.active_count() == before


def fails(error: BaseException) -> Callable[[bytes], bytes]:
    def sign(_: bytes) -> bytes:
        raise error

    return sign


def lies(signature: object) -> Callable[[bytes], bytes]:
    def sign(_: bytes) -> bytes:
        return signature  # type: ignore[return-value]  # what a careless author does

    return sign


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        (fails(ValueError(SECRET)), "the signer of order failed: ValueError at test_signers.py:"),
        (fails(SystemExit(SECRET)), "the signer of order failed: SystemExit at test_signers.py:"),
        (fails(CredentialsError("the card is not there", hint="insert it")), "card is not there"),
        (lies(bytes(63)), "the signer of order gave 63 bytes; expected a signature of 64 bytes"),
        (lies(bytes(96)), "the signer of order gave 96 bytes"),
        (lies(None), "the signer of order gave NoneType"),
        (lies(bytearray(64)), "the signer of order gave bytearray"),
        (lies(bytes(64)), "does not hold for its key U"),
        (SigningKey.generate(KeyKind.BOT).sign, "does not hold for its key U"),
    ],
    ids=["raises", "exits", "explains", "63", "96", "none", "bytearray", "zeros", "another"],
)
async def test_signer_that_fails_is_explained_and_asked_again(
    stage: Stage,
    signer: Elsewhere,
    caplog: pytest.LogCaptureFixture,
    sign: Callable[[bytes], bytes],
    said: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    signer.sign_now = sign
    one = kept(stage, signer)
    opening = asyncio.create_task(one.session.open())
    await until(lambda: said in str(one.session.explain()), lambda: str(one.session.explain()))
    await until(lambda: f"no session with the bus: {one.session.explain()}" in caplog.text)
    told = one.session.explain()
    assert told.hint
    assert stage.keys["order"].seed_text not in caplog.text + str(told) + told.hint
    assert SECRET not in caplog.text + str(told) + told.hint
    assert not opening.done()
    signer.works()
    async with asyncio.timeout(PATIENCE_S):
        await opening
    await one.session.close()


class Hanging:
    """Signs when a test says so."""

    def __init__(self, signer: Elsewhere) -> None:
        self._go = threading.Event()
        self._works = signer.sign_now
        signer.sign_now = self

    def __call__(self, message: bytes) -> bytes:
        assert self._go.wait(PATIENCE_S)
        return self._works(message)

    def go(self) -> None:
        self._go.set()


@pytest.mark.usefixtures("signers_have_little_time")
async def test_signer_that_hangs_does_not_block_the_loop(stage: Stage, signer: Elsewhere) -> None:
    hanging = Hanging(signer)
    one = kept(stage, signer)
    opening = asyncio.create_task(one.session.open())
    said = "the signer of order has not answered within 0.3 s"
    await until(lambda: said in str(one.session.explain()), "the cause is known")
    await asyncio.sleep(0.7)  # at least one more attempt, which begins no second call
    assert len(signer.threads) == 1
    hanging.go()
    async with asyncio.timeout(PATIENCE_S):
        await opening
    assert len(signer.threads) == 1, "the late answer is used"
    await one.session.close()


@pytest.mark.usefixtures("signers_have_little_time")
async def test_answer_that_is_too_late_is_not_used(
    stage: Stage, signer: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certifying, "LATE_S", 0.1)
    hanging = Hanging(signer)
    one = kept(stage, signer)
    opening = asyncio.create_task(one.session.open())
    await until(lambda: "has not answered" in str(one.session.explain()), "the cause is known")

    def in_time(message: bytes) -> bytes:
        monkeypatch.setattr(certifying, "LATE_S", PATIENCE_S)
        return stage.keys["order"].sign(message)

    signer.sign_now = in_time  # from the second call on
    hanging.go()
    async with asyncio.timeout(PATIENCE_S):
        await opening
    assert len(signer.threads) == 2
    await one.session.close()


async def test_bots_with_the_same_credentials_ask_in_turn(stage: Stage, signer: Elsewhere) -> None:

    def slowly(message: bytes) -> bytes:
        time.sleep(0.05)
        return stage.keys["order"].sign(message)

    signer.sign_now = slowly
    credentials = replace(stage.credentials("order"), key=signer)
    both = [Kept(stage, "order", credentials=credentials) for _ in range(4)]
    await asyncio.gather(*(opens(one) for one in both))
    assert (len(signer.threads), signer.overlaps) == (4, 0)


async def test_attempt_that_is_given_up_names_the_signer(stage: Stage, signer: Elsewhere) -> None:
    hanging = Hanging(signer)
    one = kept(stage, signer)
    opening = asyncio.create_task(one.session.open())
    await until(lambda: signer.threads != [], "it is asked")
    await end(opening)
    assert "the signer of order has not answered yet" in str(one.session.explain())
    hanging.go()
    await opens(one)
    assert len(signer.threads) == 1


async def test_slow_signer_is_not_taken_for_a_slow_bus(
    stage: Stage, signer: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal after some time would mean that no relay is there."""
    monkeypatch.setattr(diagnosis, "NO_RELAY_S", 0.4)

    def slowly(message: bytes) -> bytes:
        time.sleep(0.5)
        return stage.keys["order"].sign(message)

    signer.sign_now = slowly
    stage.policy = replace(stage.policy, bots={})
    one = kept(stage, signer)
    opening = asyncio.create_task(one.session.open())
    # A busy machine can make the answer to one login late as well, but not to each.
    await until(
        lambda: "order was not admitted" in str(one.session.explain()),
        lambda: f"the cause is known: {one.session.explain()}",
    )
    await end(opening)
    await one.session.close()


async def test_signer_that_fails_between_sessions(stage: Stage, signer: Elsewhere) -> None:
    """A bot whose card is pulled stays connected, and comes back after its next insertion."""
    one = kept(stage, signer)
    async with asyncio.timeout(PATIENCE_S):
        await one.session.open()
    signer.sign_now = fails(CredentialsError("the card is not there", hint="insert it"))
    stage.server.cut("order")
    await until(lambda: "card is not there" in str(one.session.explain()), "the cause is known")
    signer.works()
    await until(lambda: one.back != [], "it is back")
    await one.session.close()


async def test_connect_with_a_deadline_says_why(stage: Stage, signer: Elsewhere) -> None:
    signer.sign_now = fails(CredentialsError("the card is not there", hint="insert it"))
    bot = Bot(replace(stage.credentials("order"), key=signer))
    refused = await refusal(bot, "card is not there")
    assert refused.hint == "insert it"


def test_credentials_with_a_signer_elsewhere_show_only_names(signer: Elsewhere) -> None:
    class Careless(Elsewhere):
        def __repr__(self) -> str:
            return SECRET

    key = SigningKey.generate(KeyKind.BOT)
    made = Credentials("shop", "order", Careless(key), ("nats://a:4222",), frozenset([bytes(32)]))
    assert SECRET not in repr(made)
    with pytest.raises(CredentialsError, match="is not in this process"):
        made.write("x.toml")


HANGS = """
import asyncio, threading
from sealbus import Bot, ConnectionFailed, Credentials
from sealbus.protocol.keys import KeyKind, SigningKey

class Hangs:
    public = SigningKey.generate(KeyKind.BOT).public
    def sign(self, message):
        threading.Event().wait()

async def main():
    bot = Bot(Credentials("shop", "order", Hangs(), ("nats://127.0.0.1:1",), frozenset()))
    try:
        await bot.connect(timeout=1.0)
    except ConnectionFailed as error:
        print(error)

asyncio.run(main())
"""


def test_process_ends_although_its_signer_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"the signer of order has not answered yet\n"
