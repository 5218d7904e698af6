"""One relay of ``sealbus up --workers``. ``sealbus up`` starts it (:mod:`~.workers`).

It stops when its standard input is closed, and at a signal as ``sealbus relay`` does. In a
folder with a problem it waits (:func:`~.serving.when_usable`).
"""

from __future__ import annotations

import gc
import sys

gc.disable()  # nothing that an import makes is garbage: see sealbus_broker.__main__

import asyncio
import os
from functools import partial
from pathlib import Path

from sealbus.supervision import beside
from sealbus_broker.cli.running.serve import disk_problems
from sealbus_broker.cli.running.serving import Serve, run_until_signal, when_usable
from sealbus_broker.cli.running.workers import READY
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.talk import Talk
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.stopping import StoppedEarly, until_stopped
from sealbus_broker.server.process import Disk


def main() -> int:
    """Serve, and return the exit code.

    The arguments are the folder of the bus, the relay's name, the folder of the streams, on how
    many servers of that disk a stream may be, and the NATS URLs.
    """
    gc.freeze()
    gc.enable()
    folder, name, store, copies, *servers = sys.argv[1:]
    begin = partial(_begin, folder, name, Disk(Path(store), int(copies)), servers)
    return run_until_signal(begin, worker=name)


def _begin(folder: str, name: str, disk: Disk, servers: list[str]) -> Serve:
    async def serve(stopping: asyncio.Event) -> None:
        async with beside(_stop_with_parent(stopping), name="the end of sealbus up"):
            making = when_usable(partial(_relay, folder, name, disk, servers))
            try:
                relay = await until_stopped(stopping, making)
            except StoppedEarly:
                return
            await relay.run(stopping, _say_ready)

    return serve


def _relay(folder: str, name: str, disk: Disk, servers: list[str], talk: Talk) -> Relay:
    bus = BusFolder.find(folder, talk)
    secrets = bus.secrets()
    policy, watched = bus.followed(secrets.bus.public)
    return Relay(
        servers=servers,
        secrets=secrets,
        policy=policy,
        name=name,
        tls=bus.tls(tuple(servers)),
        folder=watched,
        enrols_in=bus.path.resolve(),
        surroundings=partial(disk_problems, disk),
        secrets_file=bus.secrets_file,
    )


async def _stop_with_parent(stopping: asyncio.Event) -> None:
    """Set ``stopping`` when standard input is closed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stopping.set()


def _say_ready() -> None:
    # Past sys.stdout, which could keep the line in a buffer: `sealbus up` waits for it.
    os.write(sys.stdout.fileno(), READY)


if __name__ == "__main__":
    sys.exit(main())
