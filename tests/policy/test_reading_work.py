"""A large bus is read as quickly as its size allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
import referencing

from benchmarks.crowd import Crowd
from benchmarks.relaycost import order_schema
from sealbus_broker.policy.problems import HINTED
from sealbus_broker.policy.watching import WatchedFolder
from tests.performance.instructions import instructions
from tests.policy.folder import Folder

pytestmark = pytest.mark.slow

GROWTH_MOST: Final = 4.2
"""The instructions to read a bus of four times the size again, divided by those of the smaller one.

Measured: 3.1. It was 7.0 when each grant was compared with each subject.
"""


def large_bus(folder: Path, size: int) -> WatchedFolder:
    """A bus of so many bots and subjects, with ten times as many grants."""
    plan = Crowd(size, size, 10 * size).plan(order_schema())
    (folder / "schemas").mkdir(parents=True)
    (folder / "policy.yaml").write_text(plan.policy)
    (folder / "schemas/order.v1.json").write_text(json.dumps(plan.schemas["order.v1"]))
    return WatchedFolder(folder, frozenset())


def read_again(folder: Path, size: int) -> int:
    """The instructions of a second reading, which takes no file apart."""
    watched = large_bus(folder, size)
    assert watched.load().policy is not None
    (count,) = instructions(lambda _: watched.load(), [None, None])
    return count


def test_work_of_a_reading_grows_no_faster_than_the_bus(tmp_path: Path) -> None:
    small = read_again(tmp_path / "small", 50)
    assert read_again(tmp_path / "large", 200) / small < GROWTH_MOST


def test_similar_names_are_looked_for_a_few_times_only(tmp_path: Path) -> None:
    """To look for them at each of 10,000 grants took more than five minutes."""
    watched = large_bus(tmp_path / "bus", 50)
    policy = watched.path / "policy.yaml"
    policy.write_text(policy.read_text().replace("  orders.s", "  order.s"))
    problems = watched.load().problems
    assert len(problems) == 500
    hints = [problem.hint or "" for problem in problems]
    assert sum("did you mean order.s" in hint for hint in hints) == HINTED
    assert all(hints)


@pytest.mark.parametrize("keyword", ["$anchor", "$id"])
def test_references_do_not_search_all_schemas_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    """For 100 references in a schema of 100 KiB it took some five seconds."""
    searches = []
    crawl = referencing.Registry.crawl

    def noted(registry: referencing.Registry[object]) -> referencing.Registry[object]:
        searches.append(registry)
        return crawl(registry)

    monkeypatch.setattr(referencing.Registry, "crawl", noted)
    names = [f"part{number}" for number in range(10)]
    prefix = "#" if keyword == "$anchor" else ""
    schema = {
        "properties": {name: {"$ref": f"{prefix}{name}"} for name in names},
        "$defs": {name: {keyword: name, "type": "string"} for name in names},
    }
    bus = Folder(tmp_path)
    bus.write("schemas/order.v1.json", json.dumps(schema))
    assert bus.problems() == []
    assert len(searches) == 1
