"""Records: facts of logins that the bus keeps in JetStream, and that the login may read.

A record is one message of the stream RECORDS. It is written once, by a relay, and a second one on
its subject is refused. The list of the bus's own keys is read in the same way, from KEYRING.

A session reads by a subject that names the record (JetStream's *direct get*), so that a permission
to publish on that subject is a permission to read that record and no other. The answer comes to the
reply subject, as a message with the record's bytes. A status in its headers says that there is no
record. There is no state: a request whose connection is lost fails, and may be made again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as Unanswered

from sealbus.nats.client import HardenedClient
from sealbus.nats.parser import STATUS_HEADER, read_headers
from sealbus.protocol.streams import KEYRING, KEYRING_SUBJECT, RECORDS, RECORDS_PREFIX

_GET: Final = "$JS.API.DIRECT.GET"
_MISSING: Final = "404"

KEYRING_READ: Final = f"{_GET}.{KEYRING}.{KEYRING_SUBJECT}"
"""The subject on which the list of the bus's keys is read."""


def record_subject(kind: str, identity: str) -> str:
    """The subject of a record.

    ``kind``: a word, such as ``join``. ``identity``: names the fact. Both are single tokens.
    """
    return f"{RECORDS_PREFIX}.{kind}.{identity}"


def read_subject(record: str) -> str:
    """The subject on which the record with the subject ``record``, which may be a pattern, is
    read."""
    return f"{_GET}.{RECORDS}.{record}"


async def read(nc: HardenedClient, asked: str, timeout_s: float) -> bytes | None:
    """Read one message: ``asked`` is :data:`KEYRING_READ`, or made by :func:`read_subject`.

    Returns its bytes, or ``None`` where there is none. Raises ``nats.errors.Error`` without an
    answer within ``timeout_s``. A session without the right gets no answer.
    """
    # Not nats-py's request(): that leaves a task behind on each connection that is cut.
    answer: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()

    def take(_: bytes, __: bytes, headers: bytes, data: bytes) -> None:
        if not answer.done():
            answer.set_result((headers, data))

    def close() -> None:
        if not answer.done():
            answer.cancel()

    inbox = nc.new_inbox()
    subscription = await nc.subscribe_direct(inbox, take)
    nc.when_closed.add(close)
    try:
        await nc.publish(asked, b"", reply=inbox)
        await asyncio.wait([answer], timeout=timeout_s)
    finally:
        nc.when_closed.discard(close)
        with contextlib.suppress(NatsError, OSError):
            await subscription.unsubscribe()
    if not answer.done():
        raise Unanswered
    if answer.cancelled():
        raise ConnectionClosedError
    headers, data = answer.result()
    status = read_headers(headers).get(STATUS_HEADER)
    if status is None:
        return data
    if status == _MISSING:
        return None
    raise NatsError(f"JetStream answered a read with the status {status[:8]}")
