"""Lists of a Markdown document whose items begin with a term in bold.

An item is a line ``- **term** …`` with the indented lines below it, such as a list of tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item."""

    term: str
    """Without the bold marks and the last full stop, in one line."""
    facts: str
    """Everything after the term, in one line."""


def items(text: str) -> list[Item]:
    """The items of all lists in ``text``, in their order."""
    return [_item(lines) for lines in re.findall(r"^- \*\*.*\n(?: +\S.*\n)*", text, re.MULTILINE)]


def _item(lines: str) -> Item:
    term, _, facts = " ".join(lines.split()).removeprefix("- **").partition("**")
    return Item(term.removesuffix("."), facts.strip())
