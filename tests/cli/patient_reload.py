"""``sealbus reload`` that leaves out no relay which a busy machine gives no turn.

::

    python -m tests.cli.patient_reload reload ...
"""

from __future__ import annotations

import sys
from typing import Final
from unittest.mock import patch

from sealbus_broker.__main__ import main

REST_S: Final = 2.0
"""The longest silence before the next answer. Each first question takes so much longer."""

if __name__ == "__main__":
    with patch("sealbus_broker.cli.watching.reload.REST_S", REST_S):
        sys.exit(main())
