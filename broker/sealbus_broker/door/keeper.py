"""The process that admits bots, from inside: it has its orders, and stays until its relay ends.

It begins without a connection, and waits for its orders on standard input. With them it connects to
NATS, however long that takes, and says ``open`` on its standard output once it answers logins. More
orders may come when the policy or the session-issuer key changes. It says ``follows`` and the
policy's digest once every login is decided by them. When the connection is lost, it says ``lost``.
nats-py connects again, and until the process says ``open`` again nobody can log in. When NATS ends
the connection for good, the process ends, and the relay starts another
(:mod:`sealbus_broker.door.process`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from nats.errors import Error as NatsError

from sealbus.supervision import beside
from sealbus_broker.door.admission import Admission
from sealbus_broker.door.orders import MAX_BYTES, Orders
from sealbus_broker.door.process import FOLLOWS, LOST, OPEN
from sealbus_broker.door.watch import Watch
from sealbus_broker.errors import DoorFailed
from sealbus_broker.nats.connection import RelayLink, disconnect
from sealbus_broker.nats.presence import say_that_a_door_is_there


async def keep(relay: int, signs: int) -> None:
    """Admit bots, and watch the relay, until standard input is closed.

    Args:
        relay: The relay's process id.
        signs: The descriptor at which the relay's signs of life come.

    Raises:
        DoorFailed: NATS ended the connection for good.
    """
    reader = asyncio.StreamReader(MAX_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with beside(_admit_as_told(reader), Watch(relay, signs).run(), name="the door") as tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # The watch ends only by an error. The other task ends as well when the relay closes the
        # input.
        for task in tasks:
            if task.done():
                task.result()


async def _admit_as_told(reader: asyncio.StreamReader) -> None:
    line = await reader.readline()
    if not line:
        return  # the relay ended before it had opened the door
    orders = Orders.decode(line)
    following = _Following(reader, orders)
    admitting_bots = admit(orders, lambda: following.orders, lambda: _say(OPEN), lambda: _say(LOST))
    # The end of reading is the end of the relay.
    async with beside(admitting_bots, following.run(), name="the door") as tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()


class _Following:
    """The orders that came last, by which logins are decided."""

    def __init__(self, reader: asyncio.StreamReader, orders: Orders) -> None:
        self._reader = reader
        self.orders = orders

    async def run(self) -> None:
        """Take further orders until there are no more."""
        while line := await self._reader.readline():
            self.orders = Orders.decode(line)
            _say(FOLLOWS + self.orders.policy.digest.hex().encode() + b"\n")


def _say(line: bytes) -> None:
    # Past sys.stdout, which could keep the line in a buffer: the relay waits for it.
    os.write(sys.stdout.fileno(), line)


async def admit(
    orders: Orders,
    latest: Callable[[], Orders],
    opened: Callable[[], object],
    lost: Callable[[], object],
) -> None:
    """Connect, however long that takes, and admit bots. Cancel it to stop.

    Args:
        orders: Where NATS is, and with which keys.
        latest: Gives the orders that came last. Of these, the policy counts, which says who may
            come in, and the session-issuer key.
        opened: Is called when bots can come in, also after each loss.
        lost: Is called when the connection is lost.

    Raises:
        DoorFailed: NATS ended the connection for good.
    """
    # nats-py subscribes again before it calls that the connection is back.
    link = RelayLink("admission", lost, opened)
    closed = asyncio.Event()
    name = f"sealbus relay {orders.relay} admission"
    client = await link.connect(list(orders.servers), orders.login.seed_text, name, orders.tls)
    admission = Admission(
        nc=client,
        issuer=orders.issuer,
        policy=lambda: latest().policy,
        session_issuer=lambda: latest().session_issuer,
    )
    try:
        client.when_closed.add(closed.set)
        await admission.start()
        opened()
        saying = say_that_a_door_is_there(client, orders.relay)
        async with beside(closed.wait(), saying, name="the door") as (ended, _):
            await ended
        error: Exception | None = client.last_error
    except (NatsError, OSError) as raised:
        error = raised
    finally:
        await admission.stop()
        await disconnect(client)
    raise DoorFailed(
        f"NATS does not serve the process that admits bots: {type(error).__name__}: {error}",
        hint="nats-server's log says more",
    )
