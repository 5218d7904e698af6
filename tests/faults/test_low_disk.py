"""The disk of `sealbus up` is nearly full, and the streams are not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sealbus_broker.cli.running.serve import DISK_AT, disk_problems
from sealbus_broker.gate.policy import Limits
from sealbus_broker.nats.streams import file_bytes
from sealbus_broker.relay.problems import Level
from sealbus_broker.server.process import NatsServer
from tests.cli.bus import clean_environment
from tests.cli.command import Ran, sealbus, wait_for
from tests.cli.pinging import is_ok, pinged
from tests.forked import ForkedPopen
from tests.ports import free_port
from tests.small_disk import mounted
from tests.waiting import PATIENCE_S

WARNED = int(DISK_AT * file_bytes(Limits()))


def a_server(free_bytes: int) -> NatsServer:
    said = {"free_bytes": free_bytes, "store": Path("/bus/jetstream"), "copies": 1}
    return cast("NatsServer", SimpleNamespace(**said))


def test_a_disk_with_just_enough_room_is_no_problem() -> None:
    assert disk_problems(a_server(WARNED), Limits()) == ()


def test_a_disk_with_less_room_is_a_warning() -> None:
    (problem,) = disk_problems(a_server(WARNED - 1), Limits())
    assert (problem.level, problem.about) == (Level.WARNING, "disk")
    assert "the disk of /bus/jetstream has room for" in problem.what
    assert "accepted_bytes" in problem.hint


def test_smaller_streams_need_less_room() -> None:
    small = Limits(accepted_bytes=1024**2, ingress_bytes=1024**2, quarantine_bytes=1024**2)
    assert disk_problems(a_server(WARNED - 1), small) == ()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "96m") as place:
        yield place


def test_up_and_ping_warn_of_it_until_there_is_room(tmp_path: Path, disk: Path) -> None:
    port, log = free_port(), tmp_path / "up.log"
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    (tmp_path / "mybus/.sealbus/jetstream").symlink_to(disk)

    def ping() -> Ran:
        return sealbus("ping", "--dir", "mybus", "--json", cwd=tmp_path)

    def is_warned(ran: Ran) -> bool:
        found = json.loads(ran.out)
        return (ran.code, found["health"], len(found["problems"])) == (0, "warning", 1)

    with log.open("wb") as output:
        process = ForkedPopen(
            ("sealbus_broker", "up", "--dir", "mybus"),
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            env=clean_environment(),
        )
    try:
        wait_for(log, "health.warning")
        (problem,) = json.loads(pinged(ping, is_warned).out)["problems"]
        assert problem["about"] == "disk"
        assert str(disk) in problem["what"]
        # A file system in memory grows without taking memory.
        subprocess.run(["mount", "-o", "remount,size=8g", disk], check=True)
        wait_for(log, "health.recovered")
        pinged(ping, is_ok)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
