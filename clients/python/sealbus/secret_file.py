"""Files that hold a private key: who else may read them, and how they are written.

A key that others can read is as good as published, so a file with such a mode is refused, unless
the mode is not its owner's choice:

- **A read-only mount.** Containers get secrets that way, with modes like 0444 or 0777 that nobody
  inside can change; who can see the mount is decided outside.
- **A group's file.** Kubernetes mounts a secret as root's, mode 0440, with the pod's ``fsGroup`` as
  its group. Reading by the group alone is accepted where the file belongs to somebody else and to a
  group of this process: it is the only way in.

An owner's own file on an ordinary disk has to be 0600 or less.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sealbus.errors import SealbusError
from sealbus.file_hints import file_hint


@dataclass(frozen=True, slots=True)
class SecretFile:
    """One sort of secret file: its limit, its error, and the hints in the two cases that have a
    remedy."""

    most: int
    """Bytes; keeps a wrong path from reading a disk image."""
    unusable: type[SealbusError]
    """The error that is raised for each problem."""
    missing: str
    """The hint where there is no such file."""
    exposed: str
    """The hint, after ``chmod 600``, where others can read it."""

    def read(self, path: Path) -> bytes:
        """The file's content. Raises ``unusable`` if it cannot be read, is too large, or others can
        read it."""
        try:
            with path.open("rb") as file:
                # Of the open file, because another one may be put at the path meanwhile.
                status = os.fstat(file.fileno())
                read_only = bool(os.fstatvfs(file.fileno()).f_flag & os.ST_RDONLY)
                content = file.read(self.most + 1)
        except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
            why = getattr(error, "strerror", None) or "not a path"
            if isinstance(error, FileNotFoundError):
                hint: str | None = _link_hint(path) or self.missing
            else:
                hint = file_hint(error)
            raise self.unusable(f"{path} cannot be read: {why}", hint=hint) from None
        if not read_only and exposed(status, os.geteuid(), {os.getegid(), *os.getgroups()}):
            mode = stat.S_IMODE(status.st_mode)
            raise self.unusable(
                f"{path} can be read by others (mode {mode:04o})",
                hint=f"chmod 600 {path}, {self.exposed}",
            )
        if len(content) > self.most:
            raise self.unusable(
                f"{path} is larger than {self.most} bytes, so it is not the file that is meant",
                hint="is its path right?",
            )
        return content

    def write(self, path: Path, text: str) -> None:
        """Write a new file, 0600, in a folder that is 0700 if it is made here. Raises ``unusable``;
        never overwrites.

        A file that could be written in part only is removed again.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self.unusable(
                f"{path.parent} cannot be made: {error.strerror}", hint=file_hint(error)
            ) from None
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise self.unusable(
                f"{path} exists already", hint="a key is never overwritten: move the file away"
            ) from None
        except OSError as error:
            raise self._not_written(path, error) from None
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            path.unlink(missing_ok=True)
            raise self._not_written(path, error) from None

    def replace(self, path: Path, text: str) -> None:
        """Replace the content of a file as a whole, and keep its mode and owner. Raises
        ``unusable``.

        A reader sees the old file or the new one. A symbolic link stays one.
        """
        path = Path(os.path.realpath(path))
        name = None
        try:
            status = path.stat()
            # In the same folder, because only there replacing is one step. The mode is 0600.
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                # Before others may read it. An operator may do this for a bot of another user.
                if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
                # Before the old file goes: after a power failure one of the two is there.
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException as error:
            if name is not None:
                Path(name).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._not_written(path, error) from None
            raise

    def _not_written(self, path: Path, error: OSError) -> SealbusError:
        return self.unusable(f"{path} cannot be written: {error.strerror}", hint=file_hint(error))


def _link_hint(path: Path) -> str | None:
    """The hint where ``path`` is a symbolic link to a file that does not exist.

    The hint ``missing`` often says how to make a new file. Here a file exists elsewhere, and a new
    one would have another key.
    """
    try:
        target = path.readlink()
    except OSError:
        return None
    return (
        f"it is a link to {target}, which does not exist: start the systemd service that has its"
        " credentials there, or correct the link"
    )


def exposed(status: os.stat_result, user: int, groups: Collection[int]) -> bool:
    """Whether a file's mode lets somebody read or change it who has no business with it.

    ``user`` and ``groups`` are those of this process.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o040 and not mode & 0o037:  # the group may read, and that is all that others may
        return status.st_uid == user or status.st_gid not in groups
    return bool(mode & 0o077)
