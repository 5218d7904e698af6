"""Replaces a file of the folder as a whole. A reader never sees a part of it.

A writer that reads a file, and replaces it by a changed one, must not lose the change of another
writer in between. :func:`alone` lets one such writer of this machine work at a time. The lock is on
the folder itself, so no file is left behind. The system gives it up when its holder ends or is
killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sealbus_broker.policy.errors import InTheWay

MODE: Final = 0o644
"""Mode of a new file. Every file of the folder that is written here is public."""


ALONE_S: Final = 5.0
"""How long a writer waits for another one. An edit takes some tens of milliseconds."""

_LOOK_S: Final = 0.02

LOCK_IS_TAKEN: Final = (errno.EWOULDBLOCK, errno.EACCES)
"""The errors of ``flock()`` that say that somebody else holds the lock."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other writers of ``folder`` on this machine waiting while the body runs.

    Raises :class:`InTheWay` if another writer does not end within :data:`ALONE_S`, and ``OSError``
    if there is no such folder. On a disk that has no locks, such as some network disks, nobody
    waits.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end_s = time.monotonic() + ALONE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in LOCK_IS_TAKEN:
                    break
                if time.monotonic() >= end_s:
                    raise InTheWay(
                        f"{folder} is being edited by another command for {ALONE_S:g} s",
                        hint="wait for it, or end it; then say this again",
                    ) from None
                time.sleep(_LOOK_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str) -> None:
    """Write ``path``, and keep the mode of an existing file, and its owner as far as possible.

    Raises ``OSError``, and then leaves no new file behind.
    """
    # A symbolic link stays one, and its target is replaced.
    path = Path(os.path.realpath(path))
    before = path.stat() if path.exists() else None
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
            if before is not None:
                _keep_owner(file.fileno(), before)
            os.fchmod(file.fileno(), MODE if before is None else stat.S_IMODE(before.st_mode))
            # Before the old file goes: after a power failure one of the two is there.
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _keep_owner(descriptor: int, before: os.stat_result) -> None:
    """Give a new file the group and the owner of the file that it replaces.

    Root may edit the folder of a relay's user. Other users can give no file away, and may share the
    folder all the same. Then the file is theirs.
    """
    for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner, group)
