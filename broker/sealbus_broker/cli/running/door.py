"""The process that admits bots. A relay starts it (:mod:`sealbus_broker.door.process`).

It ignores SIGTERM, SIGINT and SIGHUP, and ends with its relay.
"""

from __future__ import annotations

import gc
import sys

gc.disable()  # nothing that an import makes is garbage: see sealbus_broker.__main__

import asyncio
import signal
from typing import Final

from sealbus.errors import SealbusError
from sealbus_broker.cli.running.logs import logging_to_stderr
from sealbus_broker.door.keeper import keep
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

_FOR_THE_RELAY: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that stop the relay in order. systemd sends one to each process of a service. The relay
closes standard input when the door is to end, and a door that ended before would owe answers."""


def main() -> int:
    """Admit bots until standard input is closed, and return the exit code.

    The arguments are the process id of the relay, and the descriptor for its signs of life.
    """
    gc.freeze()
    gc.enable()
    for one in _FOR_THE_RELAY:
        signal.signal(one, signal.SIG_IGN)
    relay, signs = map(int, sys.argv[1:])
    with logging_to_stderr():
        try:
            _run(relay, signs)
        except SealbusError as error:
            _tell_failed(error)
            return 1
    return 0


def _tell_failed(error: SealbusError) -> None:
    """Log the sentence and its hint, which are for an operator, and no traceback."""
    log.error("admission.failed", error=error.what, hint=error.hint)


def _run(relay: int, signs: int) -> None:
    try:
        import uvloop
    except ImportError:  # not made for this platform or interpreter
        asyncio.run(keep(relay, signs))
    else:
        uvloop.run(keep(relay, signs))


if __name__ == "__main__":
    sys.exit(main())
