"""A bus whose `.sealbus` belongs to another user.

Each command that needs it says so, without a traceback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import SEALBUS, sealbus
from tests.ports import free_port
from tests.waiting import PATIENCE_S

NOBODY = 65534
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
"""Root without the right to read other users' files, like every user."""


@pytest.mark.parametrize("command", ["up", "relay", "prepare", "ping"])
@pytest.mark.parametrize("private", [".sealbus", ".sealbus/relay.toml"])
def test_each_command_names_the_file(tmp_path: Path, command: str, private: str) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can give a file away, and setpriv is needed")
    assert sealbus("init", "mybus", cwd=tmp_path).code == 0
    os.chown(tmp_path / "mybus" / private, NOBODY, NOBODY)
    port = ["--port", str(free_port())] if command == "up" else []
    done = subprocess.run(
        [*BOUND, *SEALBUS, command, "--dir", "mybus", *port],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr
    assert "Permission denied" in done.stderr
    assert ".sealbus" in done.stderr


def test_up_names_a_server_s_file_that_is_another_user_s(tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can give a file away, and setpriv is needed")
    assert sealbus("init", "mybus", cwd=tmp_path).code == 0
    lock = tmp_path / "mybus/.sealbus/nats.lock"
    lock.touch(mode=0o600)
    os.chown(lock, NOBODY, NOBODY)
    done = subprocess.run(
        [*BOUND, *SEALBUS, "up", "--dir", "mybus", "--port", str(free_port())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nats.lock cannot be written: Permission denied" in done.stderr
    assert "belongs to somebody else" in done.stderr
