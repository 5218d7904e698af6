"""One relay: everything of a bus that runs in one process, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed, SealbusError
from sealbus.supervision import Ended, Supervisor, beside, end, kind, outcome
from sealbus.waiting import Interrupted, race
from sealbus_broker.door.door import Door
from sealbus_broker.door.orders import Orders
from sealbus_broker.errors import ClocksApart, StreamsUnusable
from sealbus_broker.gate.policy import Delivery, Policy
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.nats.connection import HardenedClient, Link, disconnect
from sealbus_broker.nats.jetstream import ask_well
from sealbus_broker.nats.provision import provision
from sealbus_broker.nats.streams import ACCEPTED, LIVE, PARTITIONS
from sealbus_broker.nats.version import check_version
from sealbus_broker.relay import clocks
from sealbus_broker.relay.clocks import Apart
from sealbus_broker.relay.health import Health
from sealbus_broker.relay.ingress import IngressWorker
from sealbus_broker.relay.journal import Journal
from sealbus_broker.relay.last_try import LastTry
from sealbus_broker.relay.ledger import Ledger, ledger_state
from sealbus_broker.relay.live import LiveWorker
from sealbus_broker.relay.pipeline import Pipeline
from sealbus_broker.relay.probe import Prober
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.services.consumers import remove_ungranted
from sealbus_broker.relay.services.router import Services
from sealbus_broker.relay.stopping import Stopped, until_stopped
from sealbus_broker.relay.tally import Tally

log = structlog.get_logger(__name__)

PING_SUBJECT: Final = "relay.ping"
"""Inside the account BUS, where no bot is: some relay answers with its health; ``relay.ping.<name>``, that relay."""

DRAIN_S: Final = 10.0
"""How long a stop waits for what is in hand. What is not finished by then is delivered to another relay, or to the next start."""

LOST_S: Final = 1.0
"""How long a stop waits for a connection that is lost. Nothing can be finished without it."""

ASK_S: Final = 10.0
"""How long JetStream may take for one answer; a leader's election takes seconds."""

RETRY_S: Final = 1.0
"""Between two attempts to read the ledgers of a NATS that has just come back."""

_STREAMS: Final = ((Delivery.STREAM, ACCEPTED), (Delivery.LIVE, LIVE))


def clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def tell(ended: Ended) -> None:
    """Write an unexpected end into the log."""
    log.error(
        "background.ended",
        text=f"error: {ended}",
        whose=ended.whose,
        what=ended.what,
        kind=ended.kind,
        times=ended.times,
        again_s=ended.again_s,
    )


class Relay:
    """Serves one bus on one NATS until told to stop. Keeps nothing that it cannot lose."""

    def __init__(self, *, servers: list[str], secrets: BusSecrets, policy: Callable[[], Policy], name: str) -> None:
        """``servers``: NATS URLs. ``policy`` gives the policy in force, anew for each batch. ``name`` stands in the stamps."""
        self._servers = servers
        self._secrets = secrets
        self._policy = policy
        self._name = name
        self._ledgers: dict[Delivery, Ledger] = {}
        self._journal: Journal | None = None
        self._workers: Sequence[IngressWorker | LiveWorker] = ()
        self._nc: HardenedClient | None = None
        self._supervisor = Supervisor(f"the relay {name}", tell=tell)
        self._reading: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        """Set when a connection has ended for good, which nats-py does on some errors of the server."""
        self._apart = Apart()
        self.tally = Tally(time.monotonic)

    async def run(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until ``stopping`` is set; call ``ready`` once bots can connect.

        Waits for a NATS that cannot be reached, at the start as later, and ends within seconds of
        ``stopping`` whatever it waits for. Raises :class:`RelayError` if the streams are not as the
        bus needs them, :class:`ConnectionFailed` if NATS ends a connection for good, and
        :class:`BackgroundFailed` if something in the background has ended and does not get well.
        """
        error = await outcome(self._run(stopping, ready))
        if isinstance(error, SealbusError):
            raise error
        if error is not None:
            raise self._supervisor.fail("serving", error)

    async def _run(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve while the clocks agree. While they do not, there is no connection: other relays do all the work."""
        told_at = -clocks.AGAIN_S
        while not stopping.is_set():
            try:
                await self._serve_once(stopping, ready)
            except ClocksApart as apart:
                if time.monotonic() - told_at >= clocks.AGAIN_S:
                    told_at = time.monotonic()
                    text = f"error: {apart.what}\nhint: {apart.hint}"
                    log.error("clocks.diverged", text=text, error=apart.what, hint=apart.hint)  # noqa: TRY400  # a sentence
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), clocks.LOOK_S)

    async def _serve_once(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve on a connection of its own, until ``stopping`` is set; raise :class:`ClocksApart` once the clocks are."""
        self._ledgers, self._journal, self._workers, self._nc = {}, None, (), None
        self._closed, self._apart = asyncio.Event(), Apart()
        door = Door(self._door_orders, self._supervisor)
        keeping = self._supervisor.must("the door", door.run(), until=door.stopping)
        try:
            nc = self._nc = await until_stopped(stopping, self._connect())
            await until_stopped(stopping, self._prepare(nc))
            await self._wait_for_young_ledger(stopping)
            if not stopping.is_set():
                await self._serve(nc, door, stopping, ready)
        except Stopped:
            log.info("relay.stopped", before="it was ready")
        except (NatsError, OSError, TimeoutError) as error:
            raise ConnectionFailed(
                f"NATS does not serve this relay any more: {type(error).__name__}: {error}",
                hint="look into nats-server's log, and start the relay again",
            ) from None
        finally:
            if self._reading is not None:
                self._reading.cancel()
            await door.stop()
            await end(keeping)
            if self._nc is not None:
                await disconnect(self._nc)

    def _door_orders(self) -> Orders:
        secrets = self._secrets
        return Orders(tuple(self._servers), self._name, secrets.relay, secrets.issuer, self._policy())

    async def _prepare(self, nc: HardenedClient) -> None:
        """Make what the bus needs in NATS, and ask what the ledgers hold."""
        version = nc.connected_server_version
        check_version(f"{version.major}.{version.minor}.{version.patch}")
        await provision(nc, self._policy())
        await remove_ungranted(nc, self._policy())
        for delivery, stream in _STREAMS:
            ledger = Ledger(nc, stream, in_memory=delivery is Delivery.LIVE)
            self._ledgers[delivery] = ledger
        await self._read_ledgers(nc)

    async def _serve(
        self,
        nc: HardenedClient,
        door: Door,
        stopping: asyncio.Event,
        ready: Callable[[], None],
    ) -> None:
        journal = Journal(nc)
        await journal.open()
        policy, bus_key = self._policy, self._secrets.bus
        meters = RateMeters()
        services = Services(
            nc=nc,
            journal=journal,
            policy=policy,
            key=bus_key,
            relay=self._name,
            tally=self.tally,
            now_ms=clock_ms,
            supervisor=self._supervisor,
            shares=meters.shares,
        )
        await services.open()
        pipeline = Pipeline(
            nc=nc,
            journal=journal,
            ledgers=self._ledgers,
            policy=policy,
            key=bus_key,
            relay=self._name,
            services=services,
            tally=self.tally,
            now_ms=clock_ms,
            meters=meters,
        )
        last_try = LastTry(
            nc=nc,
            journal=journal,
            process=pipeline.process,
            policy=policy,
            relay=self._name,
            tally=self.tally,
            now_ms=clock_ms,
        )
        pulling = [
            IngressWorker(
                nc=nc, partition=partition, process=last_try.process, supervisor=self._supervisor, last_try=last_try
            )
            for partition in range(PARTITIONS)
        ]
        live = LiveWorker(
            nc=nc, process=last_try.process, tally=self.tally, now_ms=clock_ms, supervisor=self._supervisor
        )
        prober = Prober(nc, bus_key, self._name)
        await prober.open()
        health = Health(
            nc=nc,
            prober=prober,
            journal=journal,
            tally=self.tally,
            policy=policy,
            relay=self._name,
            now_ms=clock_ms,
            monotonic=time.monotonic,
        )

        async def on_ping(msg: Msg) -> None:
            with contextlib.suppress(NatsError, OSError):
                await msg.respond(json.dumps(health.report()).encode())

        await nc.subscribe(PING_SUBJECT, queue="relays", cb=on_ping)
        await nc.subscribe(f"{PING_SUBJECT}.{self._name}", queue="relays", cb=on_ping)
        await nc.flush()
        self._journal = journal
        self._workers = [*pulling, live]
        keep = self._supervisor.keep
        tasks = [
            keep(f"partition {partition}", partial(worker.run, stopping), until=stopping)
            for partition, worker in enumerate(pulling)
        ]
        tasks.append(keep("live messages", partial(live.run, stopping), until=stopping))
        beside = [
            keep("looking after the bus's health", partial(health.run, stopping), until=stopping),
            keep("comparing the clocks", partial(self._compare_clocks, nc, stopping), until=stopping),
        ]
        try:
            door.open()
            await self._until_told(stopping, door, ready)
            await self._drain(nc, door, tasks, services)
        finally:
            await end(*tasks, *beside)
            services.cancel()
        log.info("relay.stopped", **self.tally.counts)

    async def _until_told(self, stopping: asyncio.Event, door: Door, ready: Callable[[], None]) -> None:
        """Wait for the end, whoever brings it about; call ``ready`` once the door is open."""
        failed = self._supervisor.failed
        with contextlib.suppress(Interrupted):
            await race(door.opened.wait(), stopping, self._closed, self._apart.is_so, failed)
            ready()
            await race(stopping.wait(), self._closed, self._apart.is_so, failed)
        if self._supervisor.failure is not None:
            raise self._supervisor.failure
        if self._apart.error is not None:
            raise self._apart.error
        if self._closed.is_set():
            raise ConnectionFailed(
                "NATS has ended the relay's connection for good",
                hint="nats-server's log says why; start the relay again",
            )

    async def _drain(
        self, nc: HardenedClient, door: Door, tasks: Sequence[asyncio.Task[None]], services: Services
    ) -> None:
        """Finish what is in hand, within :data:`DRAIN_S`, and within :data:`LOST_S` where there is no connection."""

        async def finish() -> None:
            await door.stop()
            await asyncio.wait(tasks)
            await services.drain()
            await nc.flush()

        async def lost() -> None:
            lost_for = 0.0
            while lost_for < LOST_S:
                await asyncio.sleep(LOST_S / 10)
                lost_for = 0.0 if nc.is_connected else lost_for + LOST_S / 10

        async with beside(finish(), lost(), name="stopping") as (finishing, losing):
            await asyncio.wait({finishing, losing}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if not finishing.done():
                why = "no connection to NATS" if losing.done() else f"not within {DRAIN_S:g} s"
                log.warning("relay.unfinished", why=why, then="what was not finished is delivered again")
            elif (error := finishing.exception()) is not None:
                log.warning("relay.unfinished", why=kind(error))

    async def _connect(self) -> HardenedClient:
        """Log in, however long that takes."""
        link = Link("messages", self._on_lost, self._on_back)
        name = f"sealbus relay {self._name} messages"
        client = await link.connect(self._servers, self._secrets.relay.seed_text, name)
        client.when_closed.add(self._closed.set)
        return client

    def _on_lost(self) -> None:
        for ledger in self._ledgers.values():
            ledger.doubt()
        if self._journal is not None:
            self._journal.on_lost()

    def _on_back(self) -> None:
        """NATS may have come back with less than it had: ask the ledgers before anything else is judged by them."""
        if self._reading is not None:
            self._reading.cancel()
        if self._nc is not None:
            self._reading = self._supervisor.piece("reading the ledgers again", self._reread_ledgers(self._nc))

    async def _reread_ledgers(self, nc: HardenedClient) -> None:
        async def read() -> None:
            # A server that was restarted has lost what is in memory only, the live stream among it.
            await provision(nc, self._policy())
            await self._read_ledgers(nc)

        while (error := await outcome(read())) is not None:  # of any type: nothing is judged before this has succeeded
            if isinstance(error, ClocksApart):
                self._apart.tell(error)
                return
            expected = isinstance(error, (StreamsUnusable, NatsError, OSError))
            log.warning("ledger.not-read", error=str(error) if expected else kind(error))
            await asyncio.sleep(RETRY_S)
        # What was asked for on the connection before is lost with it: ask again now, not after a time-out.
        if self._journal is not None:
            self._journal.on_back()
        for worker in self._workers:
            worker.on_back()

    async def _read_ledgers(self, nc: HardenedClient) -> None:
        await self._check_clocks(nc)
        for delivery, stream in _STREAMS:
            state = await ledger_state(nc, stream)
            self._ledgers[delivery].begin(state.since_ms, state.last_sequence, clock_ms())

    async def _check_clocks(self, nc: HardenedClient) -> None:
        """Raise :class:`ClocksApart`, or what JetStream's API raises."""
        for _, stream in _STREAMS:
            asking = ask_well(nc, f"STREAM.INFO.{stream}", None, ASK_S, "nats-server's clock cannot be told")
            clocks.check(stream, await clocks.difference_ms(asking, clock_ms), self._policy().limits.clock_skew_ms)

    async def _compare_clocks(self, nc: HardenedClient, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self._check_clocks(nc)
            except ClocksApart as error:
                self._apart.tell(error)
            except (StreamsUnusable, NatsError, OSError):
                pass  # the health says so
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), clocks.LOOK_S)

    async def _wait_for_young_ledger(self, stopping: asyncio.Event) -> None:
        """On a new bus, wait until no clock can be behind the ledger's beginning, so that no honest first message is refused."""
        since = max((ledger.since_ms or 0 for ledger in self._ledgers.values()), default=0)
        remaining_ms = since + self._policy().limits.clock_skew_ms + 1 - clock_ms()
        if remaining_ms > 0:
            log.info("ledger.awaited", seconds=round(remaining_ms / 1000, 1))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), remaining_ms / 1000)
