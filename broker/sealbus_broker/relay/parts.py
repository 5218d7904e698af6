"""The parts of a relay that serve on one connection, and how they depend on each other.

Data flows one way::

    partitions ─┐
                ├─> last try ─> pipeline ─> streams, receipts
    live ───────┘                  │
                                   └──────> services (requests to the bus itself)

Beside them, *sharing* says which partitions this relay works on, and which are another's. *Health*
sends a message of its own the whole way, and looks at the streams.

:class:`RelayParts` makes them, and :meth:`RelayParts.open` subscribes. Whoever made them runs them
(:mod:`sealbus_broker.relay.relay`). A new connection gets new parts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sealbus.nats.client import HardenedClient
from sealbus.supervision import Supervisor
from sealbus_broker.gate.policy import MOST_PARTITIONS, Limits
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.nats.streams import Partition
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.relay.bus_keys import RelayKeys
from sealbus_broker.relay.clerk import Clerk
from sealbus_broker.relay.health import Health
from sealbus_broker.relay.ingress.last_try import LastTry
from sealbus_broker.relay.ingress.rereading import Rereading
from sealbus_broker.relay.ingress.senders import Senders
from sealbus_broker.relay.ingress.stops import Stops
from sealbus_broker.relay.ingress.waiting import Bodies
from sealbus_broker.relay.ingress.worker import IngressWorker
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.judging.pipeline import Pipeline
from sealbus_broker.relay.live.worker import LiveWorker
from sealbus_broker.relay.partitions.sharing import Sharing
from sealbus_broker.relay.partitions.workers import Workers
from sealbus_broker.relay.probe import Prober
from sealbus_broker.relay.problems import BusProblem
from sealbus_broker.relay.promises import Promises
from sealbus_broker.relay.services.router import ServiceRouter
from sealbus_broker.relay.store.ledgers import Ledgers
from sealbus_broker.relay.store.stream_store import StreamStore


class RelayParts:
    """All of them, for one connection."""

    def __init__(
        self,
        *,
        nc: HardenedClient,
        live_nc: HardenedClient,
        ledgers: Ledgers,
        policy: InForce,
        keys: RelayKeys,
        relay: str,
        counters: VerdictCounters,
        now_ms: Callable[[], int],
        supervisor: Supervisor,
        surroundings: Callable[[Limits], Sequence[BusProblem]],
        enrols_in: Path | None,
    ) -> None:
        """Make them; nothing is sent or asked.

        Args:
            nc: The relay's connection.
            live_nc: Its connection for live messages, which bots may flood.
            ledgers: The ledgers, which are read.
            policy: The policy in force, anew for each batch.
            keys: The bus keys: the one to seal with, and those to believe.
            relay: The relay's name.
            counters: Count verdicts.
            now_ms: The wall clock, in ms since 1970.
            supervisor: Answers for the tasks.
            surroundings: Gives problems for the health that NATS does not know of.
            enrols_in: The folder for the keys of invited bots. ``None``: nobody enrols them here.
        """
        self._supervisor = supervisor
        self.stream_store = StreamStore(nc)
        # One set of meters: the answers of services count against the same shares as messages.
        meters = RateMeters()
        self.services = ServiceRouter(
            nc=nc,
            stream_store=self.stream_store,
            policy=policy,
            key=keys,
            relay=relay,
            counters=counters,
            now_ms=now_ms,
            supervisor=supervisor,
            shares=meters.shares,
        )
        self.pipeline = Pipeline(
            nc=nc,
            stream_store=self.stream_store,
            ledgers=ledgers.by_delivery,
            policy=policy,
            key=keys,
            relay=relay,
            services=self.services,
            counters=counters,
            now_ms=now_ms,
            reads=(nc, live_nc),
            meters=meters,
        )
        last_try = LastTry(
            nc=nc,
            stream_store=self.stream_store,
            process=self.pipeline.process,
            policy=policy,
            relay=relay,
            counters=counters,
            now_ms=now_ms,
        )
        senders = Senders()
        bodies = Bodies()
        rereading = Rereading(nc)

        def make_worker(partition: Partition) -> IngressWorker:
            return IngressWorker(
                nc=nc,
                partition=partition,
                process=last_try.process,
                supervisor=supervisor,
                last_try=last_try,
                stops=Stops(nc, self.stream_store, partition),
                senders=senders,
                bodies=bodies,
                rereading=rereading,
            )

        self._partitions = Workers(make_worker)
        self.sharing = Sharing(
            nc=nc,
            live_nc=live_nc,
            relay=relay,
            worker=self._partitions.of,
            forget=self._partitions.forget,
            policy=policy,
            supervisor=supervisor,
            enrols=enrols_in is not None,
        )
        self._live = LiveWorker(
            nc=live_nc,
            process=last_try.process,
            counters=counters,
            now_ms=now_ms,
            supervisor=supervisor,
        )
        self._promises = Promises(nc, policy)
        self._prober = Prober(nc, key=keys, sender=relay, trusted=lambda: keys.trusted)
        self._health = Health(
            nc=nc,
            prober=self._prober,
            stream_store=self.stream_store,
            counters=counters,
            policy=policy,
            relay=relay,
            now_ms=now_ms,
            monotonic=time.monotonic,
            sharing=self.sharing,
            shares=meters.shares,
            surroundings=lambda limits: [
                *surroundings(limits),
                *keys.problems(),
                *self._promises.problems,
                *self._live.problems(),
            ],
        )
        self._clerk = (
            None
            if enrols_in is None
            else Clerk(
                nc=nc,
                folder=enrols_in,
                policy=policy,
                is_due=lambda: self.sharing.is_to_enrol,
            )
        )

    @property
    def workers(self) -> Sequence[Workers | LiveWorker]:
        """The parts that pull and receive messages."""
        return [self._partitions, self._live]

    def forget_backlog(self, bot: str) -> None:
        """The sessions of ``bot`` end, because it floods the bus."""
        self._live.forget_backlog(bot)

    async def open(self) -> None:
        """Subscribe. Returns before NATS knows of it."""
        await self.stream_store.open()
        await self.services.open()
        await self._prober.open()
        await self._health.open()
        await self.sharing.open()

    def work(self, stopping: asyncio.Event) -> list[asyncio.Task[None]]:
        """Begin to take messages. The tasks end after ``stopping`` is set, with nothing in hand."""
        keep = self._supervisor.keep
        working = [
            keep(
                f"partition {partition}",
                partial(self.sharing.hold, partition, stopping),
                until=stopping,
            )
            for partition in range(MOST_PARTITIONS)
        ]
        live = partial(self._live.run, stopping)
        has_shared = asyncio.Event()

        async def share() -> None:
            await self.sharing.run(stopping)
            has_shared.set()

        return [
            *working,
            keep("live messages", live, until=stopping),
            # It alone tells the workers to give their partitions back. So it begins again also
            # where it has failed before a stop.
            keep("sharing with other relays", share, until=has_shared),
        ]

    def watch(self, stopping: asyncio.Event) -> list[asyncio.Task[None]]:
        """Begin to look after the bus's health, and to enrol invited bots."""
        keep = self._supervisor.keep
        work = partial(self._health.run, stopping)
        promises = partial(self._promises.run, stopping)
        watching = [
            keep("looking after the bus's health", work, until=stopping),
            keep("looking at what NATS gives", promises, until=stopping),
        ]
        if self._clerk is not None:
            work = partial(self._clerk.run, stopping)
            watching.append(keep("enrolling invited bots", work, until=stopping))
        return watching
