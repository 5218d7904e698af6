"""Losses of nodes of a cluster, by a small run of the program."""

from __future__ import annotations

from pathlib import Path

from tests.faults.nodes import Plan, play


def tell(_: str) -> None:
    pass


async def test_no_loss_of_a_node_breaks_a_promise(tmp_path: Path) -> None:
    kinds = ("kill", "leader-ACCEPTED", "majority", "hasty")
    report = await play(Plan(kinds, rate=20, bots=4), 1, tmp_path / "bus", tell)
    assert report.wrong == []
    assert sum(kind.tries for kind in report.kinds.values()) == len(kinds)


async def test_a_node_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    plan = Plan(rate=80, burst=4, bots=4, minutes=0.2, every_s=6)
    report = await play(plan, 1, tmp_path / "bus", tell)
    assert report.wrong == []
    assert report.kinds["every"].tries >= 2
