"""The peers, by name.

Each is imported only where it runs. Their libraries are large, and the project's own tests do not
have them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.bus import Bus
    from benchmarks.peer import Peer

CLASSES: Final = {
    "sealbus": "benchmarks.peers.sealbus:Sealbus",
    "sealbus-tls": "benchmarks.peers.sealbus:SealbusTls",
    "https": "benchmarks.peers.https:Https",
    "uagents": "benchmarks.peers.uagents:UAgents",
    "nostr": "benchmarks.peers.nostr:Nostr",
    "faststream": "benchmarks.peers.faststream:FastStream",
    "jetstream": "benchmarks.peers.nats:JetStream",
    "nats": "benchmarks.peers.nats:Core",
    "sealbus-alone": "benchmarks.peers.sealbus:SealbusAlone",
    "https-64": "benchmarks.peers.https:HttpsTogether",
    "jetstream-64": "benchmarks.peers.nats:JetStreamTogether",
}
"""In the order of the tables."""

ON_BUS: Final = frozenset(
    {"sealbus", "faststream", "jetstream", "nats", "sealbus-alone", "jetstream-64"}
)
"""The peers on the nats-server of the round's bus. They are made with the bus."""


def load(name: str) -> Any:
    """The class of the peer ``name``."""
    module, _, attribute = CLASSES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make(name: str, bus: Bus) -> Peer:
    """The peer ``name``, for one start."""
    peer: Peer = load(name)(bus) if name in ON_BUS else load(name)()
    return peer
