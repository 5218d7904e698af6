"""A command that speaks as a relay tells a person that it waits for NATS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealbus.errors import ConnectionFailed
from sealbus_broker.cli.shared import signals
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.watching import reload
from sealbus_broker.relay.secrets import BusSecrets
from tests.cli.command import quickly
from tests.ports import free_port


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short, and are told at once."""
    monkeypatch.setattr(signals, "NOTICE_S", 0.0)
    monkeypatch.setattr(reload, "CONNECT_S", 0.5)


@pytest.mark.usefixtures("impatient")
def test_wait_is_told_before_it_fails(bus: Path) -> None:
    server = f"nats://127.0.0.1:{free_port()}"
    lines = quickly("reload", "--server", server, cwd=bus).err.splitlines()
    assert lines[:2] == [
        f"waiting for the bus at {server}, for 0.5 s",
        f"error: nobody listens at {server}",
    ]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("how", "told"), [({}, True), ({"has_log": True}, False), ({"is_check": True}, False)], ids=str
)
async def test_log_and_check_have_no_such_line(
    how: dict[str, Any], told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    server = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionFailed):
        async with as_relay([server], BusSecrets.generate(), "a test", 0.3, **how):
            raise AssertionError("somebody listened")
    assert ("waiting for the bus at" in capsys.readouterr().err) is told
