"""Makes the Markdown of the generated parts: tables, paragraphs, and blocks of code."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final

COLUMNS: Final = 100
"""The longest line of a document."""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def wrapped(text: str, mark: str = "") -> str:
    """A paragraph. With a ``mark``, such as ``- ``, an item of a list. Code stays in one line."""
    kept = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), text)
    return textwrap.fill(
        f"{mark}{kept}",
        COLUMNS,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    ).replace("\0", " ")


def plain(docstring: str | None) -> str:
    """A docstring as one line of Markdown."""
    return " ".join((docstring or "").replace("``", "`").split())


def fenced(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def as_json(value: object) -> str:
    """A block of JSON."""
    return fenced(folded(value), "json")


def folded(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON with one line for each part that fits into one.

    ``before`` is the length of the text before the value in its line.
    """
    short = json.dumps(value)
    if indent + before + len(short) < COLUMNS or not isinstance(value, dict | list):
        return short
    inner = indent + 2
    pad = " " * inner
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(key)}: {folded(one, inner, len(json.dumps(key)) + 2)}"
            for key, one in value.items()
        ]
        begin, end = "{", "}"
    else:
        begin, end = "[", "]"
        parts = [folded(one, inner) for one in value]
        if all(isinstance(one, str) for one in value):
            lines = textwrap.wrap(", ".join(parts), COLUMNS - inner, break_on_hyphens=False)
            return f"{begin}\n" + "\n".join(pad + line for line in lines) + f"\n{' ' * indent}{end}"
    return f"{begin}\n{pad}" + f",\n{pad}".join(parts) + f"\n{' ' * indent}{end}"
