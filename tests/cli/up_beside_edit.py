"""``sealbus up``, with another command that changes bus.toml while nats-server starts.

::

    python -m tests.cli.up_beside_edit up ...
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from sealbus_broker.__main__ import main
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.policy.bus_file import write_bus_file
from sealbus_broker.server.process import NatsServer

MADE_MS = 1000
"""What the other command writes as the time when the bus was made."""

_start = NatsServer.start


async def start(server: NatsServer) -> None:
    """Start nats-server behind the change of the other command."""
    known = BusFolder(Path.cwd()).bus_file()
    assert known is not None
    write_bus_file(Path.cwd(), replace(known, made_ms=MADE_MS))
    await _start(server)


if __name__ == "__main__":
    with patch.object(NatsServer, "start", start):
        sys.exit(main())
