"""Does a message cost more with a larger backlog? There are two kinds: stored and waiting.

``stored`` messages are in ACCEPTED, and the ledger remembers their ids. ``waiting`` messages are in
INGRESS behind the measured ones, in the same partition, because one bot sends them all.

A nats-server that does not sync each write fills them in, because to sync a million would take
minutes. Then the relay works on the bus's usual server with the same files. Beside it, at the same
time, another relay works on a bus without backlog.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client
from structlog.testing import capture_logs

from benchmarks.bus import Bus, free_port
from benchmarks.crowd import Crowd
from benchmarks.generator import PATIENCE_S, POLL_S, Cost, Generator, Used, login, stream_state
from benchmarks.process import held
from sealbus.protocol.limits import NONCE_BYTES
from sealbus.protocol.streams import ACCEPTED, INGRESS, LIVE
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.store.ledger import ledger_state
from sealbus_broker.server.process import NatsServer

CROWD: Final = Crowd(1, 1, 1)
GARBAGE: Final = bytes(100)
"""The waiting bytes. They are no envelope. No relay judges them during the measurement."""

WARM_UP: Final = 1000
"""Messages that are judged before the measurement begins.

It begins and ends within a batch, which makes no difference on average.
"""

_AT_ONCE: Final = 2000
"""Messages that are published before it waits until they are stored.

nats-server drops messages that it would have to buffer beyond 10,000.
"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The number of messages beside the measured ones."""

    stored: int = 0
    waiting: int = 0


async def measure(folder: Path, schema: Any, backlog: Backlog, messages: int) -> tuple[Cost, Cost]:
    """The cost of ``messages`` with this backlog and without any, at the same time."""
    buses = [Bus(folder / name, CROWD.plan(schema)) for name in ("with", "without")]
    await _fill(buses[0], backlog, messages + WARM_UP)
    await _fill(buses[1], Backlog(), messages + WARM_UP)
    async with AsyncExitStack() as stack:
        with ExitStack() as start:
            # A relay begins when it is up. The second one takes a few seconds. Meanwhile the
            # server does not miss the first one.
            for bus in buses:
                await stack.enter_async_context(bus)
                start.enter_context(held(bus.relay_pids))
            clients = [
                await stack.enter_async_context(login(bus.url, bus.relay_seed)) for bus in buses
            ]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_cost(bus, nc, backlog, messages))
                for bus, nc, backlog in zip(buses, clients, (backlog, Backlog()), strict=True)
            ]
    with_it, without = (task.result() for task in tasks)
    return with_it, without


async def _cost(bus: Bus, nc: Client, backlog: Backlog, messages: int) -> Cost:
    """The cost from the end of the warm-up on."""
    begin = await _accepted(nc, backlog.stored + 1 + WARM_UP)
    used, start = Used.so_far(bus), time.monotonic()
    end = await _accepted(nc, backlog.stored + 1 + WARM_UP + messages)
    return Used.so_far(bus).cost(used, end - begin, time.monotonic() - start)


async def _accepted(nc: Client, count: int) -> int:
    """Wait until ``count`` messages are stored. Returns the number then."""
    async with asyncio.timeout(PATIENCE_S + count):
        # It happens in another process.
        while (stored := await _last_stored(nc)) < count:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    return stored


async def _last_stored(nc: Client) -> int:
    return int((await stream_state(nc, ACCEPTED))["last_seq"])


async def _fill(bus: Bus, backlog: Backlog, messages: int) -> None:
    """Fill in the stored messages, ``messages`` good ones in INGRESS, and the waiting ones."""
    async with _quick_server(bus) as url, login(url, bus.relay_seed) as nc:
        policy = bus.folder.policy(bus.folder.secrets().bus.public)
        with capture_logs():  # the log of the streams would be no news here
            await provision(nc, policy)
        for stream in (ACCEPTED, LIVE):
            await ledger_state(nc, stream)  # begins the ledger
        route = CROWD.routes()[0]
        for begin in range(0, backlog.stored, _AT_ONCE):
            for _ in range(begin, count := min(begin + _AT_ONCE, backlog.stored)):
                headers = {"Nats-Msg-Id": f"{route.bot}.{os.urandom(NONCE_BYTES).hex()}"}
                await nc.publish(f"accepted.{route.subject}", GARBAGE, headers=headers)
            await _until_stored(nc, ACCEPTED, count + 1)
        # When an envelope is issued, no clock may be behind the ledger's beginning.
        await asyncio.sleep(policy.limits.clock_skew_ms / 1000 + 0.1)
        packets = Generator(bus, CROWD.routes()).seal(messages, 1)
        subject = packets[0].subject
        waiting = [packet.data for packet in packets] + [GARBAGE] * backlog.waiting
        for begin in range(0, len(waiting), _AT_ONCE):
            for data in waiting[begin : begin + _AT_ONCE]:
                await nc.publish(subject, data)
            await _until_stored(nc, INGRESS, min(begin + _AT_ONCE, len(waiting)))


async def _until_stored(nc: Client, stream: str, count: int) -> None:
    await nc.flush()
    async with asyncio.timeout(PATIENCE_S):
        # It happens in another process.
        while (await stream_state(nc, stream))["messages"] < count:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S / 10)


@asynccontextmanager
async def _quick_server(bus: Bus) -> AsyncIterator[str]:
    """A server on the bus's files, before the bus's own is started. Yields its URL.

    It syncs now and then, and at its end.
    """
    secrets = bus.folder.secrets()
    config = NatsConfig(
        store_dir=bus.folder.state / "jetstream",
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        port=free_port(),
        sync_interval="2m",
    )
    server = NatsServer(config, bus.folder.state)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()
