"""The strangers beside a large backlog."""

from __future__ import annotations

from collections import Counter

from benchmarks.drain import crowd, strangers
from sealbus_broker.memory.subject_transform import partition
from sealbus_broker.nats.streams import PARTITIONS


def test_one_stranger_is_in_the_fullest_partition() -> None:
    for senders in (1, 64):
        routes = crowd(senders).routes()
        found = strangers(routes[:senders], routes[senders:])
        backlog = Counter(partition(PARTITIONS, one.bot) for one in routes[:senders])
        places = {where: partition(PARTITIONS, route.bot) for where, route in found.items()}
        assert backlog[places["full partition"]] == max(backlog.values())
        assert backlog[places["emptier partition"]] == min(backlog[at] for at in range(PARTITIONS))
        assert not {*routes[:senders]} & {*found.values()}
