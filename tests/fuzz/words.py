"""Changes a text by its words and lines.

libFuzzer changes bytes. Nine in ten policies with changed bytes are not YAML any more, so they
never reach the reader of policies. A replaced word or a doubled line keeps the form, and changes
the meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from random import Random  # noqa: TID251  # libFuzzer gives the seed, so a run can be repeated
from typing import Final

BYTEWISE: Final = 0.2
"""The share of inputs whose bytes are changed.

The reader must also refuse bytes that are no text.
"""

LINEWISE: Final = 0.3

MOST_CHANGES: Final = 3

MOST_LINES: Final = 6
"""The most lines that are moved together."""

_SPACE: Final = rb"\n[ \t]*|[ \t]+"
_QUOTED: Final = rb"\"(?:[^\"\\\n]|\\.)*\""
_NAME: Final = rb"[A-Za-z0-9_$](?:[A-Za-z0-9_$.*>/:+-]*[A-Za-z0-9*>])?"
_PIECE: Final = re.compile(b"|".join((_SPACE, _QUOTED, _NAME, b".")), re.DOTALL)
_WORD: Final = re.compile(rb"[A-Za-z0-9_$\"]")

Mutate = Callable[[bytes, int, int], bytes]
"""libFuzzer's arguments: the bytes, the largest size, and a seed."""


def by_words(seeds: Iterable[bytes], bytewise: Callable[[bytes, int], bytes]) -> Mutate:
    """A function that changes a text like ``seeds`` with their words.

    ``bytewise`` is libFuzzer's own function.
    """
    known = sorted(
        {piece for seed in seeds for piece in _PIECE.findall(seed) if _WORD.match(piece)}
    )

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = Random(seed)
        if not data or chance.random() < BYTEWISE:
            return bytes(bytewise(data, most))
        for _ in range(chance.randint(1, MOST_CHANGES)):
            data = _changed(data, known, chance)
        return data[:most]

    return mutate


def _changed(data: bytes, known: Sequence[bytes], chance: Random) -> bytes:
    if data and chance.random() < LINEWISE:
        return b"".join(_with_lines_moved(data.splitlines(keepends=True), chance))
    pieces = _PIECE.findall(data)
    words = [at for at, piece in enumerate(pieces) if _WORD.match(piece)]
    if not words or not known:
        return data
    at = chance.choice(words)
    match chance.randrange(4):
        case 0:
            pieces[at] = chance.choice(known)
        case 1:
            there = chance.choice(words)
            pieces[at], pieces[there] = pieces[there], pieces[at]
        case 2:
            pieces[at] = re.sub(rb"[0-9]+", lambda _: chance.choice(_NUMBERS), pieces[at])
        case _:
            del pieces[at]
    return b"".join(pieces)


def _with_lines_moved(lines: list[bytes], chance: Random) -> list[bytes]:
    at = chance.randrange(len(lines))
    some = lines[at : at + chance.randint(1, MOST_LINES)]
    if chance.random() < 0.5:
        del lines[at : at + len(some)]
    there = chance.randrange(len(lines) + 1)
    if chance.random() < 0.7:
        lines[there:there] = some
    return lines


_NUMBERS: Final = (
    b"0",
    b"1",
    b"-1",
    b"7",
    b"17",
    b"0.5",
    b"999999999",
    b"1000000000",
    b"18446744073709551616",
    b"1e400",
)
"""Ends of ranges, and numbers beyond them."""
