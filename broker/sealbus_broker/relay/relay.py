"""One relay: everything of a bus that runs in one process, started and stopped in order.

A relay goes through these states:

========== ============================================================ ===========================
state      meaning                                                      left for
========== ============================================================ ===========================
connecting there is no NATS yet; it waits, however long that takes      preparing
preparing  it makes the streams, reads the ledgers, and waits until     serving
           they are old enough. On a lost connection it begins again
serving    it judges, admits bots, answers on the bus's own subjects    lost, apart, draining
lost       the connection is lost. Nothing is judged; nats-py connects  serving, once the ledgers
           again                                                        are read
apart      the clocks differ, the policy is too old, or the bus key     connecting, every few
           has ended. There is no connection, so other relays do all    seconds
           the work
draining   told to stop: it finishes the messages in hand               ended
========== ============================================================ ===========================

``stopping``, an event of whoever runs the relay, leads from any state to the end, within seconds.
So does an error: NATS ends the connection for good, the streams are unusable, or background work
keeps failing. A relay keeps nothing that it cannot lose: the messages in hand are delivered again,
and the ledger recognises those that were accepted.

While it serves, it follows its folder (:mod:`sealbus_broker.relay.following.folder`), and the keys
of the bus (:mod:`sealbus_broker.relay.bus_keys`). Where it may write the folder, it enrols invited
bots (:mod:`sealbus_broker.relay.clerk`).

The *door* (:mod:`sealbus_broker.door.process`), which admits bots, is another process. It runs in
each of these states apart from the pauses while the clocks are apart, and is opened once the relay
serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from nats.errors import Error as NatsError

from sealbus.errors import ConnectionFailed, SealbusError
from sealbus.nats.client import HardenedClient
from sealbus.nats.tls_files import TlsFiles
from sealbus.supervision import Supervisor, end, outcome, pause
from sealbus.waiting import Interrupted, race
from sealbus_broker.door.orders import Orders
from sealbus_broker.door.process import Door, Doorway, MakeDoor
from sealbus_broker.errors import (
    BusKeyEnded,
    ClocksApart,
    FolderUnseen,
    RelayError,
    StreamsAway,
)
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.jetstream import unanswered
from sealbus_broker.nats.provision import NODES_S, provision
from sealbus_broker.nats.version import check_version
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.places import Places
from sealbus_broker.policy.reading import Reading
from sealbus_broker.policy.watching import Folder
from sealbus_broker.relay.background import tell
from sealbus_broker.relay.bus_keys import RelayKeys
from sealbus_broker.relay.connections import Connections, ended_for_good
from sealbus_broker.relay.draining import drain
from sealbus_broker.relay.floods.watch import FloodWatch
from sealbus_broker.relay.following.folder import Following, too_old
from sealbus_broker.relay.following.live_sessions import LiveSessions
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.live.leader import LiveLeader
from sealbus_broker.relay.live.worker import LiveWorker
from sealbus_broker.relay.partitions.sharing import Sharing
from sealbus_broker.relay.partitions.workers import Workers
from sealbus_broker.relay.parts import RelayParts
from sealbus_broker.relay.problems import BusProblem, no_problems
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.services.consumers import ConsumersUnheard, remove_ungranted
from sealbus_broker.relay.stopping import StoppedEarly, until_stopped
from sealbus_broker.relay.store import clocks
from sealbus_broker.relay.store.clocks import Apart, clock_ms
from sealbus_broker.relay.store.ledgers import Ledgers
from sealbus_broker.relay.store.stream_store import StreamStore

log = get_logger(__name__)

AWAY_S: Final = 1.0
"""The pause before the streams of a JetStream without a leader are looked at again. An election
takes about as long."""

_EVENTS: Final = {
    BusKeyEnded: "bus-key.ended",
    ClocksApart: "clocks.diverged",
    FolderUnseen: "policy.too-old",
}


def _tell_apart(apart: BusKeyEnded | ClocksApart | FolderUnseen) -> None:
    event = _EVENTS[type(apart)]
    text = f"error: {apart.what}\nhint: {apart.hint}"
    log.error(event, text=text, error=apart.what, hint=apart.hint)


class Relay:
    """Serves one bus on one NATS until it is told to stop.

    The module names its states. :meth:`run` leads through them. ``_connections`` calls
    :meth:`_on_lost` and :meth:`_on_back`, which lead into *lost* and out of it. All other work is
    in tasks of the supervisor, which :meth:`_serve_once` ends.
    """

    def __init__(
        self,
        *,
        servers: list[str],
        secrets: BusSecrets,
        policy: Policy,
        name: str,
        tls: TlsFiles | None = None,
        folder: Folder | None = None,
        enrols_in: Path | None = None,
        make_door: MakeDoor = Door,
        surroundings: Callable[[Limits], Sequence[BusProblem]] = no_problems,
        secrets_file: Path | None = None,
    ) -> None:
        """Prepare; :meth:`run` serves.

        Args:
            servers: NATS URLs.
            secrets: The bus's own keys.
            policy: The policy of the folder, which was just read.
            name: The relay's name, which its stamps have.
            tls: The certificates of its connections. ``None``: those of the system.
            folder: The folder to follow. ``None``: the policy never changes.
            enrols_in: The folder into which it writes the keys of invited bots. ``None``: operators
                do that.
            make_door: Makes the door. In a test the door is in the same process.
            surroundings: Gives problems for the health that NATS does not know of.
            secrets_file: The file of the bus's own keys, to follow. ``None``: they never change.
        """
        self._servers = servers
        self._tls = tls
        self._secrets = secrets
        self._policy = InForce(policy, time.monotonic)
        """The policy in force, anew for each batch."""
        self._keys = RelayKeys(secrets, self._policy, now_ms=clock_ms, file=secrets_file)
        """The bus keys: the one to seal with, and those to believe."""
        self._reading = None if folder is None else Reading(folder, self._policy)
        """Looks at the folder. ``None``: there is none to follow."""
        self._places = Places(policy)
        """The places of ids in the ledgers, which may not change while this process runs."""
        self._enrols_in = enrols_in
        self._make_door = make_door
        self._surroundings = surroundings
        self._name = name
        self._supervisor = Supervisor(f"the relay {name}", tell=tell, sentences=(RelayError,))
        """Answers for all background work. Its failure ends the relay."""
        self.counters = VerdictCounters(time.monotonic)
        """The counts of verdicts, over all connections."""
        # Of the present connections: _serve_once sets each of them anew.
        self._connections = self._make_connections()
        self._apart = Apart()
        """Set when the clocks are apart."""
        self._ledgers: Ledgers | None = None
        """``None``: before they are read."""
        self._stream_store: StreamStore | None = None
        """``None``: before the state *serving*."""
        self._workers: Sequence[Workers | LiveWorker] = ()
        """They pull and receive messages. Empty before the state *serving*."""
        self._sharing: Sharing | None = None
        """Shares the partitions with other relays. ``None``: before the state *serving*."""
        self._following: Following | None = None
        """Follows the folder. ``None``: before the state *serving*, and without a folder."""
        self.door: Doorway | None = None
        """The door, once there is one."""
        self._coming_back: asyncio.Task[None] | None = None
        """The task that leads from *lost* to *serving*, or the last one that did."""

    @property
    def admits(self) -> bool:
        """Whether bots can come in, as far as is known."""
        return self.door is not None and self.door.opened.is_set()

    async def run(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until ``stopping`` is set; call ``ready`` once bots can connect.

        Raises:
            RelayError: The streams are not as the bus needs them, or the door does not stay up.
            ConnectionFailed: NATS ends a connection for good.
            BackgroundFailed: Background work has ended, and does not recover.
        """
        error = await outcome(self._run(stopping, ready))
        # Such an error is a sentence for an operator. The text of any other may quote the bytes of
        # a stranger, so only its kind leaves (ADR 23).
        if isinstance(error, SealbusError):
            raise error
        if error is not None:
            raise self._supervisor.fail("serving", error)

    async def reload(self) -> InForce:
        """Look at the folder now; return once the sessions of bots obey the newest usable policy.

        It has to serve, and to have a folder.
        """
        assert self._following is not None
        await self._following.follow_now()
        return self._policy

    async def _run(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve while the clocks agree, and wait while they do not."""
        # Not 0: the monotonic clock may begin at 0 when the machine starts, and the first line
        # would then wait for a minute.
        told_at = -clocks.AGAIN_S
        while not stopping.is_set():
            try:
                await self._serve_once(stopping, ready)
            except (BusKeyEnded, ClocksApart, FolderUnseen) as apart:
                if time.monotonic() - told_at >= clocks.AGAIN_S:
                    told_at = time.monotonic()
                    _tell_apart(apart)
                await pause(clocks.LOOK_S, until=stopping)

    async def _look(self) -> None:
        """Look whether the folder can be read again, and whether there is a key to seal with.

        Raises:
            FolderUnseen: There is no policy to judge by.
            BusKeyEnded: There is no such key.
        """
        await self._keys.read_file()
        if (ended := self._keys.ended) is not None:
            raise ended
        if self._reading is not None and self._policy.is_too_old:
            await self._reading.look()
            if self._policy.is_too_old:
                raise too_old(self._policy)

    async def _serve_once(self, stopping: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve on a connection of its own until ``stopping`` is set. Raise :class:`BusKeyEnded`,
        :class:`ClocksApart` or :class:`FolderUnseen`."""
        connections = self._connections = self._make_connections()
        self._apart = Apart()
        self._ledgers = None
        self._stream_store = None
        self._workers = ()
        self._sharing = None
        self._following = None
        try:
            await until_stopped(stopping, self._look())
        except StoppedEarly:
            return
        # The door begins first, because its process takes a while to start. It waits for its
        # orders.
        door = self.door = self._make_door(self._door_orders, self._supervisor)
        # Not keep(): the door starts its process again by itself, so an end of run() is final.
        working = [self._supervisor.must("the door", door.run(), until=door.stopping)]
        try:
            nc = await until_stopped(stopping, connections.connect())
            # From here on, because a relay that starts waits for LIVE's ledger.
            watch = partial(LiveLeader(nc).watch, stopping)
            working.append(self._supervisor.keep("watching LIVE's leader", watch, until=stopping))
            ledgers = Ledgers(nc=nc, policy=self._policy, now_ms=clock_ms, apart=self._apart)
            await until_stopped(stopping, self._prepare(nc, ledgers))
            await ledgers.wait_for_age(stopping)
            if not stopping.is_set():
                live_nc = await until_stopped(stopping, connections.connect_live())
                await self._serve(nc, live_nc, ledgers, door, stopping, ready)
        except StoppedEarly:
            log.info("relay.stopped", before="it was ready")
        except (NatsError, OSError, TimeoutError) as error:
            raise ConnectionFailed(
                f"NATS does not serve this relay any more: {type(error).__name__}: {error}",
                hint="look into nats-server's log, and start the relay again",
            ) from None
        finally:
            await self._give_up()
            await door.stop()
            # Where the door was never opened, its run() still waits for that, and only this ends
            # it.
            await end(*working)
            await connections.close()

    async def _give_up(self) -> None:
        """End the work that never ends by itself without a connection, because each error leads to
        another attempt."""
        if self._coming_back is not None:
            self._coming_back.cancel()
        if self._following is not None:
            await self._following.close()

    def _make_connections(self) -> Connections:
        return Connections(
            servers=self._servers,
            relay_seed=self._secrets.relay.seed_text,
            relay=self._name,
            tls=self._tls,
            on_lost=self._on_lost,
            on_back=self._on_back,
        )

    def _door_orders(self) -> Orders:
        secrets = self._secrets
        return Orders(
            tuple(self._servers),
            self._name,
            secrets.relay,
            secrets.issuer,
            self._policy(),
            self._tls,
            self._keys.session_issuer,
        )

    async def _prepare(self, nc: HardenedClient, ledgers: Ledgers) -> None:
        """Make the streams and consumers, and read the ledgers."""

        async def prepare() -> None:
            version = nc.connected_server_version
            check_version(f"{version.major}.{version.minor}.{version.patch}")
            # Before the ledgers are read: on a new bus, and after each start of nats-server, there
            # is no LIVE to read.
            await provision(nc, self._policy(), least=self._policy.windows, nodes_s=NODES_S)
            # Bots have to find a key before anything is sealed with it.
            await self._keys.look(nc)
            if (ended := self._keys.ended) is not None:
                raise ended
            # A grant may have been taken away while no relay ran, and its bot could still pull. The
            # task *obeying* looks again. One leader that is silent holds up no bus until then.
            with contextlib.suppress(ConsumersUnheard):
                await remove_ungranted(nc, self._policy())
            await ledgers.read()

        while True:
            try:
                await self._connections.unbroken(prepare)
                break
            except (StreamsAway, NatsError, TimeoutError) as failed:
                # An election, or nodes that are still to start. A supervisor that starts the relay
                # again could do no more.
                error = (
                    failed
                    if isinstance(failed, StreamsAway)
                    else unanswered(f"JetStream did not answer: {type(failed).__name__}: {failed}")
                )
                what = f"JetStream is not ready, and the relay waits: {error.what}"
                text = f"{what}\nhint: {error.hint}"
                log.warning("streams.awaited", text=text, error=error.what, hint=error.hint)
                await asyncio.sleep(AWAY_S)
        # From here on a lost connection makes them invalid, and they are read again.
        self._ledgers = ledgers

    async def _serve(
        self,
        nc: HardenedClient,
        live_nc: HardenedClient,
        ledgers: Ledgers,
        door: Doorway,
        stopping: asyncio.Event,
        ready: Callable[[], None],
    ) -> None:
        def forget_backlog(bot: str) -> None:
            parts.forget_backlog(bot)

        floods = FloodWatch(
            nc=nc,
            key=self._keys,
            policy=self._policy,
            relay=self._name,
            now_ms=clock_ms,
            supervisor=self._supervisor,
            take_worthless=self.counters.take_worthless,
            forget_backlog=forget_backlog,
        )
        parts = RelayParts(
            nc=nc,
            live_nc=live_nc,
            ledgers=ledgers,
            policy=self._policy,
            keys=self._keys,
            relay=self._name,
            counters=self.counters,
            now_ms=clock_ms,
            supervisor=self._supervisor,
            surroundings=lambda limits: [*self._surroundings(limits), *floods.problems()],
            enrols_in=self._enrols_in,
        )
        await parts.open()
        following = self._make_following(nc, ledgers, door, parts)
        # From here on _serve_once() ends its work, also where it is not served.
        self._following = following
        if following is not None:
            await until_stopped(stopping, following.open())
            if self._apart.error is not None:
                raise self._apart.error
        # So that NATS knows of all these subscriptions before a bot comes in.
        await until_stopped(stopping, self._connections.unbroken(nc.flush))
        # From here on a lost connection concerns them.
        self._stream_store = parts.stream_store
        self._workers = parts.workers
        self._sharing = parts.sharing
        working = parts.work(stopping)
        keep = self._supervisor.keep
        watching = [
            *parts.watch(stopping),
            keep("comparing the clocks", partial(ledgers.compare_clocks, stopping), until=stopping),
            keep(
                "watching for floods",
                partial(floods.run, parts.stream_store, stopping),
                until=stopping,
            ),
            keep(
                "following the bus's keys",
                partial(self._keys.run, nc, self._apart, stopping, door.follow),
                until=stopping,
            ),
        ]
        if following is not None:
            work = partial(following.run, stopping)
            watching.append(keep("following the folder", work, until=stopping))
        try:
            # Not earlier: a bot that comes in may publish at once, and expects a verdict.
            door.open()
            await self._until_told(stopping, door, ready)
            await drain(nc, door, working, parts.services)
        finally:
            await end(*working, *watching)
            # Behind the workers: one that still ran could hand over another request.
            parts.services.cancel()
        log.info("relay.stopped", **self.counters.counts)

    def _make_following(
        self, nc: HardenedClient, ledgers: Ledgers, door: Doorway, parts: RelayParts
    ) -> Following | None:
        if self._reading is None:
            return None
        return Following(
            nc=nc,
            reading=self._reading,
            in_force=self._policy,
            places=self._places,
            apart=self._apart,
            door=door,
            ledgers=ledgers,
            sessions=LiveSessions(nc=nc, key=self._keys, bus=self._policy().bus, now_ms=clock_ms),
            stream_store=parts.stream_store,
            settled=parts.pipeline.settle,
            relay=self._name,
            now_ms=clock_ms,
            supervisor=self._supervisor,
        )

    async def _until_told(
        self, stopping: asyncio.Event, door: Doorway, ready: Callable[[], None]
    ) -> None:
        """Wait for the end, whoever brings it about; call ``ready`` once the door is open."""
        ends = self._connections.closed, self._apart.is_so, self._supervisor.failed
        with contextlib.suppress(Interrupted):
            await race(door.opened.wait(), stopping, *ends)
            ready()
            await race(stopping.wait(), *ends)
        # Whoever ended the wait, a failure must not look like a stop: the process ends with its
        # error.
        if self._supervisor.failure is not None:
            raise self._supervisor.failure
        if self._apart.error is not None:
            raise self._apart.error
        if self._connections.closed.is_set():
            raise ended_for_good()

    def _on_lost(self) -> None:
        """Come into the state *lost*. A start begins again."""
        if self._ledgers is not None:
            self._ledgers.invalidate()
        if self._stream_store is not None:
            self._stream_store.on_lost()
        for worker in self._workers:
            worker.on_lost()

    def _on_back(self) -> None:
        """Read the ledgers again, and then leave the state *lost*."""
        if self._coming_back is not None:
            # The connection was lost once more. That reading may hold answers of the server before.
            self._coming_back.cancel()
        if self._sharing is not None:
            # At once: reading takes seconds, and the others would take this relay for frozen.
            self._sharing.on_back()
        if self._ledgers is not None:
            reading = self._ledgers.reread(self._go_on)
            self._coming_back = self._supervisor.piece("reading the ledgers again", reading)

    def _go_on(self) -> None:
        """Leave the state *lost*. Live messages may still wait for their ledger."""
        # The requests on the lost connection are lost with it: make them again now, not after a
        # time-out.
        if self._stream_store is not None:
            self._stream_store.on_back()
        # Last: messages that come before the ledgers are valid only wait, and use up ACK_WAIT_S.
        for worker in self._workers:
            worker.on_back()
        if self._following is not None:
            self._following.on_back()
