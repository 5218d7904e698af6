"""What to do about a file or folder that cannot be read or written."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

_OTHERS: Final = "it may belong to another user: work as that user, or change its owner"
_FULL: Final = "free space on that disk"

_HINTS: Final[Mapping[int, str]] = {
    errno.EACCES: _OTHERS,
    errno.EPERM: _OTHERS,
    errno.EROFS: "that disk is mounted read-only: make it writable, or use another",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the limit on the size of files is too low here (ulimit -f)",
    errno.ENOENT: "is its path right?",
    errno.EEXIST: "something else is at its place: move it away",
    errno.EISDIR: "a folder is at the place of the file: move it away, or name a file",
    errno.ENOTDIR: "a file is at the place of a folder: move it away",
    errno.ELOOP: "a symbolic link leads to itself: remove it",
}


def file_hint(error: BaseException) -> str | None:
    """Return the step that helps against ``error``, an :class:`OSError` of a file."""
    number = getattr(error, "errno", None)
    return None if number is None else _HINTS.get(number)
