"""The rules and limits of a reader, and how a mistake is planted in one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIMITS: Final = {
    "depth": 32,
    "nodes": 65_536,
    "integer": 2**53 - 1,
    "name": 32,
    "token": 64,
    "tokens": 16,
    "subject": 200,
    "nonce": 16,
    "time": 2**53 - 1,
    "ttl": 86_400_000,
    "schema-version": 65_535,
    "parent": 262_144,
    "envelope": 524_288,
    "bundle": 131_072,
    "bundle-most": 64,
    "bundle-item": 98,
    "steps": 10,
    "shown": 528_640,
    "payloads": 256,
    "salt": 16,
    "hash": 32,
    "parent-index": 255,
    "count": 256,
    "details": 2_000,
    "stamp": 8_192,
    "notice": 1_024,
    "notice-life": 60_000,
    "pause-least": 1,
    "pause": 600_000,
    "links": 32,
    "link": 600,
    "keyring": 20_480,
    "sender-links": 8,
    "sender-link": 102,
    "link-number": 2**53 - 1,
    "link-time": 2**53 - 1,
    "link-key": 32,
    "detail": 1_000,
    "faults": 8,
    "position": 2**53 - 1,
    "record": 2**53 - 1,
    "store-by": 2**53 - 1,
    "shelf-life": 10_000,
    "live-shelf-life": 5_000,
    "certificate": 106,
    "certificate-life": 86_400_000,
    "certificate-ahead": 60_000,
    "proof": 96,
    "record-key": 32,
    "record-proof": 96,
    "record-time": 2**53 - 1,
    "token-seed": 32,
    "token-keys": 4,
    "token-end": 2**53 - 1,
}
"""Every number of sections 4 and 18 that a client needs, by a name of this file."""

LEAST: Final = {
    "issued-at": 0,
    "ttl-least": 1,
    "version-least": 1,
    "position-least": 1,
    "record-least": 1,
    "judged-at": 0,
    "bundle-least": 2,
    "payloads-least": 1,
    "hash-least": 32,
    "count-least": 1,
    "parent-index-least": 0,
    "certificate-life-least": 1,
    "record-time-least": 0,
    "token-keys-least": 1,
    "token-end-least": 0,
    "link-number-least": 1,
    "link-time-least": 0,
}
"""Lower bounds."""


class Refused(Exception):
    """The bytes break a rule."""


class Rules:
    """The demands of a reader.

    A *mistake* is the name of one rule, limit or habit that this reader gets wrong.
    """

    def __init__(self, mistake: str = "") -> None:
        self.mistake = mistake
        self.limit = {name: value + self._off(name) for name, value in (LIMITS | LEAST).items()}

    def _off(self, name: str) -> int:
        return {f"{name} + 1": 1, f"{name} - 1": -1}.get(self.mistake, 0)

    def must(self, rule: str, holds: object) -> None:
        """Refuse unless ``holds``. A reader with the mistake ``rule`` skips this check."""
        if not holds and self.mistake != rule:
            raise Refused(rule)

    def slips(self, mistake: str) -> bool:
        """Whether this reader has the habit ``mistake``."""
        return self.mistake == mistake


class Noting(Rules):
    """A reader without a mistake that notes which mistakes would have changed its way."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: set[str] = set()
        self.limit = _NotedLimits(self.limit, self.noted)

    def must(self, rule: str, holds: object) -> None:
        if not holds:
            self.noted.add(rule)
        super().must(rule, holds)

    def slips(self, mistake: str) -> bool:
        self.noted.add(mistake)
        return super().slips(mistake)


class _NotedLimits(dict[str, int]):
    def __init__(self, limits: Mapping[str, int], noted: set[str]) -> None:
        super().__init__(limits)
        self._noted = noted

    def __getitem__(self, name: str) -> int:
        self._noted |= {f"{name} + 1", f"{name} - 1"}
        return super().__getitem__(name)


def mistakes() -> list[str]:
    """Every mistake that can be planted: each rule left out, each limit one off, each bad habit."""
    source = "".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
    left_out = re.findall(r'\.must\(\s*"([^"]+)"', source)
    habits = re.findall(r'\.slips\("([^"]+)"\)', source)
    off = [f"{name} {sign} 1" for name in LIMITS | LEAST for sign in "+-"]
    return list(dict.fromkeys([*left_out, *habits, *off]))
