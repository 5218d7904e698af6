"""A bus whose files belong to another user.

Each command that needs such a file and cannot have it says so, without a traceback. Root can have
it, and leaves it to its owner.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sealbus_broker.policy.replace import replace_file
from tests.cli.command import SEALBUS, quickly, sealbus
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("bot", "add", "shop"), "policy.yaml"),
        (("bot", "rm", "clock", "--yes"), "policy.yaml"),
        (("keys", "revoke", "greeter"), "keys/greeter.yaml"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_a_file_that_root_edits_keeps_its_owner_and_mode(
    bus: Path, command: tuple[str, ...], file: str
) -> None:
    path = bus / file
    path.chmod(0o640)
    os.chown(path, NOBODY, NOBODY)
    before = path.read_text()
    told = quickly(*command, cwd=bus)
    assert (told.code, path.read_text() == before) == (0, False), told.err
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (NOBODY, NOBODY, 0o640)


def test_a_file_of_another_user_in_a_shared_folder_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group may write in the folder, and cannot give the new file away."""
    path = tmp_path / "policy.yaml"
    path.write_text("before")
    path.chmod(0o640)

    def refused(*_: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refused)
    replace_file(path, "after")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", 0o640)
