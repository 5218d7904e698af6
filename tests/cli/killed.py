"""``sealbus`` that is killed before one of its changes of files below the current folder.

::

    python -m tests.cli.killed NUMBER keys rotate ...

``NUMBER``: how many changes it makes before. A command with fewer changes ends as usual.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from sealbus_broker.__main__ import main

_CHANGES: Final = ("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir")

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def kill_after(changes: int) -> None:
    """Kill this process before it changes a file once more."""
    here = Path.cwd()
    left = changes

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        is_change = event in _CHANGES or (event == "open" and arguments[2] & _WRITES)
        # Whoever opens a descriptor has opened its file before.
        if not is_change or isinstance(arguments[0], int):
            return
        if here not in Path(os.fsdecode(arguments[0])).resolve().parents:
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(hook)


if __name__ == "__main__":
    kill_after(int(sys.argv.pop(1)))
    sys.exit(main())
