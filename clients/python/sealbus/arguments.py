"""Arguments of a bot author, checked where they are written: before anything is sent, asked for or
waited for.

Each function returns its argument, or raises :class:`InvalidInput` that names the argument,
the value and the values that it takes.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sealbus.errors import InvalidInput
from sealbus.protocol.limits import MAX_FORGET_S, MAX_TTL_MS, MIN_FORGET_S, NONCE_BYTES

MAX_CONCURRENCY: Final = 1024
"""Most calls of one handler at once: each has a message in hand, and a subscription's processes
share 16,384."""

MAX_ATTEMPTS: Final = 1000
"""Most that a policy can allow."""

MAX_WAIT_S: Final = 7 * 24 * 3600.0
"""Longest time that a call may be given: as long as accepted messages are kept by default. What
waits longer has no use for a deadline."""

RENEW_LEAST_S: Final = 0.1
"""Shortest pause between two logins: each costs the relay a signature, and the server a
connection."""

_ASYNC_HINT: Final = (
    "write `async def handler(message): ...`; for other work use asyncio.to_thread() inside it"
)


def check_seconds(name: str, value: Any, *, zero: bool = False, least: float = 0.0) -> float:
    """A time in seconds: more than nothing, or nothing too where ``zero``, and finite."""
    seconds = _seconds(name, value)
    enough = seconds >= least and (seconds > 0 or (zero and seconds == 0))
    if not (enough and seconds <= MAX_WAIT_S):  # not a number is neither
        lowest = f"{least:g} s" if least else "0 s" if zero else "more than 0 s"
        raise InvalidInput(
            f"{name}={seconds:g} is out of range",
            hint=f"use {lowest} to {MAX_WAIT_S:g} s",
        )
    return seconds


def check_ttl(value: Any) -> int:
    """Life of an envelope in seconds; returned in milliseconds."""
    seconds = _seconds("ttl", value)
    if not 1 <= seconds * 1000 <= MAX_TTL_MS:
        raise InvalidInput(
            f"ttl={seconds:g} is out of range",
            hint=f"use 0.001 to {MAX_TTL_MS // 1000} s; a policy may allow less",
        )
    return int(seconds * 1000)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{name} must be a number of seconds, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond what a float holds
        return math.inf


def check_concurrency(value: Any) -> int:
    """How many calls of a handler at once."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"concurrency must be a whole number, got {type(value).__name__}")
    if not 1 <= value <= MAX_CONCURRENCY:
        raise InvalidInput(
            f"concurrency={value} is out of range",
            hint=f"use 1 to {MAX_CONCURRENCY}",
        )
    return value


def check_nonce(value: Any) -> bytes:
    """A message's nonce."""
    if not isinstance(value, bytes):
        raise InvalidInput(
            f"nonce must be bytes, got {type(value).__name__}",
            hint="pass the nonce of an Unresolved; from its hex text: bytes.fromhex(text)",
        )
    if len(value) != NONCE_BYTES:
        raise InvalidInput(
            f"nonce has {len(value)} bytes, and must have {NONCE_BYTES}",
            hint="use sealbus.new_nonce()",
        )
    return value


def check_start(value: Any) -> str:
    """Where a durable subscription begins."""
    if value not in ("new", "all"):
        raise InvalidInput(f"start={value!r} is not known", hint='use "new" or "all"')
    return str(value)


def check_verify(value: Any) -> str:
    """Whose word a subscription takes for the sender of a message."""
    if value not in ("bus", "sender"):
        raise InvalidInput(f"verify={value!r} is not known", hint='use "bus" or "sender"')
    return str(value)


def check_forget(value: Any) -> int | None:
    """After how many seconds without use a place is forgotten; ``None`` for never."""
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not MIN_FORGET_S <= value <= MAX_FORGET_S
    ):
        raise InvalidInput(
            f"forget_s={value!r} is out of range",
            hint=f"use a whole number of seconds, {MIN_FORGET_S} to {MAX_FORGET_S}",
        )
    return value


def check_attempts(value: Any) -> int | None:
    """How often a failing message is tried; ``None`` for as often as the policy says."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"attempts must be a whole number, got {type(value).__name__}")
    if not 1 <= value <= MAX_ATTEMPTS:
        raise InvalidInput(
            f"attempts={value} is out of range",
            hint=f"use 1 to {MAX_ATTEMPTS}; a policy may allow less",
        )
    return value


def check_live(value: Any) -> bool | None:
    """Whether a subject is live; ``None`` for what the policy says."""
    if value is None or isinstance(value, bool):
        return value
    raise InvalidInput(
        f"live must be True or False, got {type(value).__name__}",
        hint="leave `live` out: the bus tells the bot which subjects are live",
    )


def check_place(
    *, live: bool | None, durable: str, start: str, attempts: int | None = None
) -> None:
    """A live subscription has no place that is remembered, and no second attempt."""
    name = only_stored(durable=durable, start=start, attempts=attempts)
    if check_live(live) and name is not None:
        raise InvalidInput(
            f"{name} has no meaning for a live subscription",
            hint=f"leave {name} out: nothing is stored for it",
        )


def only_stored(*, durable: str, start: str, attempts: int | None) -> str | None:
    """The argument that was given and that a live subscription cannot have; ``None``: there is
    none."""
    if durable != "default":
        return "durable"
    if start != "new":
        return "start"
    return None if attempts is None else "attempts"


def check_handler(handler: Any) -> Callable[[Any], Awaitable[Any]]:
    """A function that can be awaited and takes one message.

    An ``async def``, a bound method or :func:`functools.partial` of one, or an object whose
    ``__call__`` is one.
    """
    name = getattr(handler, "__name__", None) or type(handler).__name__
    if not callable(handler) or isinstance(handler, type):
        raise InvalidInput(
            f"{name} is not a function, so it cannot handle messages",
            hint=_ASYNC_HINT,
        )
    function = handler
    while isinstance(function, functools.partial):
        function = function.func
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__,
    )
    if not is_async:
        what = "yields" if inspect.isasyncgenfunction(function) else "is not async"
        raise InvalidInput(f"{name} {what}, so it cannot handle messages", hint=_ASYNC_HINT)
    try:
        inspect.signature(handler).bind(None)
    except TypeError:
        raise InvalidInput(f"{name} must take one message", hint=_ASYNC_HINT) from None
    checked: Callable[[Any], Awaitable[Any]] = handler
    return checked
