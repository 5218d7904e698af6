"""The faults of a schedule: what each does to a bus, and how it heals.

A fault holds the lock of each process that it disturbs. So a process has one fault at a time, and
faults of different processes overlap. A fault that finds no process to disturb is left out.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nats.errors import Error as NatsError

from sealbus.protocol.codec import is_bundle, split_bundle
from sealbus.protocol.envelope import Envelope
from sealbus_broker.errors import ServerFailed
from tests.cli.command import sealbus_beside
from tests.faults.histories.bus import Actor, Bus, RelayPlace
from tests.faults.histories.cables import WAYS
from tests.faults.histories.history import Disturbance, History
from tests.faults.histories.relaying import clock_file
from tests.faults.histories.schedule import NODES, PICKS, Fault
from tests.powered_disk import PoweredDisk, lose_power
from tests.small_disk import fill

STOP_S: Final = 60.0
"""How long a process may take to end after SIGTERM. A subscriber waits for handlers, and a sender
for the outcomes of its messages."""

ASK_S: Final = 5.0
"""How long a question to JetStream takes, in seconds."""

WAIT_S: Final = 120
"""How long a command may wait until relays obey, in seconds."""

HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class Disks:
    """The disks of a bus that faults can disturb."""

    small: Sequence[Path] = ()
    """That of the first node, which can be filled."""
    powered: Sequence[PoweredDisk] = ()
    """Those of all nodes, whose power can be cut. They can be filled too."""

    @property
    def places(self) -> Sequence[Path]:
        """Where they are mounted, in the order of the nodes."""
        return [disk.place for disk in self.powered] or self.small


class Faults:
    """The faults of one bus."""

    def __init__(self, bus: Bus, history: History, disks: Disks) -> None:
        """``disks``: the disks of the nodes that faults can disturb."""
        self._bus = bus
        self._history = history
        self._disks = disks
        self._policy = asyncio.Lock()
        """Held while the policy or a key is changed."""
        self.happened: set[str] = set()
        self._kinds: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill-relay": lambda fault: self._end_relay(fault, signal.SIGKILL),
            "stop-relay": lambda fault: self._end_relay(fault, signal.SIGTERM),
            "pause-relay": lambda fault: self._pause_relays(fault, [self._a_relay(fault)]),
            "pause-all-relays": lambda fault: self._pause_relays(fault, bus.places),
            "kill-door": self._kill_door,
            "pause-door": self._pause_door,
            "kill-sender": lambda fault: self._end(fault, bus.senders, signal.SIGKILL),
            "stop-sender": lambda fault: self._end(fault, bus.senders, signal.SIGTERM),
            "pause-sender": lambda fault: self._pause(fault, bus.senders),
            "kill-subscriber": lambda fault: self._end(fault, bus.subscribers, signal.SIGKILL),
            "stop-subscriber": lambda fault: self._end(fault, bus.subscribers, signal.SIGTERM),
            "pause-subscriber": lambda fault: self._pause(fault, bus.subscribers),
            "orphans": self._orphan,
            "kill-node": self._kill_node,
            "restart-node": self._restart_node,
            "pause-node": self._pause_node,
            "kill-leader": self._kill_leader,
            "kill-majority": self._kill_majority,
            "cut-sender": lambda fault: self._cut(fault, bus.senders),
            "cut-subscriber": lambda fault: self._cut(fault, bus.subscribers),
            "cut-relay": self._cut_relay,
            "cut-node": self._cut_node,
            "full-disk": self._fill_disk,
            "cut-power": self._cut_power,
            "withdraw-grant": self._withdraw,
            "change-limit": self._change_limit,
            "rotate-key": self._rotate,
            "revoke-key": self._revoke,
            "void-keys": self._void,
            "rotate-bus": self._rotate_bus,
            "wrong-clock": self._wrong_clock,
        }

    async def play(self, faults: Sequence[Fault]) -> None:
        """Let the faults happen at their times. Return when all of them are healed."""
        began = time.monotonic()

        async def one(fault: Fault) -> None:
            await asyncio.sleep(fault.at_s - (time.monotonic() - began))
            at = time.monotonic()
            await self._kinds[fault.kind](fault)
            self._history.disturbances.append(Disturbance(fault.kind, at, time.monotonic()))

        await asyncio.gather(*(one(fault) for fault in faults))

    # ---- bots ------------------------------------------------------------------------------------

    async def _end(self, fault: Fault, actors: Sequence[Actor], number: int) -> None:
        actor = actors[fault.pick % len(actors)]
        async with actor.busy:
            if not await self._bus.end(actor, number, STOP_S):
                self._history.stuck.append(f"{actor.life.name} did not end within {STOP_S:g} s")
                await self._bus.end(actor, signal.SIGKILL, STOP_S)
            await asyncio.sleep(fault.lasts_s)
            self._bus.start(actor)

    async def _pause(self, fault: Fault, actors: Sequence[Actor]) -> None:
        actor = actors[fault.pick % len(actors)]
        async with actor.busy:
            actor.life.disturbed = True
            await _paused([actor.process.pid], fault.lasts_s)

    async def _cut(self, fault: Fault, actors: Sequence[Actor]) -> None:
        actor = actors[fault.pick % len(actors)]
        async with actor.busy:
            actor.life.disturbed = True
            await self._cut_off(actor.name, fault)

    async def _cut_off(self, name: str, fault: Fault) -> None:
        cables = self._bus.cables
        assert cables is not None
        cables.cut(name, WAYS[fault.pick * len(WAYS) // PICKS % len(WAYS)])
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            cables.mend(name)

    # ---- relays ----------------------------------------------------------------------------------

    def _a_relay(self, fault: Fault) -> RelayPlace:
        return self._bus.places[fault.pick % len(self._bus.places)]

    async def _end_relay(self, fault: Fault, number: int) -> None:
        place = self._a_relay(fault)
        async with place.busy:
            await self._replace(place, number, fault.lasts_s)

    async def _replace(
        self, place: RelayPlace, number: int, after_s: float = 0.0, *, off_ms: int = 0
    ) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                await self._bus.end_relay(place, number)
        except TimeoutError:
            self._history.stuck.append(f"{place.name} did not end within {STOP_S:g} s")
            await self._bus.end_relay(place, signal.SIGKILL)
        await asyncio.sleep(after_s)
        self._bus.launch_relay(place, off_ms=off_ms)

    async def _pause_relays(self, fault: Fault, places: Sequence[RelayPlace]) -> None:
        async with _all(place.busy for place in places):
            pids = [place.program.pid for place in places if place.program]
            await _paused(pids, fault.lasts_s)

    def _door_of(self, place: RelayPlace) -> list[int]:
        pid = place.program.pid if place.program else 0
        with suppress(OSError):
            return [
                int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]
        return []

    async def _kill_door(self, fault: Fault) -> None:
        place = self._a_relay(fault)
        async with place.busy:
            for pid in self._door_of(place):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def _pause_door(self, fault: Fault) -> None:
        place = self._a_relay(fault)
        async with place.busy:
            await _paused(self._door_of(place), fault.lasts_s)

    async def _cut_relay(self, fault: Fault) -> None:
        place = self._a_relay(fault)
        async with place.busy:
            await self._cut_off(place.name, fault)

    async def _wrong_clock(self, fault: Fault) -> None:
        """A relay starts with a clock that is an hour wrong, which is set right later.

        The clock of a running relay does not jump: the promises of acceptance assume that.
        """
        place = self._a_relay(fault)
        async with place.busy:
            off_ms = HOUR_MS if fault.pick % 2 else -HOUR_MS
            await self._replace(place, signal.SIGTERM, off_ms=off_ms)
            await asyncio.sleep(fault.lasts_s)
            clock_file(self._bus.bus.path, place.name).unlink()

    async def _orphan(self, fault: Fault) -> None:
        """Messages wait in INGRESS, their senders are killed, and so is the relay that has them."""
        bus = self._bus
        async with _all([*(p.busy for p in bus.places), *(actor.busy for actor in bus.senders)]):
            pids = [place.program.pid for place in bus.places if place.program]
            with suppress(NatsError, OSError, TimeoutError):
                async with _pausing(pids):
                    await asyncio.sleep(fault.lasts_s)
                    for actor in bus.senders:
                        await bus.end(actor, signal.SIGKILL, STOP_S)
                    self._history.waiting += await _waiting(bus)
            await asyncio.sleep(0.05)
            for place in bus.places:
                await self._replace(place, signal.SIGKILL)
            for actor in bus.senders:
                bus.start(actor)

    # ---- servers ---------------------------------------------------------------------------------

    def _a_node(self, fault: Fault) -> int:
        return fault.pick % len(self._bus.nodes)

    async def _kill_node(self, fault: Fault) -> None:
        await self._lose([self._a_node(fault)], fault.lasts_s)

    async def _kill_leader(self, fault: Fault) -> None:
        stream = ("ACCEPTED", "INGRESS")[fault.pick % 2]
        await self._lose([await self._leader(stream)], fault.lasts_s)

    async def _kill_majority(self, fault: Fault) -> None:
        lost = [node for node in range(NODES) if node != self._a_node(fault)]
        await self._lose(lost, fault.lasts_s)

    async def _lose(self, numbers: Sequence[int], lasts_s: float) -> None:
        bus = self._bus
        async with _all(bus.node_locks[number] for number in numbers):
            await asyncio.gather(*(bus.kill_node(number) for number in numbers))
            await asyncio.sleep(lasts_s)
            await self._start(numbers)

    async def _restart_node(self, fault: Fault) -> None:
        number = self._a_node(fault)
        async with self._bus.node_locks[number]:
            await self._bus.nodes[number].stop()
            await asyncio.sleep(fault.lasts_s)
            await self._start([number])

    async def _start(self, numbers: Sequence[int]) -> None:
        try:
            await asyncio.gather(*(self._bus.start_node(number) for number in numbers))
        except ServerFailed as error:
            self._history.stuck.append(f"node {numbers}: {error.what}")

    async def _pause_node(self, fault: Fault) -> None:
        number = self._a_node(fault)
        async with self._bus.node_locks[number]:
            await _paused([self._bus.nodes[number].pid], fault.lasts_s)

    async def _cut_node(self, fault: Fault) -> None:
        number = self._a_node(fault)
        async with self._bus.node_locks[number]:
            await self._cut_off(f"node-{number}", fault)

    async def _leader(self, stream: str) -> int:
        """The node that leads a stream, or the first one if nobody says."""
        with suppress(NatsError, OSError, TimeoutError, KeyError, ValueError):
            async with asyncio.timeout(ASK_S):
                nc = await self._bus.nats()
                try:
                    answer = await nc.request(f"$JS.API.STREAM.INFO.{stream}", b"", ASK_S)
                    leader: str = json.loads(answer.data)["cluster"]["leader"]
                    return int(leader.rpartition("-")[2])
                finally:
                    await nc.close()
        return 0

    async def _fill_disk(self, fault: Fault) -> None:
        """Fill the disk and free it. Then start the server again, as ``sealbus up`` does."""
        if not self._disks.places:
            return
        async with self._bus.node_locks[0]:
            filler = fill(self._disks.places[0])
            await asyncio.sleep(fault.lasts_s)
            filler.unlink()
            await self._bus.kill_node(0)
            await self._start([0])

    async def _cut_power(self, fault: Fault) -> None:
        """The machines of all nodes lose power at once, and get it back."""
        bus, disks = self._bus, self._disks.powered
        if not disks:
            return
        async with _all(bus.node_locks):
            await lose_power(disks, [node.pid for node in bus.nodes if node.pid is not None])
            await asyncio.gather(*(node.stop() for node in bus.nodes))
            await asyncio.sleep(fault.lasts_s)
            for disk in disks:
                await asyncio.to_thread(disk.restore_power)
            await self._start(range(len(bus.nodes)))

    # ---- the operator ----------------------------------------------------------------------------

    def _edit(self, pattern: str, by: str) -> None:
        policy = self._bus.bus.path / "policy.yaml"
        text, count = re.subn(pattern, by, policy.read_text(), count=1, flags=re.MULTILINE)
        assert count == 1, f"the policy has no {pattern}"
        draft = policy.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(policy)

    async def _withdraw(self, fault: Fault) -> None:
        """Take a grant of the senders away for a while."""
        async with self._policy:
            self._edit(r"publish: \[work\.\*, pulse", "publish: [pulse")
            await asyncio.sleep(fault.lasts_s)
            self._edit(r"publish: \[pulse", "publish: [work.*, pulse")

    async def _change_limit(self, fault: Fault) -> None:
        async with self._policy:
            self._edit(r"^  ttl: \d+s$", f"  ttl: {60 + fault.pick}s")
            await asyncio.sleep(fault.lasts_s)

    async def _rotate(self, fault: Fault) -> None:
        await self._change_key(fault, revoke=False)

    async def _revoke(self, fault: Fault) -> None:
        await self._change_key(fault, revoke=True)

    async def _change_key(self, fault: Fault, *, revoke: bool) -> None:
        """A sender gets another key. With ``revoke``, the old one is revoked while it is used."""
        bus, actor = self._bus, self._bus.senders[fault.pick % len(self._bus.senders)]
        async with self._policy, actor.busy:
            old = bus.credentials(actor.bot).key.public.text
            # The command keeps the file of before, and leaves the one of an earlier fault alone.
            for file in bus.bus.path.glob(f"credentials/{actor.bot}.toml.old"):
                file.unlink()
            await self._run("keys", "rotate", actor.bot)
            if revoke:
                if await self._run("keys", "revoke", actor.bot, old, *self._wait()):
                    actor.life.revoked_at = time.monotonic()
                await asyncio.sleep(0.5)  # the process tries, and must not succeed
                await bus.end(actor, signal.SIGKILL, STOP_S)
            elif not await bus.end(actor, signal.SIGTERM, STOP_S):
                self._history.stuck.append(f"{actor.life.name} did not end within {STOP_S:g} s")
                await bus.end(actor, signal.SIGKILL, STOP_S)
            bus.start(actor)

    async def _void(self, fault: Fault) -> None:
        actor = self._bus.senders[fault.pick % len(self._bus.senders)]
        async with self._policy:
            for life, _, _ in actor.lives:
                life.disturbed = True
            await self._run("keys", "void", actor.bot, *self._wait())

    async def _rotate_bus(self, _: Fault) -> None:
        async with self._policy:
            await self._run("keys", "rotate-bus", again=True)

    def _wait(self) -> tuple[str, ...]:
        return ("--wait", "--timeout", str(WAIT_S))

    async def _run(self, *arguments: str, again: bool = False) -> bool:
        """Run a command. Return whether it succeeded, and relays obey if it was told to wait.

        While streams have no leader, relays refuse a change and try it again. The command ends
        then, and the operator waits by ``sealbus reload``. ``again``: the command itself needs a
        leader, and may be said again.
        """
        ran = await sealbus_beside(*arguments, cwd=self._bus.bus.path)
        if ran.code and (again or "--wait" in arguments):
            then = arguments if again else ("reload", *self._wait())
            deadline = time.monotonic() + WAIT_S
            while ran.code and time.monotonic() < deadline:
                ran = await sealbus_beside(*then, cwd=self._bus.bus.path)
        if ran.code:
            said = ran.err.strip().splitlines()[-2:]
            self._history.stuck.append(f"sealbus {' '.join(arguments[:2])}: {said}")
        return not ran.code


# ---- processes -----------------------------------------------------------------------------------


@asynccontextmanager
async def _pausing(pids: Sequence[int | None]) -> AsyncIterator[None]:
    """Inside the block the processes are stopped (SIGSTOP)."""
    living = [pid for pid in pids if pid is not None]
    try:
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def _paused(pids: Sequence[int | None], lasts_s: float) -> None:
    async with _pausing(pids):
        await asyncio.sleep(lasts_s)


@asynccontextmanager
async def _all(locks: Iterable[asyncio.Lock]) -> AsyncIterator[None]:
    """Hold several locks, which are always taken in the same order."""
    async with AsyncExitStack() as stack:
        for lock in locks:
            await stack.enter_async_context(lock)
        yield


async def _waiting(bus: Bus) -> list[tuple[str, str]]:
    """Bot and nonce of each message of a sender in INGRESS."""
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(ASK_S):
        nc = await bus.nats()
        try:
            sequence = 1
            while True:
                ask = json.dumps({"seq": sequence, "next_by_subj": ">"}).encode()
                answer = await nc.request("$JS.API.STREAM.MSG.GET.INGRESS", ask, ASK_S)
                got = json.loads(answer.data)
                if "error" in got:
                    return found
                message = got["message"]
                sequence = message["seq"] + 1
                data = base64.b64decode(message["data"])
                for envelope in split_bundle(data) if is_bundle(data) else [data]:
                    header = Envelope.decode(envelope).header
                    if header.bot.startswith("s") and header.bot[1:].isdigit():
                        found.append((header.bot, header.nonce.hex()))
        finally:
            await nc.close()
