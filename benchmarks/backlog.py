"""Does a larger backlog make a message dearer? Two kinds of backlog: what is stored already, and what still waits.

``stored``: so many messages lie in ACCEPTED, whose ids the ledger remembers. ``waiting``: so many lie in INGRESS behind those that are
measured, in the same partition, for one bot sends it all. They are filled in by a nats-server that does not sync each write, because
syncing a million would take minutes; then the relay works against the bus's usual one on the same files, and beside it, at the same time,
another relay on a bus without backlog.
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
from sealbus_broker.relay.ledger import ledger_state
from sealbus_broker.server.process import NatsServer

CROWD: Final = Crowd(1, 1, 1)
GARBAGE: Final = bytes(100)
"""What waits: no envelope. It is never judged while that is measured what stands before it."""

WARM_UP: Final = 1000
"""Messages that are judged before the measurement begins. It begins and ends within a batch, which comes to the same on average."""

_AT_ONCE: Final = 2000
"""Published before it is looked whether they are stored: nats-server drops what it would have to buffer beyond 10,000."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many messages there are beside those that are measured."""

    stored: int = 0
    waiting: int = 0


async def measure(folder: Path, schema: Any, backlog: Backlog, messages: int) -> tuple[Cost, Cost]:
    """What ``messages`` cost with this backlog, and what they cost without any, at the same time."""
    buses = [Bus(folder / name, CROWD.plan(schema)) for name in ("with", "without")]
    await _fill(buses[0], backlog, messages + WARM_UP)
    await _fill(buses[1], Backlog(), messages + WARM_UP)
    async with AsyncExitStack() as stack:
        with ExitStack() as start:
            # A relay begins when it is up. The second one takes a few seconds, in which the server does not miss the first.
            for bus in buses:
                await stack.enter_async_context(bus)
                start.enter_context(held(bus.relay_pids))
            clients = [await stack.enter_async_context(login(bus.url, bus.relay_seed)) for bus in buses]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_cost(bus, nc, backlog, messages))
                for bus, nc, backlog in zip(buses, clients, (backlog, Backlog()), strict=True)
            ]
    with_it, without = (task.result() for task in tasks)
    return with_it, without


async def _cost(bus: Bus, nc: Client, backlog: Backlog, messages: int) -> Cost:
    """What it costs from the end of the warm-up on."""
    begin = await _accepted(nc, backlog.stored + 1 + WARM_UP)
    used, start = Used.so_far(bus), time.monotonic()
    end = await _accepted(nc, backlog.stored + 1 + WARM_UP + messages)
    return Used.so_far(bus).cost(used, end - begin, time.monotonic() - start)


async def _accepted(nc: Client, count: int) -> int:
    """Wait until so many are stored; how many there are then."""
    async with asyncio.timeout(PATIENCE_S + count):
        while (stored := int((await stream_state(nc, ACCEPTED))["last_seq"])) < count:  # noqa: ASYNC110  # it happens in another process
            await asyncio.sleep(POLL_S)
    return stored


async def _fill(bus: Bus, backlog: Backlog, messages: int) -> None:
    """Fill in what is stored, then ``messages`` good ones into the ingress, then what waits behind them."""
    async with _quick_server(bus) as url, login(url, bus.relay_seed) as nc:
        policy = bus.folder.policy(bus.folder.secrets().bus.public)
        with capture_logs():  # what it makes is no news here
            await provision(nc, policy)
        for stream in (ACCEPTED, LIVE):
            await ledger_state(nc, stream)  # begins it
        route = CROWD.routes()[0]
        for begin in range(0, backlog.stored, _AT_ONCE):
            for _ in range(begin, count := min(begin + _AT_ONCE, backlog.stored)):
                headers = {"Nats-Msg-Id": f"{route.bot}.{os.urandom(NONCE_BYTES).hex()}"}
                await nc.publish(f"accepted.{route.subject}", GARBAGE, headers=headers)
            await _until_stored(nc, ACCEPTED, count + 1)
        # No clock may be behind the ledger's beginning when an envelope is issued.
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
        while (await stream_state(nc, stream))["messages"] < count:  # noqa: ASYNC110  # it happens in another process
            await asyncio.sleep(POLL_S / 10)


@asynccontextmanager
async def _quick_server(bus: Bus) -> AsyncIterator[str]:
    """A server on the bus's files, before the bus's own is started: its URL. It syncs now and then, and when it ends."""
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
