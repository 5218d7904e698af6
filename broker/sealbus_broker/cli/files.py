"""Files that a command writes for its user."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from sealbus_broker.cli.errors import OutputFailed

_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def write_new(path: Path, data: bytes) -> None:
    """Write ``data`` to a new file that only its owner may read.

    It never overwrites a file, and never leaves a part of one. Raises :class:`OutputFailed` with a
    hint that fits the error.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OutputFailed(
            f"{path} exists already", hint="no file is overwritten: choose another name"
        ) from None
    except FileNotFoundError:
        raise OutputFailed(
            f"{path} cannot be written: its folder does not exist",
            hint="make the folder first, or name a file in one that exists",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
        denied = getattr(error, "errno", None) in _DENIED
        hint = "name a file in a folder where you may write" if denied else None
        raise OutputFailed(f"{path} cannot be written: {_why(error)}", hint=hint) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise OutputFailed(f"{path} cannot be written: {_why(error)}") from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not a path"
