"""A body and its seal in one array: the form of everything that the bus itself says.

On the wire it is msgpack ``[version, body bin, seal bin]``. The seal is over the bytes before it.
Stamps (:mod:`sealbus.protocol.stamp`), notices (:mod:`sealbus.protocol.notice`) and the links of a
keyring (:mod:`sealbus.protocol.keyring`) have this form.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealbus.errors import Malformed
from sealbus.protocol.codec import join_sealed, signed_part, split_sealed
from sealbus.protocol.keys import Signer
from sealbus.protocol.seal import Context, Seal, Verifier, seal


class UnknownKey(Malformed):
    """The item was sealed by a key that the reader does not trust, or not yet."""


def seal_bodies(
    key: Signer, context: Context, bodies: Sequence[bytes], verifier: Verifier | None = None
) -> list[bytes]:
    """Seal 1 to 1,024 bodies with one signature of the bus's key; return their bytes, in order.

    ``verifier`` will know them again without verifying them.
    """
    items = [signed_part(body) for body in bodies]
    seals = seal(key, context, items)
    if verifier is not None:
        verifier.remember(context, seals[0], items[0])
    return [join_sealed(body, sealed) for body, sealed in zip(bodies, seals, strict=True)]


def open_body(
    data: bytes,
    bus_keys: frozenset[bytes] | None,
    verifier: Verifier,
    *,
    context: Context,
    most: int,
) -> tuple[bytes, bytes]:
    """Verify a sealed body; return the body, and the raw key that sealed it.

    Args:
        data: the bytes, as they came.
        bus_keys: the raw public keys (32 bytes each) that the reader trusts. ``None``: any key will
            do, because the caller looks at it.
        verifier: verifies the seal.
        context: the kind of the item, whose name errors begin with.
        most: how many bytes ``data`` may have.

    Raises:
        Malformed: the bytes have another form, or the seal does not hold.
        UnknownKey: the key is not one of ``bus_keys``.
    """
    if len(data) > most:
        raise Malformed(f"{context.name.lower()} of {len(data)} bytes; at most {most}")
    body, signed, sealed = split_sealed(data)
    found = Seal.decode(sealed)
    if bus_keys is not None and found.key not in bus_keys:
        raise UnknownKey(f"{context.name.lower()}: sealed by a key that is not the bus's")
    if not verifier.verify(context, found, signed):
        raise Malformed(f"{context.name.lower()}: the seal does not hold")
    return body, found.key
