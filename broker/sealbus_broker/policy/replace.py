"""Replaces a file of the folder as a whole. A reader never sees a part of it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

MODE: Final = 0o644
"""Mode of a new file. Every file of the folder that is written here is public."""


def replace_file(path: Path, text: str) -> None:
    """Write ``path``, and keep the mode of an existing file.

    Raises ``OSError``, and then leaves no new file behind.
    """
    # A symbolic link stays one, and its target is replaced.
    path = Path(os.path.realpath(path))
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else MODE
    # In the same folder, because only there replacing is one step. The name is hidden, so no reader
    # takes it for a file of the bus.
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        error.filename = str(path)  # which the caller knows
        raise
    try:
        # Line ends stay as they are in ``text``.
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            # Before the old file goes: after a power failure one of the two is there.
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
