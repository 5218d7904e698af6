"""Reads values out of a document. A value is right, or its problem is noted and reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sealbus.errors import InvalidInput
from sealbus_broker.escape import readable, reshown
from sealbus_broker.gate.policy import Rate
from sealbus_broker.policy.document import Document, KeyPath
from sealbus_broker.policy.problems import Problem, nearest

T = TypeVar("T")

_DURATIONS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
"""The form of a time.

``fromisoformat`` would also accept week dates, and a time without a zone, which two readers can
understand differently.
"""

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)/s(?: burst ([0-9]{1,9}))?")


def time_ms(text: str) -> int | None:
    """Return a time in UTC such as ``2026-11-24T08:00:00Z`` in ms since 1970. ``None``: it is
    none."""
    if not _TIME.fullmatch(text):
        return None
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:  # the 31st of February
        return None


def time_text(at_ms: int) -> str:
    """Return the text that :func:`time_ms` reads, in whole seconds."""
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def duration_ms(text: str) -> int | None:
    """Return a duration such as ``90s`` or ``7d`` in ms. ``None``: it is none."""
    match = _DURATION.fullmatch(text)
    return None if match is None else int(match[1]) * _DURATIONS[match[2]]


class Reader:
    """One document, and the problems that were found in it."""

    def __init__(self, document: Document, problems: list[Problem]) -> None:
        self.document = document
        """The document whose values are read."""
        self.problems = problems
        """Each problem that is found is added here."""

    def problem(
        self,
        path: KeyPath,
        what: str,
        *,
        got: object = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Note a problem at ``path``. ``got`` is made safe to show."""
        shown = (
            None
            if got is None
            else readable(got, 80)
            if isinstance(got, str)
            else reshown(repr(got), 80)
        )
        self.problems.append(
            self.document.problem(path, what, got=shown, expected=expected, hint=hint)
        )

    def mapping(
        self, value: Any, path: KeyPath, known: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """A mapping with text keys, all of them ``known`` (if given).

        Notes a problem and returns ``{}`` otherwise.
        """
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem(path, "is not a mapping", got=value, expected="a mapping (name: value)")
            return {}
        found: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                self.problem(
                    (*path, key), "the name is not a text", got=key, hint="put it in quotes"
                )
            elif known is not None and key not in known:
                hint = nearest(key, known) or f"known here: {', '.join(known)}"
                self.problem(
                    (*path, key), f"unknown name {readable(key, 80) or '(empty)'}", hint=hint
                )
            else:
                found[key] = inner
        return found

    def text(self, value: Any, path: KeyPath, what: str) -> str | None:
        """A text. Notes a problem and returns ``None`` otherwise."""
        if isinstance(value, str) and value:
            return value
        if value is None:
            self.problem(path, f"{what} is missing", expected="a text")
        elif value == "":
            self.problem(path, f"{what} is empty", expected="a text")
        else:
            hint = "" if isinstance(value, list | dict) else "put it in quotes"
            self.problem(path, f"{what} is not a text", got=value, expected="a text", hint=hint)
        return None

    def texts(self, value: Any, path: KeyPath, what: str) -> list[tuple[KeyPath, str]]:
        """A list of texts, each with its path. A single text counts as a list of one."""
        if value is None:
            return []
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(",")]
            if len(parts) > 1 and not value.startswith(
                "/"
            ):  # a JSON pointer may have a comma in it
                self.problem(
                    path,
                    f"{what} is one text with commas",
                    got=value,
                    hint=f"write [{readable(', '.join(parts), 100)}]",
                )
                return []
            return [(path, value)]
        if not isinstance(value, list):
            self.problem(path, f"{what} is not a list", got=value, expected="a list of texts")
            return []
        found = [((*path, at), self.text(item, (*path, at), what)) for at, item in enumerate(value)]
        return [(place, text) for place, text in found if text is not None]

    def checked(
        self, value: Any, path: KeyPath, what: str, check: Callable[[str], str]
    ) -> str | None:
        """A text that ``check`` accepts. ``check`` raises :class:`InvalidInput`."""
        text = self.text(value, path, what)
        if text is None:
            return None
        try:
            return check(text)
        except InvalidInput as error:
            self.problem(path, reshown(error.what, 160), hint=error.hint)
            return None

    def choice(self, value: Any, path: KeyPath, what: str, choices: Sequence[str]) -> str | None:
        """One of ``choices``."""
        if isinstance(value, str) and value in choices:
            return value
        self.problem(
            path,
            f"{what} is not known",
            got=value,
            expected=" or ".join(choices),
            hint=nearest(str(value), choices),
        )
        return None

    def flag(self, value: Any, path: KeyPath, what: str) -> bool:
        """``true`` or ``false``."""
        if not isinstance(value, bool):
            self.problem(path, f"{what} is not true or false", got=value, expected="true or false")
            return False
        return value

    def count(self, value: Any, path: KeyPath, what: str, least: int, most: int) -> int | None:
        """A whole number from ``least`` to ``most``, both included."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(
                path, f"{what} is not a whole number", got=value, expected=f"{least} to {most}"
            )
            return None
        if not least <= value <= most:
            self.problem(path, f"{what} is out of range", got=value, expected=f"{least} to {most}")
            return None
        return value

    def duration(
        self, value: Any, path: KeyPath, what: str, least_ms: int = 1, most_ms: int = 10**13
    ) -> int | None:
        """A duration such as ``500ms``, ``60s``, ``5m``, ``1h``, ``7d``, in ms."""
        return self._scaled(
            value,
            path,
            what,
            _DURATION,
            _DURATIONS,
            least_ms,
            most_ms,
            "a duration like 500ms, 60s, 5m",
        )

    def size(
        self, value: Any, path: KeyPath, what: str, least: int = 1, most: int = 2**50
    ) -> int | None:
        """A size such as ``256KiB`` or ``4GiB``, in bytes."""
        return self._scaled(
            value, path, what, _SIZE, _SIZES, least, most, "a size like 256KiB, 4GiB"
        )

    def _scaled(
        self,
        value: Any,
        path: KeyPath,
        what: str,
        form: re.Pattern[str],
        units: dict[str, int],
        least: int,
        most: int,
        expected: str,
    ) -> int | None:
        match = form.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.problem(path, f"{what} is not understood", got=value, expected=expected)
            return None
        number = int(match[1]) * units[match[2]]
        if not least <= number <= most:
            expected = f"{_written(least, units)} to {_written(most, units)}"
            self.problem(path, f"{what} is out of range", got=value, expected=expected)
            return None
        return number

    def rate(self, value: Any, path: KeyPath) -> Rate | None:
        """A rate such as ``200/s`` or ``200/s burst 400``."""
        match = _RATE.fullmatch(value) if isinstance(value, str) else None
        if match is None or float(match[1]) <= 0 or (match[2] is not None and int(match[2]) < 1):
            self.problem(
                path,
                "rate is not understood",
                got=value,
                expected="a rate like 200/s or 200/s burst 400",
            )
            return None
        per_second = float(match[1])
        return Rate(per_second, int(match[2]) if match[2] else max(1, round(per_second)))

    def time(self, value: Any, path: KeyPath, what: str) -> int | None:
        """A time in UTC such as ``2026-11-24T08:00:00Z``, in ms since 1970."""
        found = time_ms(value) if isinstance(value, str) else None
        if found is not None:
            return found
        self.problem(
            path,
            f"{what} is not a time",
            got=value,
            expected="a time in UTC like 2026-11-24T08:00:00Z",
        )
        return None


def _written(number: int, units: dict[str, int]) -> str:
    """``number`` as a file would have it, in the largest unit that divides it."""
    size, name = max(
        (size, name)
        for name, size in units.items()
        if number % size == 0 and size <= max(number, 1)
    )
    return f"{number // size}{name}"
