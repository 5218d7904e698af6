"""``sealbus up`` that is killed in the middle of a growth, as by ``kill -9``.

::

    python -m tests.server.killed_growth PHASE up --nodes 3 ...

It dies at the end of the phase, which is a key of :data:`PHASES`.
"""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from sealbus_broker.__main__ import main
from sealbus_broker.server import cluster

PHASES: Final[dict[str, tuple[object, str]]] = {
    "growing": (cluster, "_set_mark"),
    "copying": (shutil, "copy2"),
    "adopted": (cluster, "_adopt"),
    "grown": (Path, "rename"),
}
"""The step after which each phase ends: the object that has it, and its name."""


def _fatal(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, and then the death of this process."""

    def last(*arguments: Any) -> Any:
        done = step(*arguments)
        return _await_and_die(done) if inspect.isawaitable(done) else _die()

    return last


async def _await_and_die(step: Awaitable[None]) -> None:
    await step
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    owner, name = PHASES[sys.argv.pop(1)]
    with patch.object(owner, name, _fatal(getattr(owner, name))):
        sys.exit(main())
