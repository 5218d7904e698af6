"""Requests to the services of the bus, for ``sealbus quarantine`` and ``sealbus subscriptions``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from sealbus import Bot, RequestFailed
from sealbus_broker.cli.shared.bus_options import bot_options
from sealbus_broker.cli.shared.errors import AnsweredNo
from sealbus_broker.cli.shared.options import seconds
from sealbus_broker.cli.shared.signals import CONNECT_S
from sealbus_broker.escape import reshown

F = TypeVar("F", bound=Callable[..., Any])

OPERATOR: Final = "operator"
"""The bot that asks, if none is named."""

ANSWER_S: Final = 10.0
"""Longest time for one answer.

A relay reads some hundred thousand records or subscriptions in a few seconds.
"""

PAGE: Final = 200
"""Rows of one request: as many as the relay gives."""


def operator_options(command: F) -> F:
    """``--timeout``, the bot that speaks, and the address."""
    return click.option(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="Longest wait for the bus, and for each answer. "
        f"[default: {CONNECT_S:.0f}, and {ANSWER_S:.0f} for each answer]",
    )(bot_options(command, OPERATOR))


async def ask(
    operator: Bot, subject: str, payload: dict[str, Any], timeout_s: float
) -> dict[str, Any]:
    """The answer of the service. Raises :class:`AnsweredNo` if the answer is an error."""
    try:
        answer: dict[str, Any] = (
            await operator.request(subject, payload, timeout=timeout_s)
        ).payload
    except RequestFailed as failed:
        raise AnsweredNo(reshown(failed.message)) from None
    return answer


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str] = ()
) -> list[str]:
    """The lines of a table, with nothing cut. A remark is below its row. No rows give no lines."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for at, row in enumerate([head, *rows]):
        lines.append(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
        if remarks and at > 0 and remarks[at - 1]:
            lines.append(" " * (widths[0] + 2) + remarks[at - 1])
    return lines
