"""The folder of a bus, for tests of the commands that change it."""

from __future__ import annotations

import os
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import wait_for
from tests.forked import ForkedPopen
from tests.waiting import PATIENCE_S


def facts(folder: Path) -> dict[str, object]:
    return tomllib.loads((folder / "bus.toml").read_text())


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def up(folder: Path, *arguments: str, module: str = "sealbus_broker") -> Iterator[Path]:
    """A running bus. Yields its log."""
    log = folder / "up.log"
    with log.open("wb") as output:
        command = (module, "up", *arguments)
        process = ForkedPopen(command, cwd=folder, stdout=output, stderr=output)
    try:
        wait_for(log, "is up at")
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder that nobody can write, not even root."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    mounted = subprocess.run(
        ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("root may write everywhere, and mounting is not allowed here")
    try:
        subprocess.run(
            ["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True, check=True
        )
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
