"""``sealbus up``, and another one lets the bus grow after this one has counted the servers.

::

    python -m tests.server.late_up up ...
"""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

from sealbus_broker.__main__ import main
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.server.cluster import KEPT

open_secrets = BusFolder.open_secrets


def _grow_before(bus: BusFolder, **options: Any) -> Any:
    (bus.state / "jetstream").rename(bus.state / KEPT)
    for number in (1, 2, 3):
        (bus.state / f"nodes/node-{number}/jetstream").mkdir(parents=True)
    return open_secrets(bus, **options)


if __name__ == "__main__":
    with patch.object(BusFolder, "open_secrets", _grow_before):
        sys.exit(main())
