"""Joining, as a host meets it: files, clocks, servers, and a bus that is another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealbus import joining
from sealbus.credentials import Credentials
from sealbus.errors import (
    ConnectionFailed,
    CredentialsError,
    InvalidInput,
    InvitationRefused,
    SealbusError,
)
from sealbus.invitation import JoinToken
from sealbus.joining import join
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS
from sealbus_broker.gate.policy import BotKey, Invitation
from tests.ports import free_port
from tests.scene import Scene, now_ms
from tests.waiting import PATIENCE_S, until

HOUR = 3_600_000
BUS_KEY = SigningKey.generate(KeyKind.BUS).public.raw


def a_token(server: str, key: SigningKey | None = None, **fields: Any) -> JoinToken:
    usual = JoinToken(
        "shop",
        "order",
        key or SigningKey.generate(KeyKind.BOT),
        frozenset([BUS_KEY]),
        (server,),
        now_ms() + HOUR,
    )
    return replace(usual, **fields)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the long time-outs of a host."""
    monkeypatch.setattr(joining, "REFUSED_S", 0.3)
    monkeypatch.setattr(joining, "PAUSE_MOST_S", 0.2)


@pytest.fixture
def gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a host that reaches nobody give up at once."""
    monkeypatch.setattr(joining, "REACH_S", 0.3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "host" / "order.toml"


def _content(file: Path) -> bytes:
    """The content of a file, or nothing."""
    return file.read_bytes() if file.exists() else b""


def _write(file: Path, content: bytes, mode: int = 0o600) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)


async def failure(token: JoinToken, file: Path, **how: Any) -> SealbusError:
    """The error of a join. It has a remedy, and neither the token nor the key."""
    with pytest.raises(SealbusError) as failed:
        await join(token, file, **({"timeout_s": PATIENCE_S} | how))
    error = failed.value
    told = f"{error.what} {error.hint}"
    assert error.hint
    assert token.encode() not in told
    assert token.key.seed_text not in told
    return error


async def test_token_that_has_ended_makes_no_file(file: Path) -> None:
    late = CERTIFICATE_AHEAD_MS + 60_000
    token = a_token("nats://127.0.0.1:1", ends_ms=now_ms() - late)
    error = await failure(token, file)
    assert isinstance(error, InvitationRefused)
    assert "minutes ago by the clock of this machine" in error.what
    assert not _content(file)


async def test_time_far_away_can_be_told() -> None:
    assert joining._time(2**53) == "9999-12-31T23:59:59Z"


@pytest.mark.usefixtures("gives_up_soon")
async def test_no_server_is_named_soon(file: Path) -> None:
    error = await failure(a_token(f"nats://127.0.0.1:{free_port()}"), file)
    assert isinstance(error, ConnectionFailed)
    assert "nobody listens" in error.what
    assert Credentials.load(file).bot == "order"


@pytest.mark.usefixtures("gives_up_soon")
async def test_server_without_tls_is_told_nothing(scene: Scene, file: Path) -> None:
    token = a_token(scene.url.replace("nats://", "tls://"))
    error = await failure(token, file)
    assert isinstance(error, ConnectionFailed)
    assert "does not offer TLS" in error.what


async def test_certificates_for_a_bus_without_tls_are_refused(file: Path, tmp_path: Path) -> None:
    error = await failure(a_token("nats://127.0.0.1:1"), file, tls=TlsFiles(tmp_path / "ca.pem"))
    assert isinstance(error, InvalidInput)
    assert not _content(file)


@pytest.mark.usefixtures("gives_up_soon")
async def test_missing_authority_is_named(scene: Scene, file: Path, tmp_path: Path) -> None:
    token = a_token(scene.url.replace("nats://", "tls://"))
    error = await failure(token, file, tls=TlsFiles(tmp_path / "nowhere.pem"))
    assert "nowhere.pem cannot be read" in error.what


def other_bus(made: Credentials) -> Credentials:
    return replace(made, bus="bazaar")


def other_bot(made: Credentials) -> Credentials:
    return replace(made, bot="inventory")


def other_bus_key(made: Credentials) -> Credentials:
    return replace(made, bus_keys=frozenset([SigningKey.generate(KeyKind.BUS).public.raw]))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (other_bus, "has the credentials of order on the bus bazaar"),
        (other_bot, "has the credentials of inventory"),
        (other_bus_key, "names other bus keys"),
    ],
)
async def test_file_of_somebody_else_stays(
    file: Path, change: Callable[[Credentials], Credentials], what: str
) -> None:
    token = a_token("nats://127.0.0.1:1")
    key = SigningKey.generate(KeyKind.BOT)
    change(Credentials("shop", "order", key, token.servers, token.bus_keys)).write(file)
    before = _content(file)
    error = await failure(token, file)
    assert isinstance(error, CredentialsError)
    assert what in error.what
    assert "--out" in (error.hint or "")
    assert _content(file) == before


async def test_file_that_is_no_credentials_stays(file: Path) -> None:
    for content, what in ((b"", "is empty"), (b"hello", "not TOML"), (b'bus = "x"', "must be")):
        _write(file, content)
        error = await failure(a_token("nats://127.0.0.1:1"), file)
        assert what in error.what
        assert _content(file) == content


async def test_file_that_others_can_read_is_not_used(file: Path) -> None:
    token = a_token("nats://127.0.0.1:1")
    key = SigningKey.generate(KeyKind.BOT)
    Credentials("shop", "order", key, token.servers, token.bus_keys).write(file)
    _write(file, _content(file), 0o644)
    assert "can be read by others" in (await failure(token, file)).what


async def test_other_certificates_than_in_the_file_are_refused(file: Path, tmp_path: Path) -> None:
    token = a_token("tls://127.0.0.1:1")
    key = SigningKey.generate(KeyKind.BOT)
    Credentials("shop", "order", key, token.servers, token.bus_keys).write(file)
    error = await failure(token, file, tls=TlsFiles(tmp_path / "ca.pem"))
    assert "names other certificates" in error.what


async def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "file", b"x")
    error = await failure(a_token("nats://127.0.0.1:1"), tmp_path / "file" / "order.toml")
    assert isinstance(error, CredentialsError)


# ---- on a real nats-server, with the door --------------------------------------------------------


def invite(scene: Scene, token: JoinToken) -> None:
    raw = token.key.public.raw
    rule = scene.policy.bots["order"]
    rule = replace(rule, invitations={raw: Invitation(raw, now_ms(), token.ends_ms)})
    scene.change(bots={**scene.policy.bots, "order": rule})


def enrol(scene: Scene, file: Path) -> None:
    """Put the key of a file into the policy, as the clerk does."""
    raw = Credentials.load(file).key.public.raw
    rule = replace(scene.policy.bots["order"], keys={raw: BotKey(raw, 0)}, invitations={})
    scene.change(bots={**scene.policy.bots, "order": rule})


async def test_token_that_the_bus_does_not_know_is_refused(streams: Scene, file: Path) -> None:
    error = await failure(a_token(streams.url), file)
    assert isinstance(error, InvitationRefused)
    assert "refuses the token of order" in error.what
    assert "sealbus invite order" in (error.hint or "")


async def test_invitation_may_be_known_a_moment_later(streams: Scene, file: Path) -> None:
    """Relays read their folder a second after `sealbus invite`."""
    token = a_token(streams.url)
    said: list[str] = []
    task = asyncio.create_task(
        join(token, file, timeout_s=PATIENCE_S, tell=said.append),
    )
    await until(file.exists, "the key is made")
    invite(streams, token)
    await until(lambda: any("the bus has the key" in one for one in said), "it is recorded")
    task.cancel()
    await asyncio.wait([task])


async def test_lost_server_is_waited_for(streams: Scene, file: Path) -> None:
    token = a_token(streams.url)
    invite(streams, token)
    said: list[str] = []
    task = asyncio.create_task(join(token, file, timeout_s=PATIENCE_S, tell=said.append))
    await until(lambda: any("the bus has the key" in one for one in said), "it is recorded")
    await streams.server.stop()
    await until(lambda: any("trying again" in one for one in said), "it says that NATS is away")
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.usefixtures("gives_up_soon")
async def test_bus_that_proves_nothing_is_not_believed(streams: Scene, file: Path) -> None:
    """Somebody between host and bus may let every login in. He has no key of the bus."""
    token = a_token(streams.url)
    invite(streams, token)
    said: list[str] = []
    task = asyncio.create_task(join(token, file, timeout_s=PATIENCE_S, tell=said.append))
    await until(lambda: any("the bus has the key" in one for one in said), "it is recorded")
    enrol(streams, file)
    told = "no relay of the bus answers it"
    await until(lambda: any(told in one for one in said), "it says that nobody proves anything")
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_clock_that_is_far_behind_is_named(
    streams: Scene, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = a_token(streams.url)
    invite(streams, token)
    behind = 20 * 60_000
    monkeypatch.setattr(joining, "_now_ms", lambda: time.time_ns() // 1_000_000 - behind)
    error = await failure(token, file)
    assert isinstance(error, InvitationRefused)
    assert "20 minutes behind" in error.what or "19 minutes behind" in error.what


async def test_wait_has_an_end(streams: Scene, file: Path) -> None:
    token = a_token(streams.url)
    invite(streams, token)
    error = await failure(token, file, timeout_s=2.0)
    assert isinstance(error, ConnectionFailed)
    assert error.what.startswith("order has not joined within 2 s: ")
    assert "say the same again to go on" in (error.hint or "")


async def test_end_of_the_wait_names_the_step(file: Path) -> None:
    host = joining._Joining(
        token=a_token("nats://127.0.0.1:1"), file=file, tls=None, tell=lambda _: None
    )
    assert "the bus has not taken its key yet" in host.too_late(1.0).what
    host._is_recorded = True
    assert "its key waits to be accepted" in host.too_late(1.0).what
    host._failure = ConnectionFailed("nobody listens", hint="is it up?")
    assert "nobody listens" in host.too_late(1.0).what
