"""Plays a schedule on a bus of its own, and returns the histories.

The steps: the bus starts. Its bots work, and the faults happen. When all faults are healed, the bus
has to accept again. Then the senders end, everything is drained, the subscribers end, and the
relays. At last the streams are read.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.delivery import split_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.seal import Verifier
from sealbus.protocol.shelf_life import is_void
from sealbus.protocol.stamp import open_stamp
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.relay.store.quarantine import RECORD_HEADER, Record
from tests.asking import answered
from tests.faults.histories.actors import DURABLE
from tests.faults.histories.bus import Actor, Bus
from tests.faults.histories.cables import Cables, network
from tests.faults.histories.check import Violation, check, stalls
from tests.faults.histories.faults import STOP_S, Disks, Faults
from tests.faults.histories.history import History, Kept, Stored, events
from tests.faults.histories.schedule import Schedule
from tests.powered_disk import powered
from tests.small_disk import mounted
from tests.waiting import until

ACCEPTS_S: Final = 60.0
"""Within this time after the last fault the bus accepts again. Half-open connections are noticed
within five seconds, and a cluster elects leaders within ten. The rest is for a busy machine."""

DRAIN_S: Final = 120.0
"""Within this time all messages are handled. The messages of a killed subscriber come again after
half a minute, and those of a killed relay after ten seconds."""

BEFORE_S: Final = 0.5
"""How long the bots work before the schedule begins, in seconds."""

STARVED_S: Final = 1.0
"""A turn of this process that is so late says that the machine is busy. A relay's hold of a
partition runs out after two seconds."""

ASK_S: Final = 10.0
DISK: Final = "128m"


@dataclass
class Result:
    """A schedule that was played."""

    schedule: Schedule
    violations: list[Violation] = field(default_factory=list)
    stalls: dict[str, float] = field(default_factory=dict)
    accepts_s: float = 0.0
    """How long after the last fault the bus accepted again."""
    counts: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    history: History = field(default_factory=History)


async def play(schedule: Schedule, folder: Path) -> Result:
    """Play a schedule below ``folder``, and check the histories."""
    began = time.monotonic()
    history = History(relays=schedule.relays, nodes=schedule.nodes)
    result = Result(schedule, history=history)
    async with AsyncExitStack() as stack:
        cables = stack.enter_context(network(_names(schedule))) if schedule.cuts else None
        bus, disks = await _made(stack, schedule, folder, cables)
        run = _Run(bus, history, disks)
        watching = asyncio.create_task(run.watch())
        try:
            result.accepts_s = await run.play()
        finally:
            watching.cancel()
            history.lives = bus.lives()
    result.violations = check(history)
    result.stalls = stalls(history)
    result.counts = _counts(history)
    result.took_s = time.monotonic() - began
    return result


def _names(schedule: Schedule) -> list[str]:
    """The processes that have a namespace."""
    return [
        *(f"node-{number}" for number in range(schedule.nodes)),
        *(f"relay-{number}" for number in range(schedule.relays)),
        *(f"sender-{number}" for number in range(len(schedule.senders))),
        *(f"subscriber-{number}" for number in range(3)),
    ]


async def _made(
    stack: AsyncExitStack, schedule: Schedule, folder: Path, cables: Cables | None
) -> tuple[Bus, Disks]:
    """The bus, and the disks of its nodes that faults can disturb."""
    disks = Disks()
    if "cut-power" in schedule.kinds:
        places = [folder / f"disk-{number}" for number in range(schedule.nodes)]
        disks = Disks(powered=[stack.enter_context(powered(place)) for place in places])
    elif "full-disk" in schedule.kinds:
        disks = Disks(small=[stack.enter_context(mounted(folder / "disk", DISK))])
    with redirect_stderr(StringIO()):  # it tells a person about the keys that it makes
        bus = Bus(folder / "bus", schedule, cables)
    for node, store in zip(bus.nodes, disks.places, strict=False):
        (node.folder / "jetstream").symlink_to(store)
    await stack.enter_async_context(bus)
    return bus, disks


def _counts(history: History) -> dict[str, int]:
    counts: dict[str, int] = {}
    for life in history.lives:
        for event in life.events:
            name = f"live {event.what}" if event.live else event.what
            counts[name] = counts.get(name, 0) + 1
    return counts


class _Run:
    """One schedule on one bus."""

    def __init__(self, bus: Bus, history: History, disks: Disks) -> None:
        self._bus = bus
        self._history = history
        self._disks = disks

    async def watch(self) -> None:
        """Start relays again that end by themselves, as a supervisor does. Notice a busy machine,
        which gives this process no turn."""
        while True:
            at = time.monotonic()
            await asyncio.sleep(0.1)
            if time.monotonic() - at > STARVED_S:
                self._history.starved = True
            for place in self._bus.places:
                program = place.program
                if program is not None and not place.is_to_end and program.returncode is not None:
                    self._history.stuck.append(f"{place.name} ended with {program.returncode}")
                    self._bus.launch_relay(place)

    async def play(self) -> float:
        """Play the schedule. Return how long the bus took to accept after the last fault."""
        bus, schedule = self._bus, self._bus.schedule
        for place in bus.places:
            bus.launch_relay(place)
        actors = [*bus.senders, *bus.subscribers]
        for actor in actors:
            bus.start(actor)
        if schedule.attacker:
            bus.start(bus.attacker)
        await until(bus.are_relays_up, "the relays are up")
        await until(lambda: all(actor.ready() for actor in actors), "the bots are connected")
        await asyncio.sleep(BEFORE_S)
        await Faults(bus, self._history, self._disks).play(schedule.faults)
        healed = time.monotonic()
        accepts_s = await self._accepts(healed)
        await self._end(bus.senders)
        if schedule.attacker:
            # Before all is handled: a copy of a message that was refused for its grant is accepted
            # once the bot has the grant again.
            await bus.end(bus.attacker, signal.SIGKILL, STOP_S)
        await self._drain()
        self._measure()
        await self._end(bus.subscribers)
        await self._end_relays()
        await self._read()
        return accepts_s

    async def _within(
        self, seconds: float, holds: Callable[[], Awaitable[bool]], what: str
    ) -> float:
        """Wait until ``holds``, and return how long. Note ``what`` if it takes too long."""
        began = time.monotonic()
        while not await holds():
            if time.monotonic() - began > seconds:
                self._history.stuck.append(f"{what}: not within {seconds:g} s")
                break
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def _accepts(self, healed: float) -> float:
        """Wait until each sender has had a message accepted that it began after the healing."""
        accepted: dict[str, float] = {}

        async def all_go_on() -> bool:
            for actor in self._bus.senders:
                fresh: set[int] = set()
                for event in events(actor.lives[-1][2]):
                    if event.what == "begin" and event.at > healed:
                        fresh.add(event.number)
                    elif event.what == "accepted" and event.number in fresh:
                        accepted.setdefault(actor.name, event.at)
                        break
            return len(accepted) == len(self._bus.senders)

        await self._within(ACCEPTS_S, all_go_on, "each sender has a message accepted again")
        return max((at - healed for at in accepted.values()), default=ACCEPTS_S)

    async def _end(self, actors: list[Actor]) -> None:
        async def end(actor: Actor) -> None:
            if not await self._bus.end(actor, signal.SIGTERM, STOP_S):
                self._history.stuck.append(f"{actor.life.name} did not end within {STOP_S:g} s")
                await self._bus.end(actor, signal.SIGKILL, STOP_S)

        await asyncio.gather(*(end(actor) for actor in actors))

    async def _end_relays(self) -> None:
        async def end(name: str, at: int) -> None:
            place = self._bus.places[at]
            assert place.program is not None
            try:
                async with asyncio.timeout(STOP_S):
                    await self._bus.end_relay(place, signal.SIGTERM)
            except TimeoutError:
                self._history.stuck.append(f"{name} did not end within {STOP_S:g} s")
                return
            if place.program.returncode != 0:
                self._history.stuck.append(f"{name} ended with {place.program.returncode}")

        await asyncio.gather(*(end(place.name, at) for at, place in enumerate(self._bus.places)))

    def _measure(self) -> None:
        bus = self._bus
        pids = {place.name: place.program.pid for place in bus.places if place.program}
        pids |= {f"node-{at}": node.pid for at, node in enumerate(bus.nodes) if node.pid}
        pids |= {actor.name: actor.process.pid for actor in bus.subscribers if actor.process.pid}
        for name, pid in pids.items():
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
                self._history.memory[name] = int(peak.split()[1]) * 1024

    # ---- the streams -----------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Wait until nothing waits for a verdict or a handler any more."""

        async def is_empty() -> bool:
            with suppress(NatsError, OSError, TimeoutError, KeyError):
                async with self._asking() as ask:
                    ingress = await ask("STREAM.INFO.INGRESS")
                    waits = ingress["state"]["messages"]
                    for bot in ("one", "shared"):
                        name = consumer_name(bot, "work.*", DURABLE)
                        consumer = await ask(f"CONSUMER.INFO.ACCEPTED.{name}")
                        waits += consumer["num_pending"] + consumer["num_ack_pending"]
                    return not waits
            return False

        await self._within(DRAIN_S, is_empty, "every message is judged and handled")

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
        nc = await self._bus.nats()
        try:

            async def ask(what: str, **fields: object) -> dict[str, Any]:
                body = json.dumps(fields).encode() if fields else b""
                answer = await nc.request(f"$JS.API.{what}", body, ASK_S)
                found: dict[str, Any] = json.loads(answer.data)
                return found

            yield ask
        finally:
            await nc.close()

    async def _read(self) -> None:
        nc = await self._bus.nats()
        try:
            self._history.stored = [one async for one in self._accepted(nc)]
            self._history.kept = [one async for one in _kept(nc)]
        finally:
            await nc.close()

    async def _accepted(self, nc: HardenedClient) -> AsyncIterator[Stored]:
        keys, verifier = frozenset({self._bus.secrets.bus.public.raw}), Verifier()
        async for sequence, at_ms, _, data in _messages(nc, "ACCEPTED", "accepted.work.*"):
            envelope, sealed = split_delivery(data)
            opened, stamp = Envelope.decode_shown(envelope), open_stamp(sealed, keys, verifier)
            header = opened.header
            for index, payload in enumerate(opened.payloads):
                if payload is not None and stamp.accepts(index):
                    yield Stored(
                        bot=header.bot,
                        nonce=header.nonce.hex(),
                        index=index,
                        number=unpack_json(payload)["number"],
                        sequence=sequence,
                        relay=stamp.relay,
                        void=is_void(stamp, at_ms),
                    )


async def _kept(nc: HardenedClient) -> AsyncIterator[Kept]:
    async for sequence, _, headers, data in _messages(nc, "QUARANTINE", ">"):
        record = Record.from_header(headers[RECORD_HEADER])
        try:
            opened = Envelope.decode_shown(data)
        except Malformed:  # an undeliverable message has its stamp with it
            digest, payloads = "", []
        else:
            digest, payloads = opened.digest.hex(), opened.payloads
        yield Kept(
            sequence=sequence,
            reason=record.reason,
            session=record.session,
            nonce=record.nonce or "",
            position=record.position,
            payloads=None if record.payloads is None else tuple(record.payloads),
            digest=digest,
            whole=tuple(at for at, payload in enumerate(payloads) if payload is not None),
        )


async def _messages(
    nc: HardenedClient, stream: str, subjects: str
) -> AsyncIterator[tuple[int, int, dict[str, str], bytes]]:
    """Sequence, time (ms since 1970), headers and body of each message of a stream."""
    sequence = 1
    while True:
        ask = json.dumps({"seq": sequence, "next_by_subj": subjects}).encode()
        answer = await answered(nc, f"$JS.API.DIRECT.GET.{stream}", ask)
        headers = dict(answer.headers or {})
        if headers.get("Status"):
            return
        sequence = int(headers["Nats-Sequence"]) + 1
        at = datetime.fromisoformat(headers["Nats-Time-Stamp"])
        yield sequence - 1, int(at.timestamp() * 1000), headers, answer.data
