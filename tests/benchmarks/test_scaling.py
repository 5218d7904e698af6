"""The buses that grow: each of their schemas is one that a relay takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bus import Bus
from benchmarks.relaycost import order_schema
from benchmarks.scaling import SCHEMA_FACTORS, SMALL, larger
from benchmarks.workload import orders
from sealbus_broker.gate.schemas import Schema
from tests.cli.command import quickly


@pytest.mark.parametrize("factor", SCHEMA_FACTORS)
def test_larger_schema_is_taken_for_the_same_orders(tmp_path: Path, factor: int) -> None:
    schema = larger(order_schema(), factor)
    assert len(schema["properties"]) == factor * len(order_schema()["properties"])
    Bus(tmp_path / "bus", SMALL.plan(schema))
    ran = quickly("check", cwd=tmp_path / "bus")
    assert ran.code == 0, ran.err
    compiled = Schema.compile("order.v1", json.loads(json.dumps(schema)))
    assert all(compiled.is_valid(order) for order in orders(1024))
