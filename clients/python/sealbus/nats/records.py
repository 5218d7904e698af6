"""Records: facts of logins that the bus keeps in JetStream, and that the login may read.

A record is one message of the stream RECORDS. It is written once, by a relay, and a second one on
its subject is refused. The list of the bus's own keys is read in the same way, from KEYRING.

A session reads by a subject that names the record (JetStream's *direct get*), so that a permission
to publish on that subject is a permission to read that record and no other. The answer comes to the
reply subject, as a message with the record's bytes. A status in its headers says that there is no
record. There is no state: a request whose connection is lost fails, and may be made again.
"""

from __future__ import annotations

from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.protocol.streams import KEYRING, KEYRING_SUBJECT, RECORDS, RECORDS_PREFIX

_GET: Final = "$JS.API.DIRECT.GET"
_STATUS: Final = "Status"
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


async def read(nc: Client, asked: str, timeout_s: float) -> bytes | None:
    """Read one message: ``asked`` is :data:`KEYRING_READ`, or made by :func:`read_subject`.

    Returns its bytes, or ``None`` where there is none. Raises ``nats.errors.Error`` without an
    answer within ``timeout_s``. A session without the right gets no answer.
    """
    answer = await nc.request(asked, b"", timeout_s)
    status = (answer.headers or {}).get(_STATUS)
    if status is None:
        return answer.data
    if status == _MISSING:
        return None
    raise NatsError(f"JetStream answered a read with the status {status[:8]}")
