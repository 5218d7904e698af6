"""The NATS JWTs of the auth callout: the server's request is verified, the relay's answer is signed.

Version 2 of NATS's claims, algorithm ``ed25519-nkey``, and no other: the header's algorithm is compared, never obeyed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify

MAX_JWT_BYTES: Final = 64 * 1024
"""nats-server puts a CONNECT of at most 4,096 bytes and a few hundred of its own into a request. Even if JSON escapes every
byte of it with six, and after base64, 64 KiB hold it."""

REQUEST_AUDIENCE: Final = "nats-authorization-request"

_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def sign(claims: Mapping[str, Any], key: SigningKey, issued_at_s: int) -> str:
    """A JWT over ``claims``, issued by ``key`` at ``issued_at_s`` (seconds since 1970 UTC)."""
    full = {**claims, "iss": key.public.text, "iat": issued_at_s}
    signed = f"{_encode(json.dumps(_HEADER).encode())}.{_encode(json.dumps(full).encode())}"
    return f"{signed}.{_encode(key.sign(signed.encode()))}"


def verify_request(token: bytes, now_s: float, skew_s: float) -> dict[str, Any]:
    """The claims of an authorization request, if a nats-server issued it, for us, and it is in force at ``now_s``.

    ``skew_s``: how far the server's clock may be behind, on another machine. The server signs with its own key, which is its id;
    it lets no login, not even a relay's, publish on the callout's subject, so which server it is does not matter, but the claims
    must be whole. Raises :class:`Malformed` that says what did not hold.
    """
    if len(token) > MAX_JWT_BYTES:
        raise Malformed(f"a request of {len(token)} bytes; at most {MAX_JWT_BYTES}")
    try:
        head, body, signature_text = token.split(b".")
        header = json.loads(_decode(head))
        claims = json.loads(_decode(body))
        signature = _decode(signature_text)
        issuer = claims["iss"]
        nats = claims["nats"]
        audience = claims["aud"]
        expires = claims["exp"]
        server = nats["server_id"]["id"]
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        raise Malformed("not a JWT of an authorization request") from None
    if not isinstance(header, dict) or {name: header.get(name) for name in _HEADER} != _HEADER:
        raise Malformed("a JWT of another type or algorithm")
    if nats.get("type") != "authorization_request" or audience != REQUEST_AUDIENCE:
        raise Malformed("a JWT for another purpose")
    if issuer != server or not isinstance(issuer, str):
        raise Malformed("issued by another than the server it is about")
    if not isinstance(expires, int | float) or not expires >= now_s - skew_s:  # so written, NaN has expired
        raise Malformed("the request has expired")
    if not verify(_server_key(issuer), head + b"." + body, signature):
        raise Malformed("the server's signature does not hold")
    return dict(claims)


def _server_key(text: str) -> bytes:
    """A nats-server's id is its public key, of the kind that begins with N."""
    try:
        return PublicKey.parse(text, KeyKind.BUS).raw
    except InvalidInput:
        raise Malformed("the issuer is not a server's key") from None
