"""The keyring: the list of a bus's own keys (section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.vectors.stranger.encoding import decode
from tests.vectors.stranger.messages import Stamp, open_stamp, read_fields, read_sealed
from tests.vectors.stranger.rules import Refused, Rules
from tests.vectors.stranger.signing import CONTEXTS, holds, read_seal

_TYPES: Final = ((str,), (int,), (bytes,), (bytes,), (int,), (int,))


@dataclass(frozen=True)
class Link:
    """A link, taken apart. Its seal holds."""

    bus: str
    number: int
    old: bytes
    new: bytes
    begin: int
    end: int


def read_link(rules: Rules, data: bytes) -> Link:
    """Take a link apart, and verify its seal."""
    rules.must("a link too large", len(data) <= rules.limit["link"])
    body, signed, raw_seal = read_sealed(rules, data)
    seal = read_seal(rules, raw_seal)
    context = CONTEXTS["keyring"]
    if rules.slips("a link read in the context of a stamp"):
        context = CONTEXTS["stamp"]
    rules.must("a link whose seal does not hold", holds(rules, context, seal, signed))
    link = Link(*read_fields(rules, body, _TYPES, "link")[:6])
    # The grammar of the bus follows from the comparison with the reader's own.
    rules.must("a link's number too low", link.number >= rules.limit["link-number-least"])
    rules.must("a link's number too high", link.number <= rules.limit["link-number"])
    sizes = {len(link.old), len(link.new)}
    rules.must("the length of a key in a link", sizes == {rules.limit["link-key"]})
    rules.must("a link's beginning too early", link.begin >= rules.limit["link-time-least"])
    rules.must("a link's end too late", link.end <= rules.limit["link-time"])
    rules.must("a link whose end is before its beginning", link.begin <= link.end)
    rules.must("a link by another key than its old one", seal.key == link.old)
    return link


def read_keyring(rules: Rules, data: bytes, bus: str) -> list[Link]:
    """The links of a list, which are one chain."""
    rules.must("a keyring too large", len(data) <= rules.limit["keyring"])
    outer = decode(rules, data)
    if type(outer) is not list or len(outer) != 2 or type(outer[1]) is not list:
        raise Refused("not a keyring")
    rules.must("the version of a keyring", outer[0] == 1)
    items = outer[1]
    # That they are 1 to 32 follows from the checks of the whole chain.
    if not all(type(item) is bytes for item in items):
        raise Refused("a link that is not bytes")
    links = [read_link(rules, item) for item in items]
    check_chain(rules, links, bus)
    return links


def check_chain(rules: Rules, links: list[Link], bus: str) -> None:
    """Refuse links that are not one chain of ``bus``."""
    for at, link in enumerate(links):
        rules.must("a link of another bus", link.bus == bus)
        keys = [one.old for one in links[: at + 1]]
        rules.must("a key that comes back", link.new not in keys)
        if at == 0:
            continue
        before = links[at - 1]
        rules.must("a gap between links", link.number == before.number + 1)
        rules.must("a link that begins elsewhere", link.old == before.new)
        rules.must("a later key that begins no later", link.begin > before.begin)
        rules.must("an older key that lives longer", link.end >= before.end)


class Reader:
    """A client, as far as it follows the keys of its bus."""

    def __init__(self, rules: Rules, bus: str, pinned: frozenset[bytes]) -> None:
        self.rules = rules
        self.bus = bus
        self.pinned = pinned
        self.links: list[Link] = []

    def take(self, data: bytes) -> None:
        """Follow a list, or refuse it."""
        rules = self.rules
        links = read_keyring(rules, data, self.bus)
        known = {link.number: link for link in self.links}
        chain = {key for link in (*self.links, *links) for key in (link.old, link.new)}
        rules.must("a list with no pinned key", self.pinned & chain)
        rules.must(
            "a list without one of the pinned keys", self.pinned <= chain or not self.pinned & chain
        )
        rules.must("a fork", all(known.get(link.number, link) == link for link in links))
        if self.links and links[-1].number < self.links[-1].number:
            if rules.slips("an old list takes the place of a new one"):
                self.links = links
            return
        links = [*(link for link in self.links if link.number < links[0].number), *links]
        rules.must("a chain without an end", len(links) <= rules.limit["links"])
        check_chain(rules, links, self.bus)
        self.links = links

    @property
    def trusted(self) -> dict[bytes, int | None]:
        """The keys that are believed, with their ends."""
        if self.rules.slips("a list that is not followed"):
            return dict.fromkeys(self.pinned)
        found: dict[bytes, int | None] = dict.fromkeys(self.pinned)
        for link in self.links:
            if link.old in found or self.rules.slips("a key before the pinned one"):
                found.setdefault(link.new, None)
                found[link.old] = None if self.rules.slips("a key without an end") else link.end
        return found

    def open(self, data: bytes) -> Stamp:
        """A stamp that this reader believes."""
        trusted = self.trusted
        stamp = open_stamp(self.rules, data, frozenset(trusted))
        end = trusted.get(read_seal(self.rules, read_sealed(self.rules, data)[2]).key)
        if end is not None:
            late = stamp.judged_at > end
            if self.rules.slips("a key that ends a moment early"):
                late = stamp.judged_at >= end
            self.rules.must("a stamp after the end of its key", not late)
        return stamp
