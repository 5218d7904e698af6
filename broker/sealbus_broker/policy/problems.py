"""Problems of files: the place of each, its text for people, and its object for programs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sealbus.errors import hide_seeds
from sealbus_broker.escape import readable

HINTED: Final = 20
"""The problems of a folder that may have a hint of a similar name: as many as a relay tells. To
compare a name with a thousand others takes 30 ms, and one wrong word in a policy may make ten
thousand problems."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One problem in one place. Lines and columns count from 1, and 0 means the whole file."""

    file: str
    line: int
    column: int
    what: str
    got: str | None = None
    expected: str | None = None
    hint: str | None = None

    def __post_init__(self) -> None:
        """Hide a seed that somebody pasted into the file."""
        for name in ("file", "what", "got", "expected", "hint"):
            text = getattr(self, name)
            if text and (hidden := hide_seeds(text)) != text:
                object.__setattr__(self, name, hidden)

    def __str__(self) -> str:
        """``file:line:column: what``. Then got, expected and hint follow, each on its own line."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        rows = [("got", self.got), ("expected", self.expected), ("hint", self.hint)]
        return f"{place}: {self.what}" + "".join(
            f"\n  {name}: {text}" for name, text in rows if text
        )

    def as_dict(self) -> dict[str, Any]:
        """The same for ``--json``."""
        return asdict(self)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The hint ``did you mean x?`` if one of ``known`` is similar to ``word``."""
    # A long word is like nothing, and finding that out takes time that grows with its square.
    close = difflib.get_close_matches(word[:64], list(known), 1)
    return f"did you mean {readable(close[0], 80)}?" if close else None


def similar(word: str, known: Iterable[str], problems: Sequence[Problem]) -> str | None:
    """The hint of :func:`nearest` for a name of a folder that has ``problems`` so far. Only its
    first :data:`HINTED` problems have one."""
    return nearest(word, known) if len(problems) < HINTED else None
