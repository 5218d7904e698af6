"""The NATS JWTs of the auth callout: the server's request is verified, the relay's answer is
signed.

They have version 2 of NATS's claims and the algorithm ``ed25519-nkey``, and no other. The header's
algorithm is compared, and never obeyed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify

MAX_JWT_BYTES: Final = 256 * 1024
"""The largest request. nats-server puts a CONNECT of at most 16 KiB into it, the certificates of
the client (15 KiB with two chains of RSA-4096) and a few hundred bytes of its own. 256 KiB hold
that, even if JSON escapes every byte of CONNECT with six, and after base64."""

REQUEST_AUDIENCE: Final = "nats-authorization-request"
"""For whom nats-server makes its requests."""

_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def sign(claims: Mapping[str, Any], key: SigningKey, issued_at_s: int) -> str:
    """Make a JWT over ``claims``, issued by ``key`` at ``issued_at_s`` (seconds since 1970 UTC)."""
    full = {**claims, "iss": key.public.text, "iat": issued_at_s}
    signed = f"{_encode(json.dumps(_HEADER).encode())}.{_encode(json.dumps(full).encode())}"
    return f"{signed}.{_encode(key.sign(signed.encode()))}"


def verify_request(token: bytes, now_s: float, skew_s: float) -> dict[str, Any]:
    """Return the claims of an authorization request, if they hold.

    A nats-server must have issued it for an auth callout, and it must be in force. The server signs
    with its own key, which is its id. It lets no login publish on the callout's subject, not even a
    relay's. So any server's key will do.

    Args:
        token: The request.
        now_s: The relay's time, in seconds since 1970 UTC.
        skew_s: How far the server's clock may be behind the relay's.

    Raises:
        Malformed: It does not hold. The text says why.
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
    # Written in this way, NaN has expired.
    if not isinstance(expires, int | float) or not expires >= now_s - skew_s:
        raise Malformed("the request has expired")
    # Last, because it costs most.
    if not verify(_server_key(issuer), head + b"." + body, signature):
        raise Malformed("the server's signature does not hold")
    return dict(claims)


def _server_key(text: str) -> bytes:
    """Read a nats-server's id, which is its public key, of the kind that begins with N."""
    try:
        return PublicKey.parse(text, KeyKind.BUS).raw
    except InvalidInput:
        raise Malformed("the issuer is not a server's key") from None
