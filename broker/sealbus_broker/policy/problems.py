"""What is wrong with a file, and where: told to people as text, to programs as an object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in one place. Lines and columns count from 1; 0 means the whole file."""

    file: str
    line: int
    column: int
    what: str
    got: str | None = None
    expected: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """``file:line:column: what``, then got, expected and hint, each on a line of its own."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        rows = [("got", self.got), ("expected", self.expected), ("hint", self.hint)]
        return f"{place}: {self.what}" + "".join(f"\n  {name}: {text}" for name, text in rows if text)

    def as_dict(self) -> dict[str, Any]:
        """The same for ``--json``."""
        return asdict(self)
