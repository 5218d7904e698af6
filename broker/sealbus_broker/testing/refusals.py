"""Expecting that the bus refuses a message."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from sealbus import InvalidInput, Reason, Refused
from sealbus_broker.policy.problems import nearest


def check_reason(reason: str, known: Sequence[str]) -> None:
    """Raise :class:`InvalidInput` if ``reason`` is none of ``known``."""
    if reason not in known:
        raise InvalidInput(
            f"there is no reason {str(reason)!r}",
            hint=nearest(reason, known) or f"one of: {', '.join(known)}",
        )


class expect_refused:  # noqa: N801  # it is called like a function
    """A block in which the bus must refuse a message, for ``reason``::

        with expect_refused("schema") as refused:
            await order.publish("orders.placed", {"order_id": 7})
        assert refused.error.faults

    It works on the in-memory bus and on a real one. Where nothing is refused, or for another
    reason, the block raises :class:`AssertionError`, which says what happened instead.
    """

    def __init__(self, reason: str | Reason) -> None:
        """``reason``: one of ``docs/protocol.md``, such as ``"schema"``.

        Raises:
            InvalidInput: there is no such reason.
        """
        check_reason(reason, [one.value for one in Reason])
        self._reason = Reason(reason)
        self._error: Refused | None = None

    @property
    def error(self) -> Refused:
        """The refusal, once the block is over."""
        if self._error is None:
            raise AssertionError("the block that expects a refusal is not over")
        return self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> bool:
        if kind is None:
            raise AssertionError(f"nothing was refused; expected {self._reason.value}")
        if not isinstance(error, Refused):
            return False
        if error.reason is not self._reason:
            got, expected = error.reason.value, self._reason.value
            what = f"refused for {got}; expected {expected}. The bus said: {error}"
            raise AssertionError(what) from error
        self._error = error
        return True
