"""Writing a file of the folder whole or not at all: a reader never sees half of it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

MODE: Final = 0o644
"""Of a new file: everything in the folder that is written so is public."""


def replace_file(path: Path, text: str) -> None:
    """Write ``path``, keeping its mode if it is there. Raises ``OSError``, and leaves nothing
    behind then."""
    path = path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else MODE
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
