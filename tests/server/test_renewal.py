"""Renewed certificates of an embedded server are loaded, and unusable ones are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealbus.supervision import end, spawn
from sealbus_broker.certificates import make_authority, make_bus
from sealbus_broker.nats.config import ServerTls
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server import renewal
from sealbus_broker.server.process import NatsServer
from tests.scene import a_config
from tests.waiting import patiently, until

AUTHORITY = make_authority("shop", datetime.now(UTC))


def renew(tls: ServerTls) -> None:
    pair = make_bus(AUTHORITY, "shop", ["127.0.0.1"], datetime.now(UTC))
    tls.ca.write_bytes(AUTHORITY.certificate)
    tls.key.write_bytes(pair.key)
    tls.key.chmod(0o600)
    tls.cert.write_bytes(pair.certificate)


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    made = ServerTls(tmp_path / "ca.pem", tmp_path / "bus.pem", tmp_path / "bus.key")
    renew(made)
    return made


@asynccontextmanager
async def following(
    tls: ServerTls,
    monkeypatch: pytest.MonkeyPatch,
    answers: Sequence[bool] = (True,),
    serves: Sequence[bool] = (True,),
) -> AsyncIterator[list[bytes]]:
    """Yield the keys that the server was told to read.

    ``answers``: whether a relay does. ``serves``: whether the server can be told.
    """
    monkeypatch.setattr(renewal, "LOOK_S", 0.01)
    told: list[bytes] = []

    def reload() -> bool:
        if serves[0]:
            told.append(tls.key.read_bytes())
        return serves[0]

    stopping = asyncio.Event()
    loaded = renewal.signature(tls)
    work = renewal.follow(tls, reload, stopping, loaded=loaded, may_reload=lambda: answers[0])
    task = spawn(work, "following")
    await asyncio.sleep(0)
    yield told
    stopping.set()
    await task


async def _told_times(told: list[bytes], count: int) -> None:
    await until(lambda: len(told) >= count, "the server was told")


async def test_each_renewal_is_loaded_once(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(tls, monkeypatch) as told:
        for count in (1, 2, 3):
            renew(tls)
            await _told_times(told, count)
            assert told[-1] == tls.key.read_bytes()
        await asyncio.sleep(0.1)
        assert len(told) == 3


async def test_files_that_cannot_be_used_wait_for_better_ones(
    tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_in_log: list[str] = []
    monkeypatch.setattr(renewal.log, "warning", lambda event, **_: told_in_log.append(event))
    async with following(tls, monkeypatch) as told:
        tls.cert.write_text("half a certificate")
        await until(lambda: told_in_log == ["certificates.unusable"], "the log says so")
        tls.cert.unlink()
        await until(lambda: len(told_in_log) == 2, "the log says so again")
        assert told == []
        renew(tls)
        await until(lambda: len(told) == 1, "the server was told")


async def test_renewal_waits_for_a_relay(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, nats-server would end every session at the reload."""
    waiting = asyncio.Event()
    monkeypatch.setattr(renewal.log, "warning", lambda *_, **__: waiting.set())
    answers = [False]
    async with following(tls, monkeypatch, answers) as told:
        renew(tls)
        await patiently(waiting.wait())
        await asyncio.sleep(0.1)
        assert told == []
        answers[0] = True
        await until(lambda: told == [tls.key.read_bytes()], "the server was told")


async def test_renewal_waits_for_a_server_that_serves(
    tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that starts may have read the files before they changed, and takes no signal yet."""
    waits: list[str] = []
    monkeypatch.setattr(renewal.log, "warning", lambda event, **_: waits.append(event))
    serves = [False]
    async with following(tls, monkeypatch, serves=serves) as told:
        renew(tls)
        await until(lambda: waits == ["certificates.waiting"], "the log says so")
        serves[0] = True
        await until(lambda: told == [tls.key.read_bytes()], "the server was told")
    assert waits == ["certificates.waiting"], "it says so once"


async def test_renewal_during_the_first_start_is_loaded(
    tls: ServerTls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start takes long. Nobody looks at the files before it is over."""
    monkeypatch.setattr(renewal, "LOOK_S", 0.01)
    config = replace(a_config(tmp_path, BusSecrets.generate()), tls=tls)
    server = NatsServer(config, tmp_path / "state")
    told = asyncio.Event()

    def reload() -> bool:
        told.set()
        return True

    monkeypatch.setattr(server, "_reload", reload)
    renew(tls)
    task = spawn(server.follow_certificates(lambda: True), "following")
    await patiently(told.wait())
    await server.stop()
    await task


async def test_stop_ends_the_look_at_once(tls: ServerTls) -> None:
    stopping = asyncio.Event()
    loaded = renewal.signature(tls)
    work = renewal.follow(tls, lambda: True, stopping, loaded=loaded, may_reload=lambda: True)
    task = spawn(work, "following")
    stopping.set()
    async with asyncio.timeout(renewal.LOOK_S):
        await task
    await end(task)
