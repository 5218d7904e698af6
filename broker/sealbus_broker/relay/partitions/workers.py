"""The workers of the partitions. Each is made when it is first needed.

The number of partitions may change while a relay serves (:mod:`sealbus_broker.nats.numbers`). Then
the workers of another number are needed. Those of the number before stay until they have given
their partitions back. A lost connection concerns all workers that there are.
"""

from __future__ import annotations

from collections.abc import Callable

from sealbus_broker.nats.streams import Partition
from sealbus_broker.relay.ingress.worker import IngressWorker


class Workers:
    """The workers of one connection."""

    def __init__(self, make: Callable[[Partition], IngressWorker]) -> None:
        """Begin without any. ``make`` makes the worker of a partition."""
        self._make = make
        self._workers: dict[Partition, IngressWorker] = {}

    def of(self, partition: Partition) -> IngressWorker:
        """Return the worker of ``partition``."""
        if partition not in self._workers:
            self._workers[partition] = self._make(partition)
        return self._workers[partition]

    def forget(self, number: int) -> None:
        """Forget the workers of other numbers of partitions than ``number``. None of them works."""
        for at in [at for at in self._workers if at.number != number]:
            # One that failed may still have messages, whose bytes count for all partitions.
            self._workers.pop(at).forget()

    def on_lost(self) -> None:
        """The connection is lost."""
        for worker in self._workers.values():
            worker.on_lost()

    def on_back(self) -> None:
        """The connection is back."""
        for worker in self._workers.values():
            worker.on_back()
