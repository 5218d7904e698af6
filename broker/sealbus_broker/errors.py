"""The errors of a relay and its surroundings. Each has a sentence, and a hint.

::

    SealbusError
    └── RelayError
        ├── BusKeyEnded      the relay has no bus key that bots still believe
        ├── ClocksApart      the relay's clock and nats-server's differ too much
        ├── FolderUnseen     the bus's folder cannot be read for longer than the policy allows
        ├── DoorFailed       the process that admits bots cannot be started, or does not stay up
        ├── SecretsUnusable  .sealbus/relay.toml cannot be made or read
        ├── ServerFailed     nats-server cannot be started, or does not stay up
        ├── StreamsUnusable  a stream or consumer cannot be made, or is not as the bus needs it
        └── WorkerFailed     a relay of `up --workers` cannot be started, or does not stay up

:class:`StreamsAway` and :class:`TooFewNodes` are kinds of ``StreamsUnusable``, and
:class:`StandsAlone` is a kind of ``TooFewNodes``.

:class:`NotServed` stands apart: it ends one request on the bus's own subjects, and goes no further.

A bot's mistake is never raised. It is a verdict, or a
:class:`~sealbus_broker.door.deciding.Denial`.
"""

from __future__ import annotations

from sealbus.errors import SealbusError
from sealbus.protocol.answer import NOT_GRANTED, NOT_SERVED


class RelayError(SealbusError):
    """The relay cannot run, or cannot go on."""


class BusKeyEnded(RelayError):
    """The relay's bus key has ended, and the relay does not have the one that follows it."""


class ClocksApart(RelayError):
    """The relay's clock and nats-server's differ by more than the policy allows."""


class FolderUnseen(RelayError):
    """The bus's folder cannot be read for longer than ``policy_age`` allows."""


class DoorFailed(RelayError):
    """The process that admits bots cannot be started, or keeps ending."""


class WorkerFailed(RelayError):
    """A relay of ``sealbus up --workers`` cannot be started, or keeps ending."""


class SecretsUnusable(RelayError):
    """The bus's secrets cannot be made or read. Its text never has a seed."""


class ServerFailed(RelayError):
    """nats-server cannot be started, or keeps dying."""


class StreamsUnusable(RelayError):
    """JetStream is not as the bus needs it. It could lose, double or let through messages."""


class StreamsAway(StreamsUnusable):
    """JetStream has no leader now, or does not answer. Nothing is wrong with the streams: it may
    pass by itself, as an election does."""


class TooFewNodes(StreamsUnusable):
    """NATS has fewer nodes that run, or that have room, than a stream has replicas."""


class StandsAlone(TooFewNodes):
    """NATS is one server, and a stream is to have several replicas. No other node will come."""


class NotServed(Exception):
    """A request on the bus's own subjects cannot be served.

    The requester gets its text, and ``error``.
    """

    error = NOT_SERVED


class NotGranted(NotServed):
    """The policy does not grant the bot's request."""

    error = NOT_GRANTED
