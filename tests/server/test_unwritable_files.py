"""A file beside the work of `sealbus up` cannot be written: the log says so, and the bus goes on.

A folder stands in place of the file, which not even root can write.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sealbus_broker.errors import ServerFailed
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server import process as server_module
from sealbus_broker.server.folder import ServerFolder
from sealbus_broker.server.process import NatsServer, find_binary
from tests.scene import a_config
from tests.waiting import patiently, until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    made = NatsServer(a_config(tmp_path, BusSecrets.generate()), tmp_path / "state")
    yield made
    await made.stop()


@pytest.mark.parametrize("name", ["nats.pid", "nats.log"])
async def test_the_server_starts_restarts_and_stops(
    server: NatsServer, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "state" / name
    file.mkdir(parents=True)
    with capture_logs() as logs:
        await server.start()
        supervising = asyncio.create_task(server.supervise())
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: server.pid not in (None, first), "another process")
        await until(lambda: server._serves, "it serves")
        await server.stop()
        await patiently(supervising)
    told = [entry for entry in logs if entry["event"] == "file.not-written"]
    assert len(told) >= 2  # one for each start
    assert {entry["file"] for entry in told} == {str(file)}
    assert {entry["log_level"] for entry in told} == {"warning"}
    # The lock is free again.
    file.rmdir()
    again = NatsServer(server._config, server.folder)
    await again.start()
    await again.stop()


async def test_a_file_that_becomes_unwritable_does_not_end_a_restart(
    server: NatsServer, tmp_path: Path
) -> None:
    await server.start()
    supervising = asyncio.create_task(server.supervise())
    first = server.pid
    assert first is not None
    for name in ("nats.pid", "nats.log"):
        (tmp_path / "state" / name).unlink()
        (tmp_path / "state" / name).mkdir()
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid not in (None, first) or supervising.done(), "it is restarted")
    await until(lambda: server._serves or supervising.done(), "it serves")
    assert not supervising.done()
    await server.stop()
    await patiently(supervising)


async def test_a_restart_that_the_system_refuses_is_tried_again(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is being replaced, or there is no memory at that moment."""
    await server.start()
    refusals = iter(["no nats-server"])

    def find() -> Path:
        for refusal in refusals:
            raise ServerFailed(refusal)
        return find_binary()

    monkeypatch.setattr(server_module, "find_binary", find)
    supervising = asyncio.create_task(server.supervise())
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid not in (None, first) or supervising.done(), "it is restarted")
    assert not supervising.done()
    await server.stop()
    await patiently(supervising)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_disk_without_locks_is_no_server_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ServerFailed) as told:
        ServerFolder(tmp_path).take()
    assert told.value.what == f"{tmp_path}/nats.lock cannot be locked: {os.strerror(number)}"
    assert "a disk with locks" in str(told.value.hint)
