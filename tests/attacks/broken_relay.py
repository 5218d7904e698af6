"""A relay without one of its checks, whose attacks must get through.

It runs as ``python -m tests.attacks.broken_relay check_seal relay --dir …``.
"""

from __future__ import annotations

import sys

from sealbus_broker.cli.main import main
from sealbus_broker.gate import judge as gate

if __name__ == "__main__":
    missing = sys.argv.pop(1)
    kept = tuple(check for check in gate.CHECKS if check.__name__ != missing)
    assert len(kept) == len(gate.CHECKS) - 1, missing
    gate.CHECKS = kept  # type: ignore[misc]  # intended
    sys.exit(main())
