"""Options of several commands, and the rules for the options of all commands."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, Final, TypeVar

import click

from sealbus import Refused, RequestFailed, Unresolved
from sealbus.errors import SealbusError, hide_seeds
from sealbus.protocol.limits import NONCE_BYTES
from sealbus_broker.cli.shared.errors import known_error
from sealbus_broker.escape import json_line, readable

F = TypeVar("F", bound=Callable[..., Any])

MAX_SECONDS: Final = 24 * 60 * 60.0
"""Longest time of an option: a day, as long as the longest life of a message."""


DECIMAL: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
"""Seconds as people write them."""

TIME: Final = re.compile(r"(?:[0-9]{1,6}(?:ms|s|m|h)){1,4}")
"""A time as nats-server writes it, such as 1m30s."""

DIGITS: Final = re.compile(r"-?[0-9]{1,19}")
"""A whole number of at most 64 bits."""


def seconds(value: str | float) -> float:
    """The type of options that are a time in seconds, above 0."""
    # Plain decimals only. float() also takes 1_0, ٣, 1e3 and inf, which people may misread.
    given = float(value) if DECIMAL.fullmatch(str(value)) else math.nan
    if not 0 < given <= MAX_SECONDS:
        raise click.BadParameter(
            f"'{readable(str(value), 80)}' is not a time in seconds, above 0 and at most "
            f"{MAX_SECONDS:.0f}"
        )
    return given


class WholeNumber(click.IntRange):
    """The type of options and arguments that are a whole number.

    It has an error message of its own.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number.

        Raises :class:`click.BadParameter` for other text, or a number out of range.
        """
        # Digits only. int() also takes 1_000, ٣ and spaces, which no other reader takes.
        number = int(value) if isinstance(value, int) or DIGITS.fullmatch(value) else None
        low = self.min
        high = self.max
        if (
            number is not None
            and (low is None or number >= low)
            and (high is None or number <= high)
        ):
            return number
        span = f"from {low:,} to {high:,}" if high is not None else f"of {low:,} or more"
        raise click.BadParameter(
            f"'{readable(str(value), 80)}' is not a whole number {span}", ctx, param
        )


def sync_interval(value: str) -> str:
    """The type of ``--sync``: ``always``, or a time as nats-server writes it."""
    # A part of Go's durations, without fractions. nats-server does not start with other words.
    if value != "always" and (not TIME.fullmatch(value) or not re.search("[1-9]", value)):
        raise click.BadParameter(
            f"'{readable(value, 80)}' is neither always nor a time above 0, such as 500ms, 10s, 2m"
        )
    return value


def nonce(value: str) -> bytes:
    """The type of options that are a message's nonce, in hex."""
    if not re.fullmatch(f"[0-9a-fA-F]{{{2 * NONCE_BYTES}}}", value):  # fromhex() also takes spaces
        raise click.BadParameter(f"a nonce has {2 * NONCE_BYTES} hexadecimal digits")
    return bytes.fromhex(value)


def all_commands(
    command: click.Command, *words: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command in ``command`` that does something, with its words.

    ``words`` come before them.
    """
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from all_commands(below, *words, name)
    else:
        yield words, command


def environment_names(words: tuple[str, ...], option: click.Option) -> list[str]:
    """``SEALBUS_<COMMAND>_<OPTION>`` for each long spelling of ``option``, then its own names."""
    long = [name for name in option.opts if name.startswith("--")]
    own = [f"SEALBUS_{'_'.join(words)}_{name[2:]}".upper().replace("-", "_") for name in long]
    more = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    return own + [name for name in more if name not in own]


def finish_command(command: click.Command, name: str) -> None:
    """Give each option of ``command`` its names in the environment, and ``--json`` its errors.

    click would make the names from the parameters in Python. Those are not always spelled like the
    option: ``as_json``.
    """
    for words, one in all_commands(command, name):
        for option in one.params:
            if isinstance(option, click.Option):
                option.envvar = environment_names(words, option)
        if one.callback is not None and any(option.name == "as_json" for option in one.params):
            one.callback = _errors_as_json(one.callback)


def _errors_as_json(callback: F) -> F:
    """``callback``. With ``--json``, its errors are one object on stdout too."""

    @functools.wraps(callback)
    def call(*args: Any, as_json: bool, **options: Any) -> Any:
        try:
            return callback(*args, as_json=as_json, **options)
        except Exception as error:
            known = known_error(error)
            if as_json and isinstance(known, SealbusError):
                click.echo(json_line(error_row(known)))
            raise

    return call  # type: ignore[return-value]  # it takes and gives what callback does


def wants_json(context: click.Context | None, arguments: Sequence[str]) -> bool:
    """Whether the command line ``arguments`` asks for JSON, although something in it is wrong.

    click stops at the first mistake, so it may not have come to ``--json``.
    """
    if "--json" in takewhile(lambda one: one != "--", arguments):
        return True
    if context is None:
        return False
    options = (one for one in context.command.params if one.name == "as_json")
    with contextlib.suppress(click.BadParameter):
        return any(
            one.type_cast_value(context, one.resolve_envvar_value(context)) for one in options
        )
    return False


def usage_row(error: click.UsageError) -> dict[str, Any]:
    """The object for a wrong command line that a program reads."""
    command = error.ctx.command_path if error.ctx is not None else "sealbus"
    return {
        "error": "UsageError",
        "what": hide_seeds(error.format_message()),
        "hint": f"`{command} --help` shows how to use it",
    }


def error_row(error: SealbusError) -> dict[str, Any]:
    """The object for ``error`` that a program reads."""
    row: dict[str, Any] = {"error": type(error).__name__, "what": error.what, "hint": error.hint}
    if isinstance(error, Refused):
        row |= {
            "verdict": error.stamp.verdict.value,
            "reason": error.reason.value,
            "detail": error.detail,
        }
        row |= {"nonce": error.stamp.nonce.hex(), "record": error.record}
    if isinstance(error, RequestFailed):
        row |= {"failed_with": error.error, "message": error.message, "bot": error.bot}
    if isinstance(error, Unresolved):
        row["nonce"] = error.nonce.hex()
    return row
