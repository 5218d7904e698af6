"""An envelope's parts, which a test changes and puts together again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack

from sealbus.protocol.codec import pack_fields
from sealbus.protocol.envelope import _outline
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.limits import PROTOCOL_VERSION
from sealbus.protocol.seal import Context, seal


@dataclass(slots=True)
class Parts:
    """Header, parent, payloads and seal, in bytes. The payloads have their salts."""

    header: bytes
    payloads: list[Any]
    parent: Any = None
    seal: bytes = b""
    version: Any = field(default=PROTOCOL_VERSION)

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """The parts of the envelope ``data``."""
        version, header, parent, payloads, sealed = msgpack.unpackb(data)
        return cls(header, payloads, parent, sealed, version)

    @property
    def outline(self) -> bytes:
        """The bytes that the seal is over."""
        return _outline(self.header, self.parent, self.payloads)

    def sealed(self, key: SigningKey, context: Context = Context.ENVELOPE) -> bytes:
        """The envelope, sealed anew."""
        (self.seal,) = seal(key, context, [self.outline])
        return self.data

    @property
    def data(self) -> bytes:
        """The envelope with the seal that it has."""
        return pack_fields((self.version, self.header, self.parent, self.payloads, self.seal))
