"""The keys by which one bot believes its bus: those of its credentials, and those that follow them.

How it works. The bot begins with the *pinned* keys, which its credentials name. Relays serve a
*keyring* (:mod:`sealbus.protocol.keyring`), a chain of links from each key of the bus to the next.
:meth:`Trust.take` reads such a list and follows it:

* It needs a pinned key on the chain, and all pinned keys if there are several. Otherwise somebody
  who has found one old key could lead on from it, past the newer one that the operator has given.
* From the oldest pinned key on, each key of the chain is trusted. Earlier ones are not.
* A key that another one follows has an end. A stamp that was made later is refused. A stamp that
  was made before stays good, because stored messages have it.
* The list only grows. A shorter one than the last is old, and changes nothing. One that contradicts
  the last is a fork, and is refused: one of the two is by a thief.

It does no input or output: :mod:`sealbus.life.keyring` fetches the list. If there is none, or it is
lost or refused, the bot goes on with the keys that it has. Its knowledge is in memory alone.
After a start it reads the list again.
"""

from __future__ import annotations

from sealbus.credentials import Credentials
from sealbus.errors import Malformed
from sealbus.protocol.bus_keys import BusKeys
from sealbus.protocol.keyring import Link, check_chain, open_keyring
from sealbus.protocol.limits import MAX_LINKS


class Trust:
    """The trusted keys of one bus, which only ever grow."""

    def __init__(self, bus: str, pinned: frozenset[bytes]) -> None:
        """``bus``: its name. ``pinned``: the raw public keys (32 bytes each) of the credentials."""
        self._bus = bus
        self._pinned = pinned
        self._data: bytes | None = None
        """The list as it was taken last."""
        self.links: tuple[Link, ...] = ()
        """Its links, oldest first."""
        self.keys = BusKeys(pinned, {})
        """The keys to believe, now. Each change is another object."""

    @classmethod
    def of(cls, credentials: Credentials) -> Trust:
        """What ``credentials`` alone give."""
        return cls(credentials.bus, credentials.bus_keys)

    def take(self, data: bytes) -> bool:
        """Follow a list; return whether a key or an end is new.

        Args:
            data: the bytes, as they came.

        Raises:
            Malformed: it is not a list of this bus, has no pinned key on its chain, or contradicts
                the last one. The keys stay as they were.
        """
        if data == self._data:
            return False
        links = open_keyring(data, self._bus)
        self._check_pinned(links)
        known = {link.number: link for link in self.links}
        if any(known.get(link.number, link) != link for link in links):
            raise Malformed("keyring: a fork: it contradicts the list of before")
        if self.links and links[-1].number < self.links[-1].number:
            return False  # an old list
        # The relays may have left out the oldest links, which the bot still knows.
        links = (*[link for link in self.links if link.number < links[0].number], *links)
        if len(links) > MAX_LINKS:
            raise Malformed(f"keyring: more than {MAX_LINKS} links since the bot was started")
        check_chain(links, self._bus)
        self._data, self.links = data, links
        before, self.keys = self.keys, follow(links, self._pinned)
        return (before, before.ends) != (self.keys, self.keys.ends)

    def _check_pinned(self, links: tuple[Link, ...]) -> None:
        chain = {key for link in (*self.links, *links) for key in (link.old, link.new)}
        if not self._pinned & chain:
            raise Malformed("keyring: none of its keys is one that the credentials name")
        if not self._pinned <= chain:
            raise Malformed("keyring: a key that the credentials name is not among its keys")


def follow(links: tuple[Link, ...], pinned: frozenset[bytes]) -> BusKeys:
    """The keys that a reader trusts who knows the ``pinned`` ones: these, and all that follow on
    the chain."""
    trusted = set(pinned)
    ends: dict[bytes, int] = {}
    for link in links:
        if link.old in trusted:
            trusted.add(link.new)
            ends[link.old] = link.end_ms
    return BusKeys(trusted, ends)
