"""Changes a text by its words and lines.

libFuzzer changes bytes. Of a policy whose bytes were changed, nine in ten are no YAML any more, and what reads policies is never
reached. A word in the place of another, or a line twice, leaves the form whole and asks what it means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from random import Random  # noqa: TID251  # libFuzzer gives the seed, so a run can be repeated
from typing import Final

BYTEWISE: Final = 0.2
"""So often bytes are changed all the same: what is no text at all has to be refused too."""

LINEWISE: Final = 0.3

MOST_CHANGES: Final = 3

MOST_LINES: Final = 6
"""Lines that are moved together."""

_PIECE: Final = re.compile(
    rb"\n[ \t]*|[ \t]+|\"(?:[^\"\\\n]|\\.)*\"|[A-Za-z0-9_$](?:[A-Za-z0-9_$.*>/:+-]*[A-Za-z0-9*>])?|.", re.DOTALL
)
_WORD: Final = re.compile(rb"[A-Za-z0-9_$\"]")

Mutate = Callable[[bytes, int, int], bytes]
"""What libFuzzer asks: the bytes, how many there may be, a seed."""


def by_words(seeds: Iterable[bytes], bytewise: Callable[[bytes, int], bytes]) -> Mutate:
    """A function that changes one text like ``seeds``, of whose words it knows. ``bytewise`` is libFuzzer's own."""
    known = sorted({piece for seed in seeds for piece in _PIECE.findall(seed) if _WORD.match(piece)})

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
"""Ends of ranges, and what lies beyond them."""
