"""The steps of a request, taken from the notes of its processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import pytest

from benchmarks import trace
from benchmarks.taps import TAPS, Notes, Tap
from benchmarks.trace import WAY, durations, middle

US: Final = 1000
MOMENTS: Final = ("begins", "ends")


class Clock:
    """Notes of requests whose steps take 1, 2, 3 … µs."""

    def __init__(self) -> None:
        self.now = US
        self.notes: dict[str, Notes] = {who: {} for who in TAPS}

    def note(self, who: str, what: str) -> None:
        self.notes[who].setdefault(what, []).append(self.now)

    def request(self) -> None:
        self.note("sender", "request begins")
        for at, step in enumerate(WAY, 1):
            if step.before:
                # The bytes of another message, which came before.
                self.now += at * US // 2
                self.note(step.who, step.note)
                self.now -= at * US // 2
            self.now += at * US
            self.note(step.who, step.note)
        self.now += US


def test_each_step_ends_at_its_own_note() -> None:
    clock = Clock()
    for _ in range(3):
        clock.request()
    assert durations(clock.notes) == [[*range(1, len(WAY) + 1)]] * 3


def test_middle_requests_are_shown_and_their_steps_add_up() -> None:
    rows = [[float(at), 2.0 * at] for at in reversed(range(100))]
    assert middle(rows) == [pytest.approx(49.5), pytest.approx(99.0)]
    assert middle(rows[:1]) == rows[0]


def test_each_note_is_of_a_tap() -> None:
    made = {f"{tap.label} {when}" for taps in TAPS.values() for tap in taps for when in MOMENTS}
    assert {step.note for step in WAY} <= made


class Failed(Exception):
    pass


def fails() -> None:
    raise Failed


async def fails_beside() -> None:
    raise Failed


async def call(name: str) -> None:
    if (waiting := globals()[name]()) is not None:
        await waiting


@pytest.mark.parametrize("name", ["fails", "fails_beside"])
async def test_function_that_fails_notes_its_end(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), name, globals()[name])  # puts it back
    notes: Notes = {}
    before = time.monotonic_ns()
    Tap("it", __name__, name).install(notes)
    with pytest.raises(Failed):
        await call(name)
    (begins,), (ends,) = notes["it begins"], notes["it ends"]
    assert before <= begins <= ends <= time.monotonic_ns()


@pytest.mark.slow
@pytest.mark.processes
async def test_request_on_a_real_bus_has_all_its_steps(tmp_path: Path) -> None:
    found = await trace.measure(tmp_path, 0.2)
    assert found["requests"] > 0
    assert len(found["steps"]) == len(WAY)
    assert all(step["us"] > 0 for step in found["steps"])
    assert found["nats_us"] > 0
