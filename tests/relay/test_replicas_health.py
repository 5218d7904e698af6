"""The problem of a stream's replicas, from the words of nats-server 2.15.1."""

from __future__ import annotations

from typing import Any

import pytest

from sealbus_broker.relay.problems import SILENT_S, Level, behind, replica_problem

NODE: dict[str, Any] = {"name": "node-1", "current": True, "active": 79_582_961}
OTHER = NODE | {"name": "node-2"}


def told(*others: dict[str, Any], leader: str = "node-0") -> dict[str, Any]:
    return {
        "config": {"num_replicas": 3},
        "cluster": {"name": "shop", "leader": leader, "replicas": list(others)},
    }


LATE = NODE | {"current": False, "lag": 6}
SILENT = NODE | {"current": False, "active": int((SILENT_S + 1) * 1e9)}
NOBODY: frozenset[str] = frozenset()


def test_a_replica_that_is_away_is_a_warning() -> None:
    info = told(NODE | {"offline": True}, OTHER)
    (problem,) = replica_problem("ACCEPTED", info, NOBODY)
    assert problem.level is Level.WARNING
    assert "away at node-1" in problem.what
    assert behind(info) == NOBODY


@pytest.mark.parametrize("replica", [LATE, SILENT])
def test_a_replica_that_stays_behind_is_a_warning(replica: dict[str, Any]) -> None:
    info = told(replica, OTHER)
    assert behind(info) == {"node-1"}
    assert replica_problem("ACCEPTED", info, NOBODY) == []
    (problem,) = replica_problem("ACCEPTED", info, behind(info))
    assert problem.level is Level.WARNING
    assert "behind at node-1" in problem.what


def test_a_stream_without_a_leader_is_red() -> None:
    (problem,) = replica_problem("LIVE", told(NODE, OTHER, leader=""), NOBODY)
    assert (problem.level, problem.about) == (Level.RED, "LIVE")


def test_a_replica_that_nobody_keeps_is_a_warning() -> None:
    (problem,) = replica_problem("ACCEPTED", told(NODE), NOBODY)
    assert "1 without a node" in problem.what


@pytest.mark.parametrize(
    "info",
    [
        told(NODE, OTHER),
        told(NODE | {"current": False}, OTHER),
        {"config": {"num_replicas": 1}},
        {"config": {}},
    ],
)
def test_whole_streams_have_no_problem(info: dict[str, Any]) -> None:
    assert replica_problem("ACCEPTED", info, behind(info)) == []
