"""Each cause of a failed connection has a sentence of its own.

The test produces a cause for real where it can. For the rest it takes the system's error.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest
from nats.errors import AuthorizationError, Error

from sealbus import Bot, ConnectionFailed, Credentials
from sealbus.nats.diagnosis import explain, shortly
from sealbus.nats.transport import Stage, Unreachable
from sealbus.protocol.keys import KeyKind, SigningKey
from tests.listening import know_no_names, listening
from tests.ports import free_port

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def a_bot(*servers: str) -> Bot:
    """A bot that knows these servers."""
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    return Bot(Credentials("shop", "order", SigningKey.generate(KeyKind.BOT), servers, bus_keys))


async def failure(*servers: str, timeout_s: float = 1) -> ConnectionFailed:
    """The error that a bot gets from ``connect()``."""
    with pytest.raises(ConnectionFailed) as failed:
        await a_bot(*servers).connect(timeout=timeout_s)
    return failed.value


async def meeting(talk: Talk, timeout_s: float = 1) -> ConnectionFailed:
    """The error that a bot gets from a server with the behaviour ``talk``."""
    async with listening(talk) as port:
        return await failure(f"nats://127.0.0.1:{port}", timeout_s=timeout_s)


async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Take the connection, and say nothing."""


async def of_another_kind(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak another protocol than NATS."""
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")


async def garbled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a first line that makes nats-py fail."""
    writer.write(b"INFO []\r\n")


async def short(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hang up at once."""
    writer.close()


async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as nats-server does when no relay admits the bot."""
    writer.write(b'INFO {"nonce":"abc","auth_required":true}\r\n')
    await reader.readuntil(b"PING\r\n")
    writer.write(b"-ERR 'Authorization Violation'\r\n")


async def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    know_no_names(monkeypatch)
    failed = await failure("nats://nosuch.invalid:4222", timeout_s=5)
    assert "unknown host in nats://nosuch.invalid:4222" in failed.what


async def test_nobody_listens() -> None:
    address = f"nats://127.0.0.1:{free_port()}"
    assert (await failure(address)).what == f"nobody listens at {address}"


async def test_nobody_listens_at_any_address_of_a_name() -> None:
    assert (
        "nobody listens at nats://localhost"
        in (await failure(f"nats://localhost:{free_port()}")).what
    )


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (silent, "accepted the connection and then said nothing"),
        (of_another_kind, "does not answer like a nats-server"),
        (garbled, "does not answer like a nats-server"),
        (short, "does not answer like a nats-server"),
        (refusing, "order was not admitted"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_the_behaviour_of_a_server_is_told(talk: Talk, said: str) -> None:
    failed = await meeting(talk)
    assert said in failed.what
    assert failed.hint


async def test_each_of_several_servers_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    know_no_names(monkeypatch)
    first, second = f"nats://127.0.0.1:{free_port()}", "nats://nosuch.invalid:4222"
    failed = await failure(first, second, timeout_s=5)
    assert f"nobody listens at {first}" in failed.what
    assert "unknown host" in failed.what


SERVER = "nats://bus.example:4222"
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "no")
UNREACHABLE = Unreachable([OSError(errno.ENETUNREACH, "no network"), REFUSED])


@pytest.mark.parametrize(
    ("error", "stage", "said"),
    [
        (OSError(errno.EHOSTUNREACH, "no route"), Stage.CONNECTING, f"no route to {SERVER}"),
        (OSError(errno.ENETUNREACH, "no network"), Stage.CONNECTING, f"no route to {SERVER}"),
        (REFUSED, Stage.CONNECTING, f"nobody listens at {SERVER}"),
        (UNREACHABLE, Stage.CONNECTING, f"nobody listens at {SERVER}"),
        (TimeoutError(), Stage.CONNECTING, f"no answer from {SERVER} within 3.0 s"),
        (
            TimeoutError(),
            Stage.REACHED,
            f"{SERVER} accepted the connection and then said nothing for 3.0 s",
        ),
        (
            TimeoutError(),
            Stage.LOOKING_UP,
            f"the host name in {SERVER} could not be looked up within 3.0 s",
        ),
        (
            TimeoutError(),
            Stage.ENCRYPTING,
            f"{SERVER} began TLS and did not go on with it for 3.0 s",
        ),
        (
            socket.gaierror(socket.EAI_AGAIN, "later"),
            Stage.LOOKING_UP,
            f"the host name in {SERVER} could not be looked up: no name server gave an answer",
        ),
        (
            TimeoutError(errno.ETIMEDOUT, "late"),
            Stage.CONNECTING,
            f"no answer from {SERVER} within 3.0 s",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "unknown"),
            Stage.LOOKING_UP,
            f"unknown host in {SERVER}",
        ),
        (
            ConnectionResetError(errno.ECONNRESET, "reset"),
            Stage.REACHED,
            f"{SERVER} cut the connection before there was a session",
        ),
        (AuthorizationError(), Stage.REACHED, f"order was not admitted at {SERVER}"),
        (
            Error("nats: 'Authorization Violation'"),
            Stage.REACHED,
            f"order was not admitted at {SERVER}",
        ),
        (
            Error("nats: maximum connections exceeded"),
            Stage.REACHED,
            f"{SERVER} takes no more connections",
        ),
        (
            Error("nats: 'maximum account active connections exceeded'"),
            Stage.REACHED,
            (
                f"order may have no more sessions at {SERVER}: "
                "it has as many as the bus allows one bot, or all bots together, "
                "or it sent too much and has to pause"
            ),
        ),
        (
            Error("nats: something new"),
            Stage.REACHED,
            f"no session at {SERVER}: Error: nats: something new",
        ),
    ],
)
def test_each_cause_has_a_sentence_of_its_own(error: Exception, stage: Stage, said: str) -> None:
    failed = explain(
        error,
        SERVER,
        "order",
        stage=stage,
        waited_s=3 if isinstance(error, TimeoutError) else 0.01,
    )
    assert failed.what == said
    assert failed.hint


def test_text_of_an_error_of_another_kind_is_not_told() -> None:
    """It may quote a payload."""
    error = ValueError("a payload's value")
    told = explain(error, "nats://h:1", "order", stage=Stage.REACHED, waited_s=0.0)
    assert told.what == "no session at nats://h:1: ValueError"
    assert shortly(error) == "ValueError"
    assert shortly(Error("of NATS")) == "Error: of NATS"
    assert shortly(OSError("of the system")) == "OSError: of the system"
