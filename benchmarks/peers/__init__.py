"""The peers, by name. Each is imported only where it runs: their libraries are heavy, and not installed for the project's own tests."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.bus import Bus
    from benchmarks.peer import Peer

CLASSES: Final = {
    "sealbus": "benchmarks.peers.sealbus:Sealbus",
    "https": "benchmarks.peers.https:Https",
    "uagents": "benchmarks.peers.uagents:UAgents",
    "nostr": "benchmarks.peers.nostr:Nostr",
    "faststream": "benchmarks.peers.faststream:FastStream",
    "jetstream": "benchmarks.peers.nats:JetStream",
    "nats": "benchmarks.peers.nats:Core",
}
"""In the order of the tables."""

ON_BUS: Final = frozenset({"sealbus", "faststream", "jetstream", "nats"})
"""Those that stand on the nats-server of the round's bus, and are made with it."""


def load(name: str) -> Any:
    """The class of the peer ``name``."""
    module, _, attribute = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make(name: str, bus: Bus) -> Peer:
    """The peer ``name``, for one start."""
    peer: Peer = load(name)(bus) if name in ON_BUS else load(name)()
    return peer
