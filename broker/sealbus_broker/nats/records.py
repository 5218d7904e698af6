"""Write the records of :mod:`sealbus.nats.records`, as a relay.

The stream RECORDS refuses a second message on a subject, so the first writer wins among all relays.
A write whose answer was lost is made again: it is refused, and the record is read back.
"""

from __future__ import annotations

from typing import Final

from nats.aio.client import Client

from sealbus.protocol.streams import KEYRING, KEYRING_SUBJECT, RECORDS
from sealbus_broker.nats.jetstream import last_on, refused, request

_TAKEN: Final = 10077
"""JetStream's code where a stream takes no more messages, of all or of one subject (2.15.1)."""


async def write_once(nc: Client, subject: str, data: bytes, timeout_s: float) -> bytes:
    """Write a record, unless there is one. Returns the record that is there now.

    Args:
        nc: A connection that is logged in as the relay.
        subject: Of :func:`~sealbus.nats.records.record_subject`.
        data: The record.
        timeout_s: How long each call may take. There are at most a few.

    Raises:
        StreamsUnusable: It can neither be written nor read.
        nats.errors.Error: JetStream does not answer.
    """
    answer = await request(nc, subject, data, timeout_s)
    error = answer.get("error")
    if error is None:
        return data
    taken = error.get("err_code") == _TAKEN
    there = await last_on(nc, RECORDS, subject, timeout_s) if taken else None
    if there is None:  # the stream itself is full, or cannot be used
        raise refused("a login cannot be recorded", error)
    return there


async def read_record(nc: Client, subject: str, timeout_s: float) -> bytes | None:
    """Return a record, or ``None`` where there is none. The errors are those of
    :func:`~sealbus_broker.nats.jetstream.last_on`."""
    return await last_on(nc, RECORDS, subject, timeout_s)


async def write_keyring(nc: Client, data: bytes, timeout_s: float) -> None:
    """Replace the list of the bus's keys.

    Raises:
        StreamsUnusable: JetStream refuses it.
        nats.errors.Error: JetStream does not answer.
    """
    answer = await request(nc, KEYRING_SUBJECT, data, timeout_s)
    if "error" in answer:
        raise refused("the list of the bus's keys cannot be stored", answer["error"])


async def read_keyring(nc: Client, timeout_s: float) -> bytes | None:
    """Return the list of the bus's keys, or ``None`` where there is none. The errors are those of
    :func:`~sealbus_broker.nats.jetstream.last_on`."""
    return await last_on(nc, KEYRING, KEYRING_SUBJECT, timeout_s)
