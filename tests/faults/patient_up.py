"""``sealbus up`` whose nats-server waits longer for the answer to a login, on a busy machine.

::

    python -m tests.faults.patient_up up ...
"""

from __future__ import annotations

import sys
from typing import Final
from unittest.mock import patch

from sealbus_broker.__main__ import main

LOGIN_S: Final = 10
"""How long nats-server waits. When it reloads, it asks about each session again, and it ends those
without an answer.

The reload waits as well, and nothing else passes meanwhile. So a question that was lost with the
connection of the door must not be waited for too long.
"""

if __name__ == "__main__":
    with patch("sealbus_broker.nats.config.AUTHORIZATION_TIMEOUT_S", LOGIN_S):
        sys.exit(main())
