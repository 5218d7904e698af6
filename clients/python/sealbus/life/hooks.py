"""Functions of a bot author that are told of events: connected, lost, a subscription denied."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from sealbus.errors import InvalidInput
from sealbus.log import log
from sealbus.supervision import outcome

Hook: TypeAlias = Callable[..., Awaitable[None] | None]
"""A function, plain or ``async``, that takes one argument or none."""

H = TypeVar("H", bound=Hook)


class Hooks:
    """The functions for one kind of event, called in the order in which they were registered.

    An exception in a hook is logged and changes nothing.
    """

    def __init__(self, event: str) -> None:
        """``event``: its name, for errors and the log."""
        self._event = event
        self._hooks: list[tuple[Hook, bool]] = []
        """Each with whether it takes an argument."""

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def add(self, hook: H) -> H:
        """Register ``hook``. Raises :class:`InvalidInput` if it cannot be called with one argument
        or none."""
        self._hooks.append((hook, _takes_one(hook, self._event)))
        return hook

    async def call(self, argument: Any) -> None:
        """Call every hook with ``argument``, or without where it takes none."""
        for hook, takes_one in self._hooks:
            error = await outcome(_call(hook, argument, takes_one=takes_one))
            if error is not None:
                log.exception(error, "a hook for %s failed", self._event)


async def _call(hook: Hook, argument: Any, *, takes_one: bool) -> None:
    result = hook(argument) if takes_one else hook()
    if inspect.isawaitable(result):
        await result


def _takes_one(hook: Hook, event: str) -> bool:
    error = InvalidInput(
        f"on_{event} needs a function that takes one argument or none",
        hint=f"decorate a function: `@bot.on_{event}`, without parentheses",
    )
    if not callable(hook):
        raise error
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # a callable without a signature, such as some builtins
        return False
    # Without an argument first, so that a default value of the author's stays.
    for arguments in ((), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise error
