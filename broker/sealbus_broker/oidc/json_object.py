"""JSON from elsewhere, read strictly and fast.

Python's own reader takes the last of two equal keys, and ``NaN``. Another reader of the same token
may take the first, so both are refused. :mod:`sealbus_broker.policy.json_tree` also knows places,
and takes seconds for 256 KiB, which would hold up logins.
"""

from __future__ import annotations

import json
from typing import Any

from sealbus.errors import Malformed


def read_object(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        data: UTF-8, of a size that the caller has bounded.
        what: The name of the object in the error.

    Raises:
        Malformed: It is no JSON object, or a name occurs twice in one. The text has nothing of it.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except _Twice:
        raise Malformed(f"{what} has a name twice") from None
    except (ValueError, RecursionError):
        raise Malformed(f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not a JSON object")
    return value


class _Twice(Exception):
    """A name occurs twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _refuse_constant(_: str) -> Any:
    raise ValueError("NaN or an infinity")
