"""Which relays are there, and which partitions each of them should have. Pure: no clock, no NATS.

Each relay says a few times a second that it is there (:mod:`sealbus_broker.nats.presence`). Nobody
elects anybody. Each relay hears the others, and computes the same assignment from them
(:func:`assign`). The assignment is a *preference*. The server's pin is the safety: it gives a
partition to one relay at a time, whatever relays believe.

**Time is counted in echoes.** A relay hears its own words too, because NATS gives them back. A peer
is *silent* when :data:`SILENT_ECHOES` own echoes have come since its last word. So a peer seems
silent only to a relay that NATS serves. While a server is paused, or this relay's own connection or
process stands still, no echo comes, and nobody is taken for dead.

A peer goes through these states:

======== ========================================================== ===============================
state    meaning                                                    left for
======== ========================================================== ===============================
there    its words come                                             stopping, silent, gone
stopping it has said that it stops. It owns nothing, and may still  silent, gone
         hold partitions, which it gives back in order
silent   no word came for :data:`SILENT_ECHOES` echoes              there, by its next word
gone     its server has said that its connection has ended          there, by its next word
======== ========================================================== ===============================

The partitions of a silent or gone peer are taken over
(:mod:`sealbus_broker.relay.partitions.sharing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from sealbus_broker.nats.presence import PresenceWord

SILENT_ECHOES: Final = 8
"""After how many echoes without a word a peer is silent. At
:data:`~sealbus_broker.nats.presence.BEAT_S` that is two seconds, the time after which the server
lets go of a pin too (:data:`~sealbus_broker.nats.streams.PIN_TIMEOUT_S`). The longest pause of a
healthy relay is the most expensive batch, which takes a fraction of a second."""


@dataclass(slots=True)
class _Peer:
    presence: PresenceWord
    echoes: int = 0
    """How many own echoes have come since its last word."""


@dataclass(slots=True)
class Peers:
    """The other processes of one kind that are there, as one process hears them."""

    _peers: dict[str, _Peer] = field(default_factory=dict)
    """By id: those that are *there* or *stopping*."""

    @property
    def there(self) -> list[PresenceWord]:
        """The last word of each."""
        return [one.presence for one in self._peers.values()]

    def hear(self, presence: PresenceWord) -> bool:
        """Take a word; return whether it changes anything but the time."""
        known = self._peers.get(presence.id)
        self._peers[presence.id] = _Peer(presence)
        before = None if known is None else _facts(known.presence)
        return before != _facts(presence)

    def echo(self) -> list[PresenceWord]:
        """Count an own echo; return those that are silent by it. They are forgotten."""
        for one in self._peers.values():
            one.echoes += 1
        silent = [one.presence for one in self._peers.values() if one.echoes >= SILENT_ECHOES]
        for presence in silent:
            del self._peers[presence.id]
        return silent

    def ended(self, server: str, connection: int) -> list[PresenceWord]:
        """Return those whose connection has ended, as their server says. They are forgotten."""
        gone = [
            one.presence
            for one in self._peers.values()
            if (one.presence.server, one.presence.connection) == (server, connection)
        ]
        for presence in gone:
            del self._peers[presence.id]
        return gone

    def held(self, number: int) -> frozenset[int]:
        """Return the partitions of ``number`` that some peer holds."""
        there = (one for one in self.there if one.number == number)
        return frozenset(at for one in there for at in one.holds)

    def sharing(self) -> list[str]:
        """Return the ids of the peers that take partitions."""
        return [one.id for one in self.there if not one.stopping]

    def weights(self, own: tuple[int, ...], own_id: str) -> tuple[int, ...]:
        """Return the weights that count for all: those of the sharing relay with the lowest id.

        Relays may have different policies for a while. If each took its own weights, a partition
        could be nobody's, because each thinks that it is another's.

        Args:
            own: The weights of this relay.
            own_id: Its id.
        """
        said = {one.id: one.weights for one in self.there if not one.stopping} | {own_id: own}
        counts = said[min(said)]
        # The relay may not know yet that the number of partitions has changed.
        return counts if len(counts) == len(own) else own

    def enrolling(self) -> list[str]:
        """Return the ids of the peers that can enrol invited bots."""
        return [one.id for one in self.there if one.enrols and not one.stopping]


def _facts(presence: PresenceWord) -> tuple[object, ...]:
    return (
        presence.number,
        presence.holds,
        presence.stopping,
        presence.enrols,
        presence.connection,
        presence.weights,
    )


def assign(relays: Collection[str], weights: Sequence[int]) -> list[str]:
    """Return the id of the relay that should have each partition.

    The heaviest partition is given first. Each goes to a relay whose share has room for it, or
    else to one that has least. Among these the highest hash of relay and partition decides, so that
    few partitions move when a relay comes or goes.

    Args:
        relays: Their ids, at least one.
        weights: How much work each partition is thought to bring.
    """
    share = sum(weights) / len(relays)
    loads = dict.fromkeys(sorted(relays), 0)
    owners = [""] * len(weights)
    for partition in sorted(range(len(weights)), key=lambda at: (-weights[at], at)):
        weight = weights[partition]
        fitting = [relay for relay, load in loads.items() if load + weight <= share]
        least = min(loads.values())
        fitting = fitting or [relay for relay, load in loads.items() if load == least]
        owners[partition] = max(fitting, key=lambda relay: _hash(relay, partition))
        loads[owners[partition]] += weight
    return owners


def _hash(relay: str, partition: int) -> bytes:
    return hashlib.blake2b(f"{relay} {partition}".encode(), digest_size=8).digest()
