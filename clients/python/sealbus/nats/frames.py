"""The bytes that a client writes to nats-server: PUB, HPUB and UNSUB frames for
:meth:`~sealbus.nats.client.HardenedClient.write`.

Subjects, replies and header lines come from our own code and are of grammars without blanks and
line ends (names, subjects, nonces in hex, JSON in ASCII); nothing that a peer chose is put in here
unchecked.
"""

from __future__ import annotations


def pub(subject: bytes, data: bytes, reply: bytes = b"") -> bytes:
    """One message without headers."""
    place = b"%b %b" % (subject, reply) if reply else subject
    return b"PUB %b %d\r\n%b\r\n" % (place, len(data), data)


def hpub(subject: bytes, data: bytes, *, headers: bytes, reply: bytes) -> bytes:
    """One message with ``headers``: lines ``Name: value``, each ended by CR LF."""
    block = len(headers) + 12  # NATS/1.0 and two line ends
    return b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
        subject,
        reply,
        block,
        block + len(data),
        headers,
        data,
    )


def unsub(number: int) -> bytes:
    """The end of the subscription with this number."""
    return b"UNSUB %d\r\n" % number
