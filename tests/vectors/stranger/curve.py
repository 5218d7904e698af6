"""Ed25519 (RFC 8032, section 5.1.7) in Python integers.

Verifiers differ about its edge cases. This is slow and not constant in time: it is for public
vectors only.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Final

from tests.vectors.stranger.rules import Rules

P: Final = 2**255 - 19
L: Final = 2**252 + 27742317777372353535851937790883648493
D: Final = -121665 * pow(121666, P - 2, P) % P
ROOT: Final = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]
NEUTRAL: Final = (0, 1, 1, 0)


def add(one: Point, other: Point) -> Point:
    """The sum of two points."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(factor: int, point: Point) -> Point:
    """``factor`` times ``point``."""
    result: Point = NEUTRAL
    while factor:
        if factor & 1:
            result = add(result, point)
        point = add(point, point)
        factor >>= 1
    return result


def equal(one: Point, other: Point) -> bool:
    """Whether two points are the same."""
    return (
        not (one[0] * other[2] - other[0] * one[2]) % P
        and not (one[1] * other[2] - other[1] * one[2]) % P
    )


def point(data: bytes, *, canonical: bool) -> Point | None:
    """The point that ``data`` encodes."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if canonical and y >= P:
        return None
    y %= P
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign and canonical):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


_BASE_Y: Final = 4 * pow(5, P - 2, P) % P
_base = point(_BASE_Y.to_bytes(32, "little"), canonical=True)
assert _base is not None
BASE: Final = _base


def verify(rules: Rules, key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature holds, as libsodium judges it."""
    lenient_point = rules.slips("a key or R that is not canonical is read")
    r_bytes, s = signature[:32], int.from_bytes(signature[32:], "little")
    if s >= L and not rules.slips("S beyond the group's order"):
        return False
    a, r = point(key, canonical=not lenient_point), point(r_bytes, canonical=not lenient_point)
    if a is None or r is None:
        return False
    if equal(times(8, a), NEUTRAL) and not (lenient_point or rules.slips("a key of small order")):
        return False
    if equal(times(8, r), NEUTRAL) and not (lenient_point or rules.slips("an R of small order")):
        return False
    k = int.from_bytes(hashlib.sha512(r_bytes + key + message).digest(), "little") % L
    left, right = times(s, BASE), add(r, times(k, a))
    if rules.slips("the equation multiplied by the cofactor"):
        left, right = times(8, left), times(8, right)
    return equal(left, right)


@cache
def is_valid_point(data: bytes) -> bool:
    """Whether a point is canonical, of the prime order, and not neutral.

    It does the same as libsodium's ``crypto_core_ed25519_is_valid_point``. No mistake is planted
    into it, and the vectors have few keys, so each is looked at once.
    """
    found = point(data, canonical=True)
    return found is not None and not equal(found, NEUTRAL) and equal(times(L, found), NEUTRAL)
