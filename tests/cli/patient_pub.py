"""``sealbus pub`` that waits for all verdicts after a signal, however busy the machine is.

::

    python -m tests.cli.patient_pub pub ...
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from sealbus_broker.__main__ import main
from tests.waiting import PATIENCE_S

if __name__ == "__main__":
    with patch("sealbus_broker.cli.messages.bulk.STOP_S", PATIENCE_S):
        sys.exit(main())
