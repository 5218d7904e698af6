"""A stop of the server while it is restarted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server import process as module
from sealbus_broker.server.process import NatsServer
from tests.scene import a_config
from tests.waiting import patiently


async def test_stop_during_a_restart_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the port, and the streams' folder."""
    monkeypatch.setattr(module, "RESTART_S", 0.0)
    server = NatsServer(a_config(tmp_path, BusSecrets.generate()), tmp_path / "state")
    await server.start()
    spawn = server._spawn

    async def stop_meanwhile(binary: Path) -> None:
        await server.stop()
        await spawn(binary)

    monkeypatch.setattr(server, "_spawn", stop_meanwhile)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await patiently(server.supervise())
    left = server.pid
    if left is not None:
        os.kill(left, signal.SIGKILL)
    assert left is None
