"""The strangers beside a large backlog."""

from __future__ import annotations

from benchmarks.drain import CROWD, strangers
from sealbus_broker.memory.subject_transform import partition
from sealbus_broker.nats.streams import PARTITIONS


def test_one_stranger_is_in_the_partition_of_the_backlog() -> None:
    routes = CROWD.routes()
    found = strangers(routes)
    places = {where: partition(PARTITIONS, route.bot) for where, route in found.items()}
    assert places["same partition"] == partition(PARTITIONS, routes[0].bot)
    assert places["another partition"] != places["same partition"]
    assert routes[0] not in found.values()
