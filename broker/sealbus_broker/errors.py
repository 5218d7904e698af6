"""What the relay's surroundings raise: each a sentence, and a hint.

::

    SealbusError
    └── RelayError
        ├── ClocksApart          the relay's clock and nats-server's differ by more than the policy allows
        ├── DoorFailed           the process that admits bots cannot be started, or does not stay up
        ├── SecretsUnusable      .sealbus/relay.toml cannot be made or read
        ├── ServerFailed         nats-server cannot be started, or does not stay up
        └── StreamsUnusable      a stream or consumer cannot be made, or is not as the bus needs it

:class:`NotServed` stands apart: it ends one request on a subject of the bus's own, and goes no further.

What a bot does wrong is never raised: it is a verdict or a :class:`~sealbus_broker.door.admission.Denial`.
"""

from __future__ import annotations

from sealbus.errors import SealbusError
from sealbus.protocol.answer import NOT_GRANTED, NOT_SERVED


class RelayError(SealbusError):
    """The relay cannot run, or cannot go on, in these surroundings."""


class ClocksApart(RelayError):
    """The relay's clock and nats-server's differ by more than the policy allows: no verdict can be dated."""


class DoorFailed(RelayError):
    """The process that admits bots cannot be started, or keeps ending."""


class SecretsUnusable(RelayError):
    """The bus's secrets cannot be made or read. Never carries a seed."""


class ServerFailed(RelayError):
    """nats-server cannot be started, or keeps dying."""


class StreamsUnusable(RelayError):
    """JetStream is not as the bus needs it: going on could lose, double or let through messages."""


class NotServed(Exception):
    """A request to one of the bus's own subjects that cannot be served. Its text goes to the requester, as does ``error``."""

    error = NOT_SERVED


class NotGranted(NotServed):
    """The policy does not let the bot have what it asks for."""

    error = NOT_GRANTED
