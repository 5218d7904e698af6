"""Files that a command reads and writes for its user, and the errors where it cannot."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sealbus.file_hints import file_hint
from sealbus_broker.cli.shared.errors import OutputFailed, Unusable

_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextlib.contextmanager
def writing(what: Path | str) -> Iterator[None]:
    """Turn an ``OSError`` of a write into one sentence about ``what``, with a hint."""
    with _failing(what, "written"):
        yield


@contextlib.contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Turn an ``OSError`` of a read into one sentence about ``what``, with a hint."""
    with _failing(what, "read"):
        yield


@contextlib.contextmanager
def _failing(what: Path | str, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else what
        raise Unusable(
            f"{name} cannot be {done}: {error.strerror or type(error).__name__}",
            hint=file_hint(error),
        ) from None


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
        hint = "name a file in a folder where you may write" if denied else file_hint(error)
        raise OutputFailed(f"{path} cannot be written: {_why(error)}", hint=hint) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise OutputFailed(
            f"{path} cannot be written: {_why(error)}", hint=file_hint(error)
        ) from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not a path"
