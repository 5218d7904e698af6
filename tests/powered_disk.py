"""A disk whose power a test can cut.

A file system (ext4) in a file forgets what nobody has synced, and nothing else: its journal ends
where it is, as at a loss of power (``EXT4_IOC_SHUTDOWN`` of Linux). A disk that loses writes which
it has confirmed is not tried.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import until

_SHUTDOWN: Final = 0x8004587D
"""``EXT4_IOC_SHUTDOWN`` (``fs/ext4/ext4.h``)."""

_WITHOUT_A_FLUSH: Final = struct.pack("I", 2)
"""Its flag ``EXT4_GOING_FLAGS_NOLOGFLUSH``: the journal is not written out either."""


@dataclass(frozen=True)
class PoweredDisk:
    """A disk at ``place``, with its bytes in ``image``."""

    place: Path
    image: Path

    def cut_power(self) -> None:
        """Forget all writes that are not synced. Each further use of the file system fails."""
        place = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(place, _SHUTDOWN, _WITHOUT_A_FLUSH)
        finally:
            os.close(place)

    def restore_power(self) -> None:
        """Mount it again. No process may have a file of it open."""
        subprocess.run(["umount", self.place], check=True)
        # A process in another mount namespace keeps the file system, and Linux would mount that one
        # again. So it is a copy that goes on.
        copy = self.image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        copy.replace(self.image)
        subprocess.run(["mount", "-o", "loop", self.image, self.place], check=True)


@contextmanager
def powered(place: Path) -> Iterator[PoweredDisk]:
    """A disk of 256 MiB at ``place``.

    Skips the test if mounting it is not allowed.
    """
    place.mkdir()
    image = place.with_suffix(".image")
    steps = (
        ["truncate", "-s", "256M", str(image)],
        ["mkfs.ext4", "-q", str(image)],
        ["mount", "-o", "loop", str(image), str(place)],
    )
    try:
        for step in steps:
            subprocess.run(step, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk whose power is cut takes Linux, mkfs.ext4, and the right to mount")
    try:
        yield PoweredDisk(place, image)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


async def lose_power(disks: Sequence[PoweredDisk], pids: Sequence[int]) -> None:
    """The machines with these disks and processes lose power at once.

    The processes stop first, and never go on. Otherwise they would see errors of their disks, and
    tell them.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await until(lambda: all(map(_stands_still, pids)), "all processes stand still")
    for disk in disks:
        disk.cut_power()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _stands_still(pid: int) -> bool:
    """Whether no thread of a process runs any more."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    try:
        # The state is the first field behind the name, which is in brackets.
        states = {thread.read_text().rpartition(")")[2].split()[0] for thread in threads}
    except OSError:
        return False  # a thread has ended meanwhile
    return states == {"T"}
