"""What fuzzing begins with, and what it ever found, through every parser. ``make fuzz`` looks for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import ALL, TARGETS

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_read_or_refused(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for data in (b"", b"\0", *seeds):
        TARGETS[name].run(data)


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda case: f"{case.parent.name}/{case.name[:14]}")
def test_what_was_found_is_read_or_refused(case: Path) -> None:
    (ALL if case.parent.name == "all" else TARGETS[case.parent.name]).run(case.read_bytes())


def test_a_broken_promise_would_be_seen() -> None:
    """The targets assert; so Python must not have been told to leave assertions out."""
    with pytest.raises(AssertionError):
        assert not CASES.is_dir()
