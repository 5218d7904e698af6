"""Text from elsewhere, made safe to show.

A property name, a file's content or a quarantined header is whatever its author wanted it to be. Shown raw, it can move a
terminal's cursor, hide the line above, or forge a second line in a log.
"""

from __future__ import annotations


def printable(text: str, limit: int = 80) -> str:
    """``text`` in printable ASCII, at most ``limit`` characters: everything else escaped (``\\n``, ``\\x1b``, ``\\u202e``), and
    ``...`` at the end where it was cut. A backslash is doubled, so that two different texts never look the same."""
    out: list[str] = []
    size = 0
    for at, char in enumerate(text):
        if char == "\\":
            shown = "\\\\"
        elif char.isascii() and char.isprintable():
            shown = char
        else:
            shown = char.encode("unicode_escape").decode("ascii")
        if size + len(shown) + (3 if at + 1 < len(text) else 0) > limit:
            return "".join(out) + "..." if limit >= size + 3 else "..."[: max(0, limit)]
        out.append(shown)
        size += len(shown)
    return "".join(out)
