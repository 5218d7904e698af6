"""A signed token (RFC 7519, in the compact form of RFC 7515), taken apart. Pure.

::

    base64url(header) . base64url(payload) . base64url(signature)

:meth:`Token.decode` reads the header alone. The payload is read once its signature holds
(:mod:`sealbus_broker.oidc.verifying`), so a stranger has nothing but a small header parsed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.limits import MAX_TOKEN_BYTES
from sealbus_broker.oidc.json_object import read_object

MAX_HEADER_CHARS: Final = 4096
"""The longest header, in base64url. It names a key and an algorithm in some 100 bytes. Some
providers put the chain of a certificate into it, which nobody here reads."""

MAX_KEY_ID_CHARS: Final = 256
"""The longest name of a key. Providers use a digest, or a counter."""

_PART: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose signature nobody has verified. ``repr()`` shows nothing of it."""

    algorithm: str = field(repr=False)
    """The algorithm that it claims."""
    key_id: str = field(repr=False)
    """The provider's name of the key that signed it, as it claims."""
    signed: bytes = field(repr=False)
    """The bytes under the signature."""
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def decode(cls, text: str) -> Token:
        """Take a token apart.

        Raises:
            Malformed: It is none, or too large. The text has nothing of it.
        """
        if len(text) > MAX_TOKEN_BYTES:
            raise Malformed(f"the token has {len(text)} characters; at most {MAX_TOKEN_BYTES}")
        parts = text.split(".")
        if len(parts) != 3:
            raise Malformed(f"a token has three parts, and this one has {len(parts)}")
        if len(parts[0]) > MAX_HEADER_CHARS:
            raise Malformed(f"the token's header has more than {MAX_HEADER_CHARS} characters")
        header, payload, signature = (_decode(part) for part in parts)
        fields = read_object(header, "the token's header")
        # Both change what the signature is over, and `crit` says that its reader must know more.
        odd = next((name for name in ("crit", "b64") if name in fields), None)
        if odd is not None:
            raise Malformed(f"the token's header has {odd}, which is not understood here")
        algorithm, key_id = fields.get("alg"), fields.get("kid")
        if not isinstance(algorithm, str):
            raise Malformed("the token's header names no algorithm")
        if not isinstance(key_id, str) or not 0 < len(key_id) <= MAX_KEY_ID_CHARS:
            raise Malformed("the token's header names no key (kid)")
        signed = text.rpartition(".")[0].encode()
        return cls(algorithm, key_id, signed, payload, signature)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the signed bytes, by which a token is remembered.

        Not over the signature: of one content, ECDSA allows several.
        """
        return hashlib.sha256(self.signed).hexdigest()


def _decode(part: str) -> bytes:
    if _PART.fullmatch(part) is None:
        raise Malformed("a part of the token is not base64url without padding")
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Malformed("a part of the token is not base64url without padding") from None
    # One text for one content: no stray bits in the last letter.
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise Malformed("a part of the token is base64url that is written in another way")
    return data
