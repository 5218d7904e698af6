"""The warning about a stream that is nearly full: its consequence, and the step that helps."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sealbus.protocol.streams import (
    ACCEPTED,
    HEALTH,
    INGRESS,
    KEYRING,
    LIVE,
    PROGRESS,
    QUARANTINE,
    RECORDS,
)
from sealbus_broker.nats.streams import stream_configs
from sealbus_broker.policy.limits import RANGES
from sealbus_broker.relay.problems import FULL_AT, Level, fill_problem
from tests.scene import a_policy

CONFIGS = {str(config["name"]): config for config in stream_configs(a_policy())}

EACH_STREAM = pytest.mark.parametrize("name", CONFIGS)

THEN = {
    INGRESS: "nothing more is accepted",
    ACCEPTED: "nothing more is accepted",
    LIVE: "no live message is accepted",
    QUARANTINE: "the oldest records are deleted",
    HEALTH: None,
    PROGRESS: None,
    RECORDS: "nobody can join, or log in with a token",
    KEYRING: None,
}
"""By stream: the effect when it is full. ``None``: nobody has to know of it."""


def info(name: str, share: float) -> dict[str, Any]:
    config = CONFIGS[name]
    return {"config": config, "state": {"bytes": int(config["max_bytes"] * share) + 1}}


@EACH_STREAM
@pytest.mark.parametrize("share", [FULL_AT, 0.95, 1.0])
def test_a_warning_says_what_happens_at_the_limit(name: str, share: float) -> None:
    found = fill_problem(name, info(name, share))
    then = THEN[name]
    if then is None:
        assert found == []
        return
    (problem,) = found
    assert problem.about == name
    assert problem.what.endswith(then)
    is_lost = share == 1.0 and name in (ACCEPTED, LIVE)
    assert problem.level is (Level.RED if is_lost else Level.WARNING)


@EACH_STREAM
def test_the_consequence_is_that_of_the_stream(name: str) -> None:
    """A stream that drops its oldest messages refuses nothing, and the other way round."""
    drops_oldest = CONFIGS[name]["discard"] == "old"
    for problem in fill_problem(name, info(name, 0.9)):
        assert problem.what.endswith("the oldest records are deleted") == drops_oldest
    if not drops_oldest:
        assert fill_problem(name, info(name, 0.9))


@EACH_STREAM
def test_the_hint_names_a_limit_that_exists(name: str) -> None:
    """Whoever follows a hint to a limit that does not exist has a folder that cannot be used."""
    for problem in fill_problem(name, info(name, 0.9)):
        named = re.findall(r"raise (\w+)\s+in policy\.yaml", problem.hint)
        assert named, problem.hint
        words = re.findall(r"\b[a-z]+_[a-z_]+\b", problem.hint)
        assert {*named, *words} <= RANGES.keys(), problem.hint


@EACH_STREAM
def test_a_stream_with_room_has_no_problem(name: str) -> None:
    assert fill_problem(name, info(name, FULL_AT - 0.01)) == []
