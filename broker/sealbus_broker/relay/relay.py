"""One relay: everything of a bus that runs in one process, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed
from sealbus_broker.gate.policy import Delivery, Policy
from sealbus_broker.relay.admission import Admission
from sealbus_broker.relay.connection import HardenedClient, connect
from sealbus_broker.relay.consumers import remove_ungranted
from sealbus_broker.relay.errors import StreamsUnusable
from sealbus_broker.relay.ingress import IngressWorker, LiveWorker
from sealbus_broker.relay.journal import Journal
from sealbus_broker.relay.ledger import Ledger
from sealbus_broker.relay.pipeline import Pipeline
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.services import Services
from sealbus_broker.relay.streams import ACCEPTED, LIVE, PARTITIONS, ledger_state, provision
from sealbus_broker.relay.tally import Tally

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S: Final = 5.0
PING_SUBJECT: Final = "relay.ping"
"""Inside the account BUS, where no bot is: a relay that serves answers with its name."""

DRAIN_S: Final = 10.0
"""How long a stop waits for the batches in hand. What is not finished by then is delivered to another relay, or to the next start."""


RETRY_S: Final = 1.0
"""Between two attempts to read the ledgers of a NATS that has just come back."""


def clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class Relay:
    """Serves one bus on one NATS until told to stop. Keeps nothing that it cannot lose."""

    def __init__(self, servers: list[str], secrets: BusSecrets, policy: Callable[[], Policy], name: str) -> None:
        """``servers``: NATS URLs. ``policy`` gives the policy in force, anew for each batch. ``name`` stands in the stamps."""
        self._servers = servers
        self._secrets = secrets
        self._policy = policy
        self._name = name
        self._ledgers: dict[Delivery, Ledger] = {}
        self._reading: asyncio.Task[None] | None = None
        self.tally = Tally(time.monotonic)

    async def run(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until ``stopping`` is set; call ``ready`` once bots can connect.

        Raises :class:`ConnectionFailed` if NATS cannot be reached at the start, and :class:`RelayError` if the streams are not as the bus
        needs them. A NATS that is lost later is waited for.
        """
        nc = await self._connect("messages")
        door = await self._connect("admission")
        try:
            await provision(nc, self._policy())
            await remove_ungranted(nc, self._policy())
            self._nc = nc
            for delivery, stream in ((Delivery.STREAM, ACCEPTED), (Delivery.LIVE, LIVE)):
                self._ledgers[delivery] = Ledger(nc, stream, stream.lower())
            await self._read_ledgers()
            await self._wait_for_young_ledger(stopping)
            await self._serve(nc, door, stopping, ready)
        finally:
            await door.close()
            await nc.close()

    async def _serve(
        self, nc: HardenedClient, door: HardenedClient, stopping: asyncio.Event, ready: Callable[[], None]
    ) -> None:
        journal = Journal(nc)
        await journal.open()
        services = Services(nc, journal, self._policy, self._secrets.bus, self._name, clock_ms)
        pipeline = Pipeline(
            nc, journal, self._ledgers, self._policy, self._secrets.bus, self._name, services, self.tally, clock_ms
        )
        workers: list[IngressWorker | LiveWorker] = [
            IngressWorker(nc, partition, pipeline.process) for partition in range(PARTITIONS)
        ]
        workers.append(LiveWorker(nc, pipeline.process, clock_ms))
        # Admission has a connection of its own: however many messages there are, who may connect is answered in time.
        admission = Admission(door, self._secrets, self._policy)
        await admission.start()
        await nc.subscribe(PING_SUBJECT, queue="relays", cb=self._on_ping)
        await nc.flush()
        ready()
        log.info("relay.ready", bus=self._policy().bus, relay=self._name)
        tasks = [asyncio.create_task(worker.run(stopping)) for worker in workers]
        stop = asyncio.create_task(stopping.wait())
        try:
            # A worker ends only when told to; one that fails stops the relay, loudly, rather than leave a partition unread.
            done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await admission.stop()
            await asyncio.wait(tasks, timeout=DRAIN_S)
            await services.drain()
            await nc.flush()
        finally:
            stop.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        log.info("relay.stopped", **self.tally.counts)

    async def _on_ping(self, msg: Msg) -> None:
        await msg.respond(self._name.encode())

    async def _connect(self, what: str) -> HardenedClient:
        async def reconnected() -> None:
            log.info("nats.reconnected", connection=what)
            if what == "messages":
                self._on_reconnected()

        async def disconnected() -> None:
            log.warning("nats.disconnected", connection=what)
            if what == "messages":
                self._on_disconnected()

        async def failed(error: Exception) -> None:
            log.warning("nats.error", connection=what, error=f"{type(error).__name__}: {error}")

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await connect(
                    self._servers,
                    self._secrets.relay.seed_text,
                    name=f"sealbus relay {self._name} {what}",
                    on_error=failed,
                    on_disconnected=disconnected,
                    on_reconnected=reconnected,
                )
        except (NatsError, OSError, TimeoutError) as error:
            raise ConnectionFailed(
                f"no NATS for the relay at {', '.join(self._servers)}: {str(error) or type(error).__name__}",
                hint="is nats-server running there, with the configuration that `sealbus prepare` writes?",
            ) from None

    def _on_disconnected(self) -> None:
        for ledger in self._ledgers.values():
            ledger.doubt()

    def _on_reconnected(self) -> None:
        """NATS may have come back with less than it had: ask the ledgers before anything else is judged by them."""
        self._reading = asyncio.get_running_loop().create_task(self._reread_ledgers())

    async def _reread_ledgers(self) -> None:
        while True:
            try:
                # A server that was restarted has lost what is in memory only, the live stream among it.
                await provision(self._nc, self._policy())
                return await self._read_ledgers()
            except (StreamsUnusable, NatsError, OSError) as error:
                log.warning("ledger.unreadable", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _read_ledgers(self) -> None:
        for delivery, stream in ((Delivery.STREAM, ACCEPTED), (Delivery.LIVE, LIVE)):
            state = await ledger_state(self._nc, stream)
            self._ledgers[delivery].begin(state.since_ms, state.last_sequence, clock_ms())

    async def _wait_for_young_ledger(self, stopping: asyncio.Event) -> None:
        """On a new bus, wait until no clock can be behind the ledger's beginning, so that no honest first message is refused."""
        since = max((ledger.since_ms or 0 for ledger in self._ledgers.values()), default=0)
        remaining_ms = since + self._policy().limits.clock_skew_ms + 1 - clock_ms()
        if remaining_ms > 0:
            log.info("relay.waiting-for-ledger", seconds=round(remaining_ms / 1000, 1))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), remaining_ms / 1000)
