"""A bus's folder for tests: small and valid. A test changes the part that it is about."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.document import Document, KnownFiles, parse_yaml
from sealbus_broker.policy.loader import Loaded, load
from sealbus_broker.policy.problems import Problem

POLICY = """\
version: 1
bus: shop
bots:
  order:
    publish: [orders.placed]
    subscribe: [stock.reserved]
  inventory:
    publish: [stock.reserved]
    subscribe: [orders.placed, stock.check]
subjects:
  orders.placed:
    schema: order.v1
  stock.reserved:
    schema: order.v1
  stock.check:
    delivery: live
    schema: order.v1
    reply: order.v1
"""


@cache
def sound_policy() -> Document:
    """:data:`POLICY`, read once for all folders. Nobody changes a document."""
    document = parse_yaml("policy.yaml", POLICY.encode())
    assert isinstance(document, Document)
    return document


class Folder:
    """Writes files and loads them.

    Like a relay, it takes apart only the files that have changed: YAML is slow to read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known = KnownFiles()
        self._known.keep(sound_policy())
        self.write("policy.yaml", POLICY)
        self.write("schemas/order.v1.json", '{"type": "object"}')

    def write(self, file: str, content: str | bytes) -> Path:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def change(self, old: str, new: str, file: str = "policy.yaml") -> None:
        """Replace ``old``, which must occur in the file exactly once."""
        text = (self.root / file).read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        self.write(file, text.replace(old, new))

    def key(self, bot: str, text: str | None = None) -> str:
        """Write a key file with a new key. Returns the key's text."""
        text = text or SigningKey.generate(KeyKind.BOT).public.text
        self.write(
            f"keys/{bot}.yaml",
            f"bot: {bot}\nkeys:\n  - key: {text}\n    not_before: 2026-11-24T08:00:00Z\n",
        )
        return text

    def load(self) -> Loaded:
        loaded = load(self.root, known=self._known)
        assert (loaded.policy is None) == bool(loaded.problems), (
            "a policy or problems, never both and never neither"
        )
        for problem in (*loaded.problems, *loaded.notes):
            lines = str(problem).split("\n")
            assert all(line.isprintable() for line in lines), "a problem is safe to show"
            json.dumps(problem.as_dict())
        return loaded

    def problems(self) -> list[str]:
        """``where: what`` of each problem."""
        return [first_line(problem) for problem in self.load().problems]

    def problem(self) -> Problem:
        """The only problem there is."""
        (found,) = self.load().problems
        return found

    def notes(self) -> list[str]:
        return [first_line(note) for note in self.load().notes]


def first_line(problem: Problem) -> str:
    return str(problem).split("\n", maxsplit=1)[0]
