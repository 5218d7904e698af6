"""The nonce of a message that follows from another one."""

from __future__ import annotations

import hashlib

from sealbus import Message
from sealbus.protocol.limits import NONCE_BIRTH_BYTES, NONCE_BYTES


def nonce_after(message: Message) -> bytes:
    """The nonce of the one consequence of ``message``, whenever it is published.

    Messages that share an envelope share its nonce, so it is made from the id of the message. It is
    born with the message, because the bus refuses retries under an old nonce.
    """
    rest = hashlib.sha256(message.id.encode()).digest()
    return message.nonce[:NONCE_BIRTH_BYTES] + rest[: NONCE_BYTES - NONCE_BIRTH_BYTES]
