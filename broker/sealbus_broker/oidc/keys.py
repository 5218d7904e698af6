"""The public keys of an identity provider: a JSON Web Key Set (RFC 7517). Pure.

Of a set, only the keys count that can have made a signature of the provider's one algorithm. The
others are left out, because providers list keys for encryption and for other algorithms beside
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from sealbus.errors import Malformed
from sealbus_broker.oidc.json_object import read_object

MAX_KEYS: Final = 64
"""Most keys of a set. Providers have two or three, and some have one for each of their regions."""

MIN_RSA_BITS: Final = 2048
"""Smallest RSA key (NIST SP 800-131A)."""

MAX_RSA_BITS: Final = 8192
"""Largest RSA key. To verify with a larger one takes milliseconds for each login."""

_CURVES: Final = {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Type and curve of the keys of an algorithm. Of all others the type is RSA."""

_PRIVATE: Final = "d"
"""The member that only a private key has."""

Keys = Mapping[str, PyJWK]
"""Keys by their names (``kid``)."""


def read_keys(document: bytes, algorithm: str) -> Keys:
    """Read a key set.

    Args:
        document: The set, of a size that the caller has bounded.
        algorithm: The provider's algorithm.

    Raises:
        Malformed: It is no key set, or has no key for the algorithm.
    """
    listed = read_object(document, "the key set").get("keys")
    if not isinstance(listed, list):
        raise Malformed("the key set has no list of keys")
    if len(listed) > MAX_KEYS:
        raise Malformed(f"the key set has {len(listed)} keys; at most {MAX_KEYS}")
    fitting = [one for one in listed if _fits(one, algorithm)]
    # Of two keys with one name, nobody knows which is meant.
    names = Counter(one["kid"] for one in fitting)
    found: dict[str, PyJWK] = {}
    for one in fitting:
        if names[one["kid"]] == 1 and (key := _key(one, algorithm)) is not None:
            found[one["kid"]] = key
    if not found:
        raise Malformed(f"the key set has no key for {algorithm}")
    return found


def _fits(one: Any, algorithm: str) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("kid"), str):
        return False
    if one.get("use", "sig") != "sig" or one.get("alg", algorithm) != algorithm:
        return False
    operations = one.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return False
    # A private key that everybody can read proves nothing.
    if _PRIVATE in one:
        return False
    kind, curve = _CURVES.get(algorithm, ("RSA", None))
    return bool(one.get("kty") == kind and one.get("crv") == curve)


def _key(one: dict[str, Any], algorithm: str) -> PyJWK | None:
    try:
        key = PyJWK(one, algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return None
    bits = getattr(key.key, "key_size", None)  # Ed25519 has one size
    if algorithm not in _CURVES and not (
        isinstance(bits, int) and MIN_RSA_BITS <= bits <= MAX_RSA_BITS
    ):
        return None
    return key


def holds(key: PyJWK, signed: bytes, signature: bytes) -> bool:
    """Whether ``signature`` holds over ``signed``."""
    try:
        return bool(key.Algorithm.verify(signed, key.key, signature))
    except (PyJWTError, ValueError, TypeError):
        return False
