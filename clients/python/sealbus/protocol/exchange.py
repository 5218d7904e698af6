"""The exchange of a token of an identity provider for a session certificate.

A bot without an enrolled key makes a session key, and logs in with the word ``token:<token>`` in
the place of the certificate (:mod:`sealbus.protocol.admission`). The session key signs the login,
so nobody else can use it. A relay verifies the token, certifies the session key with the bus's
session-issuer key, and writes an *exchange record*, once for each token. It is a msgpack array::

    session key bin(32) · certificate bin(106)

The session of that login may read this record and do nothing else. A second exchange of the token
finds the record of the first. So the same key gets the same certificate, and another key gets none.

The token is bound to the session key by the signature over the login alone. Nothing here keeps a
state, and nothing shows a token.
"""

from __future__ import annotations

import hashlib
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array
from sealbus.protocol.keys import KEY_BYTES
from sealbus.protocol.limits import CERTIFICATE_BYTES
from sealbus.protocol.seal import Verifier
from sealbus.protocol.value import value

PREFIX: Final = "token:"
"""The beginning of the word that has a token, in an admission text."""

TOKEN: Final = "token"
"""The kind of the record, and the first token of the inboxes of such logins."""

RECORD_BYTES: Final = 1 + 2 + KEY_BYTES + 2 + CERTIFICATE_BYTES
"""The size of a record: its only two fields have one size each."""

_TYPES: Final = FieldTypes(((bytes,), (bytes,)))


@value
class ExchangeRecord:
    """What a token was exchanged for."""

    key: bytes
    """The raw public session key (32 bytes)."""
    certificate: bytes
    """Its certificate (:mod:`sealbus.protocol.certificate`)."""

    def encode(self) -> bytes:
        """The record's bytes."""
        return pack_fields((self.key, self.certificate))

    @classmethod
    def decode(cls, data: bytes) -> ExchangeRecord:
        """Read a record. Raises :class:`Malformed`. The certificate is *not* verified here."""
        if len(data) != RECORD_BYTES:
            raise Malformed(f"exchange record has {len(data)} bytes; expected {RECORD_BYTES}")
        key, certificate = unpack_array(data, _TYPES)
        if len(key) != KEY_BYTES:
            raise Malformed(f"exchange record: a key of {len(key)} bytes; expected {KEY_BYTES}")
        return cls(key, certificate)

    def read_certificate(self, *, bus: str, bot: str) -> Certificate:
        """The certificate. Raises :class:`Malformed` unless it holds for the session key of ``bot``
        on ``bus``."""
        certificate = Certificate.decode(self.certificate)
        # Nobody meets a record so often that it would be worth remembering.
        if not certificate.holds(Verifier(), bus=bus, bot=bot, key=self.key):
            raise Malformed("exchange record: the certificate does not hold for its session key")
        return certificate


def record_id(token: str) -> str:
    """The id of a token's record: SHA-256 (hex) over its header and payload, as written.

    Not over the signature, because some algorithms allow several for one content.
    """
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def inbox(identity: str) -> str:
    """The beginning of the subjects on which a login by a token gets its answers. ``inbox.`` is for
    the receipts of bots, so it is another one. ``identity``: of :func:`record_id`."""
    return f"{TOKEN}.{identity}"
