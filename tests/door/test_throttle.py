"""The number of lines that strangers can write into the log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.throttle import FIRST, KINDS, LINES, PERIOD_S, QUIET_S, Throttle
from tests.scene import Scene


class Clock:
    """A clock that stands until a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_few_lines_of_a_kind_are_written_and_the_rest_counted() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert [throttle.may_speak("a") for _ in range(FIRST + 2)] == [0] * FIRST + [None, None]
    assert throttle.may_speak("b") == 2
    clock.now += QUIET_S
    assert [throttle.may_speak("a") for _ in range(2)] == [0, None]
    clock.now += PERIOD_S
    assert [throttle.may_speak("a") for _ in range(2)] == [1, 0]


def test_of_any_number_of_kinds_so_many_lines_are_written() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    spoken = [throttle.may_speak(number) for number in range(3 * KINDS)]
    assert spoken.count(None) == 3 * KINDS - LINES
    assert len(throttle._spoken) <= KINDS
    clock.now += PERIOD_S
    assert throttle.may_speak("another") == 3 * KINDS - LINES


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 30)), max_size=300))
def test_every_line_is_written_or_counted(events: list[tuple[int, float]]) -> None:
    clock = Clock()
    throttle, written, left_out = Throttle(clock, lines=5), 0, 0
    for kind, later_s in events:
        clock.now += later_s
        unsaid = throttle.may_speak(kind)
        if unsaid is not None:
            written += 1
            left_out += unsaid
    assert written + left_out + throttle._unsaid == len(events)
    assert written <= 5 * (1 + (clock.now - 1000) // PERIOD_S)


@pytest.fixture
async def clock(scene: Scene) -> AsyncIterator[Clock]:
    """The clock of the scene's admission, which is replaced by one with it."""
    made = Clock()
    await scene.admission.stop()
    admission = Admission(
        nc=await scene.login(),
        issuer=scene.secrets.issuer,
        policy=lambda: scene.policy,
        monotonic=made,
    )
    await admission.start()
    yield made
    await admission.stop()


async def test_refused_logins_fill_no_log(scene: Scene, clock: Clock) -> None:
    """This holds for any number of tries, and for any number of names."""
    key, tries = SigningKey.generate(KeyKind.BOT), 2 * LINES
    with capture_logs() as logs:
        for number in range(tries):
            with pytest.raises(nats.errors.Error):
                await scene.bot("order" if number % 2 else f"ghost-{number}", key=key)
        clock.now += PERIOD_S
        with pytest.raises(nats.errors.Error):
            await scene.bot("late", key=key)
    assert [entry["event"] for entry in logs] == ["admission.denied"] * (LINES + 1)
    assert sum(entry["left_out"] for entry in logs) == tries - LINES


async def test_logins_of_one_bot_fill_no_log(scene: Scene, clock: Clock) -> None:
    with capture_logs() as logs:
        for bot in ("order",) * (FIRST + 2) + ("inventory",):
            await scene.bot(bot)
    told = [(entry["event"], entry["bot"], entry["left_out"]) for entry in logs]
    assert told == [("admission.granted", "order", 0)] * FIRST + [
        ("admission.granted", "inventory", 2)
    ]
