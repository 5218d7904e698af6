"""A bus on one node or three, with all of its processes, for one schedule.

Where the schedule cuts networks, each process is in a namespace of its own
(:mod:`tests.faults.histories.cables`). A server, relay or bot that has ended is replaced by a new
process with the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.nats.config import ClusterConfig, NatsConfig
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.server.process import NatsServer
from tests.e2e.shop import Shop
from tests.faults.histories.actors import Given, attacker, sender, subscriber
from tests.faults.histories.cables import Cables, launcher
from tests.faults.histories.history import SENDER, SUBSCRIBER, Life, events
from tests.faults.histories.plants import PLANTS
from tests.faults.histories.relaying import clock_file
from tests.faults.histories.schedule import NODES, Schedule
from tests.faults.market import SCHEMA
from tests.fork_server import PROCESSES
from tests.forked import ForkedProgram
from tests.ports import free_port

POLICY: Final = """\
version: 1
bus: shop
limits:
  clock_skew: 100ms
  ttl: 60s
  attempts: 3
  replicas: {replicas}
on_violation:
  default: quarantine
roles:
  sender:
    publish: [work.*, pulse.*, ask.check]
bots:
  one:
    subscribe: [work.*, pulse.*, ask.check]
  shared:
    subscribe: [work.*]
{senders}
subjects:
  work.*:
    schema: work.v1
  pulse.*:
    delivery: live
    schema: work.v1
  ask.check:
    delivery: live
    schema: work.v1
    reply: work.v1
"""
"""Three attempts, so that a message that always fails is parked after some seconds."""

SUBSCRIBERS: Final = ("one", "shared", "shared")
"""The bots of the subscribers' processes."""

LIFE_NUMBERS: Final = 1_000_000
"""The numbers of messages that one process of a sender may use."""


class Actor:
    """A place for a process of a bot, and the lives of all processes that were there."""

    def __init__(self, role: str, bot: str, name: str, mode: str) -> None:
        self.role = role
        self.bot = bot
        self.name = name
        self.mode = mode
        self.lives: list[tuple[Life, ForkServerProcess, Path]] = []
        self.busy = asyncio.Lock()
        """Held by the fault that happens to it."""

    @property
    def life(self) -> Life:
        """The latest one."""
        return self.lives[-1][0]

    @property
    def process(self) -> ForkServerProcess:
        """The latest one."""
        return self.lives[-1][1]

    def ready(self) -> bool:
        """Whether the latest process was ever connected."""
        return any(event.what == "ready" for event in events(self.lives[-1][2]))


class RelayPlace:
    """A place for a relay's process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.program: ForkedProgram | None = None
        self.is_to_end = False
        """Whether somebody has killed the process, or told it to stop."""
        self.busy = asyncio.Lock()


class _Node(NatsServer):
    """A server in a namespace."""

    address = ""
    """Where this process reaches it. Empty: where it listens."""
    binary: Callable[[Path], Path] = staticmethod(lambda binary: binary)

    @property
    def _address(self) -> str:
        return self.address or super()._address

    async def _spawn(self, binary: Path) -> None:
        await super()._spawn(self.binary(binary))


class Bus(Shop):
    """The processes of one schedule. Inside ``async with`` its servers run."""

    def __init__(self, folder: Path, schedule: Schedule, cables: Cables | None) -> None:
        self.schedule = schedule
        self.cables = cables
        self._ports = [free_port() for _ in range(schedule.nodes)]
        self._routes = [free_port() for _ in range(schedule.nodes)]
        self.senders = [
            Actor(SENDER, f"s{at}", f"sender-{at}", mode)
            for at, mode in enumerate(schedule.senders)
        ]
        self.subscribers = [
            Actor(SUBSCRIBER, bot, f"subscriber-{at}", bot) for at, bot in enumerate(SUBSCRIBERS)
        ]
        self.attacker = Actor("attacker", "", "attacker", "")
        self.places = [RelayPlace(f"relay-{at}") for at in range(schedule.relays)]
        super().__init__(folder, self._fill)
        self.diaries = folder / "diaries"
        self.diaries.mkdir()
        self.nodes = [self._make_node(number) for number in range(schedule.nodes)]
        self.node_locks = [asyncio.Lock() for _ in self.nodes]

    # ---- the folder ------------------------------------------------------------------------------

    def _find_urls(self) -> tuple[str, ...]:
        return tuple(f"nats://{self._host(n)}:{port}" for n, port in enumerate(self._ports))

    def _host(self, number: int) -> str:
        return self.cables.address(f"node-{number}") if self.cables else "127.0.0.1"

    def _fill(self, folder: Path) -> None:
        bots = [actor.bot for actor in self.senders]
        senders = "".join(f"  {bot}:\n    roles: [sender]\n" for bot in bots)
        text = POLICY.format(replicas=self.schedule.nodes, senders=senders.rstrip())
        (folder / "policy.yaml").write_text(text)
        (folder / "schemas").mkdir()
        (folder / "schemas" / "work.v1.json").write_text(SCHEMA)
        facts = BusFile("shop", self.urls, (self.bus.open_secrets().bus.public,))
        for bot in (*bots, *set(SUBSCRIBERS)):
            make_key(self.bus, bot, facts, datetime.now(UTC))
        self.bus.record(lambda _: facts)

    # ---- servers ---------------------------------------------------------------------------------

    def _make_server(self) -> NatsServer:
        return self._make_node(0)

    def _make_node(self, number: int) -> NatsServer:
        folder = self.bus.state / f"node-{number}"
        folder.mkdir(exist_ok=True)
        routes = tuple((self._host(at), port) for at, port in enumerate(self._routes))
        host = "0.0.0.0" if self.cables else "127.0.0.1"  # noqa: S104  # inside a namespace
        cluster = ClusterConfig("shop", host, self._routes[number], routes)
        mistake = PLANTS.get(self.schedule.plant)
        config = NatsConfig(
            store_dir=folder / "jetstream",
            relay=self.secrets.relay.public,
            issuer=self.secrets.issuer.public,
            host=host,
            port=self._ports[number],
            server_name=f"node-{number}",
            cluster=cluster if self.schedule.nodes == NODES else None,
            sync_interval=mistake.sync_interval if mistake else "always",
        )
        node = _Node(config, folder)
        if self.cables:
            namespace = self.cables.namespace(f"node-{number}")
            node.address = self._host(number)
            node.binary = lambda binary: launcher(folder, binary, namespace)
        return node

    async def start_node(self, number: int) -> None:
        """Start a node that has ended, on its port and its store."""
        await self.nodes[number].stop()
        self.nodes[number] = self._make_node(number)
        await self.nodes[number].start()

    async def kill_node(self, number: int) -> None:
        """Kill a node, as in a crash."""
        pid = self.nodes[number].pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        await self.nodes[number].stop()

    async def __aenter__(self) -> Bus:  # noqa: PYI034  # nobody derives from it
        self._stack.push_async_callback(self._end)
        await asyncio.gather(*(node.start() for node in self.nodes))
        return self

    async def _end(self) -> None:
        for actor in (*self.senders, *self.subscribers, self.attacker):
            for _, process, _ in actor.lives:
                if process.is_alive():
                    process.kill()
        for place in self.places:
            if place.program is not None and place.program.returncode is None:
                place.program.kill()
                await place.program.wait()
        for node in self.nodes:
            if node.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(node.pid, signal.SIGCONT)
        await asyncio.gather(*(node.stop() for node in self.nodes))

    # ---- relays ----------------------------------------------------------------------------------

    def log_of(self, place: RelayPlace) -> Path:
        """The log of all relays that were at a place."""
        return self.bus.path / f"{place.name}.log"

    def launch_relay(self, place: RelayPlace, *, off_ms: int = 0) -> None:
        """Start a relay, and do not wait for it. ``off_ms``: how far its clock is off."""
        clock_file(self.bus.path, place.name).write_text(str(off_ms))
        namespace = self.cables.namespace(place.name) if self.cables else "-"
        servers = [part for url in self.urls for part in ("--server", url)]
        place.program = ForkedProgram(
            (
                *("tests.faults.histories.relaying", namespace, self.schedule.plant or "-"),
                *("relay", "--dir", str(self.bus.path), *servers, "--name", place.name),
            ),
            self.log_of(place),
        )
        place.is_to_end = False

    async def end_relay(self, place: RelayPlace, number: int) -> None:
        """Kill a relay, or tell it to stop, and wait for its end."""
        assert place.program is not None
        place.is_to_end = True
        place.program.send_signal(number)
        await place.program.wait()

    def are_relays_up(self) -> bool:
        """Whether each relay has ever said that it is up."""
        return all(
            self.log_of(place).exists() and b"is up at" in self.log_of(place).read_bytes()
            for place in self.places
        )

    # ---- bots ------------------------------------------------------------------------------------

    def start(self, actor: Actor) -> None:
        """Start the next process of an actor."""
        number = len(actor.lives)
        diary = self.diaries / f"{actor.bot}-{actor.name}-{number}.jsonl"
        credentials = str(self.bus.credentials(actor.bot)) if actor.bot else ""
        if actor is self.attacker:
            stolen = [str(self.bus.credentials(one.bot)) for one in self.senders]
            credentials = "\n".join(stolen)
        inside = self.cables is not None and actor is not self.attacker
        given = Given(
            bot=actor.bot,
            credentials=credentials,
            diary=str(diary),
            seed=self.schedule.seed * 1000 + number,
            first=number * LIFE_NUMBERS,
            mode=actor.mode,
            namespace=self.cables.namespace(actor.name) if self.cables and inside else "",
            plant=self.schedule.plant,
        )
        target = {SENDER: sender, SUBSCRIBER: subscriber}.get(actor.role, attacker)
        process = PROCESSES.Process(target=target, args=(given,), daemon=True)
        process.start()
        name = f"{actor.name}, process {number}"
        actor.lives.append((Life(actor.role, actor.bot, name, actor.mode), process, diary))

    async def end(self, actor: Actor, number: int, within_s: float) -> bool:
        """Kill the latest process of an actor, or tell it to stop. Whether it ended in time."""
        life, process, _ = actor.lives[-1]
        if process.is_alive() and process.pid is not None:
            at = time.monotonic()
            if number == signal.SIGKILL:
                life.killed_at = at
            else:
                life.told_at = at
            os.kill(process.pid, number)
        deadline = time.monotonic() + within_s
        while process.is_alive() and time.monotonic() < deadline:  # noqa: ASYNC110  # a process
            await asyncio.sleep(0.02)
        return not process.is_alive()

    def lives(self) -> list[Life]:
        """The lives of all bots, with their events so far."""
        found: list[Life] = []
        for actor in (*self.senders, *self.subscribers, self.attacker):
            for life, process, diary in actor.lives:
                life.events = list(events(diary))
                life.code = process.exitcode
                found.append(life)
        return found
