"""A relay of the harness: in a namespace, with a mistake, and with a clock that can be set.

It runs as ``python -m tests.faults.histories.relaying NAMESPACE PLANT relay --dir …``, where ``-``
stands for no namespace and no mistake. All else is the product's own code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealbus_broker.relay import relay as relay_module
from sealbus_broker.relay.store.clocks import clock_ms
from tests.faults.histories.cables import enter
from tests.faults.histories.plants import plant


def clock_file(bus: Path, relay: str) -> Path:
    """The file that says how far a relay's clock is off, in ms."""
    return bus / f"clock of {relay}"


def _set_clock(file: Path) -> None:
    def clock() -> int:
        try:
            return clock_ms() + int(file.read_text())
        except FileNotFoundError:
            return clock_ms()

    relay_module.clock_ms = clock  # type: ignore[attr-defined]  # intended


def main() -> int:
    """Run a relay. Its name and folder are among its own arguments."""
    _, namespace, mistake, *arguments = sys.argv
    sys.argv = ["sealbus", *arguments]
    enter("" if namespace == "-" else namespace)
    plant(mistake, in_relay=True)
    folder = Path(arguments[arguments.index("--dir") + 1])
    _set_clock(clock_file(folder, arguments[arguments.index("--name") + 1]))
    from sealbus_broker.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
