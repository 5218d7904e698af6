"""A connection to a host with several addresses, and the look-up of a name."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import threading
import warnings
from multiprocessing.connection import Connection
from urllib.parse import urlparse

import pytest

from sealbus.looking_up import addresses_of
from sealbus.nats.transport import Stage, Transport, Unreachable
from sealbus.supervision import in_thread
from tests.listening import listening
from tests.ports import free_port
from tests.waiting import PATIENCE_S, patiently, until

STREAM = socket.SOCK_STREAM


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Have each name lead to ``addresses``."""

    def found(_: str, port: int, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)


async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Take the connection, and say nothing."""


async def connected(port: int) -> Transport:
    """A transport to a host name. Closed by its caller."""
    transport = Transport(1024)
    await transport.connect(urlparse(f"nats://bus.example:{port}"), 1024, int(PATIENCE_S))
    return transport


async def test_first_address_that_takes_the_connection_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with listening(silent) as port:  # at 127.0.0.1 alone
        transport = await patiently(connected(port))
        assert transport.stage is Stage.REACHED
        transport.close()  # type: ignore[no-untyped-call]  # nats-py's


async def test_error_has_the_failure_of_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1", "127.0.0.2")
    with pytest.raises(Unreachable) as failed:
        await patiently(connected(free_port()))
    assert [type(one) for one in failed.value.failures] == [ConnectionRefusedError] * 2


async def test_only_address_fails_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "127.0.0.1")
    with pytest.raises(ConnectionRefusedError):
        await patiently(connected(free_port()))


async def test_link_local_address_keeps_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    row = (socket.AF_INET6, STREAM, 6, "", ("fe80::1", 4222, 0, 3))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [row])
    assert await patiently(addresses_of("bus.local", 4222)) == ["fe80::1%3"]


async def test_name_that_is_none_is_an_unknown_one() -> None:
    with pytest.raises(socket.gaierror) as failed:
        await patiently(addresses_of("bus..example", 4222))
    assert failed.value.errno == socket.EAI_NONAME


async def test_later_caller_takes_the_answer_of_a_slow_look_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, go = list[str](), threading.Event()

    def slow(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        go.wait(PATIENCE_S)
        return [(socket.AF_INET, STREAM, 6, "", ("127.0.0.1", 4222))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    first = asyncio.create_task(addresses_of("slow.example", 4222))
    await until(lambda: asked == ["slow.example"])
    first.cancel()
    second = asyncio.create_task(addresses_of("slow.example", 4222))
    await asyncio.sleep(0)
    go.set()
    assert await patiently(second) == ["127.0.0.1"]
    assert asked == ["slow.example"]


async def test_look_up_without_a_thread_holds_up_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolve(monkeypatch, "127.0.0.1")
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", full)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await addresses_of("crowded.example", 4222)
    assert await patiently(addresses_of("crowded.example", 4222)) == ["127.0.0.1"]


async def test_look_up_of_the_parent_holds_up_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of fork() has the parent's look-ups, and none of its threads."""
    go = threading.Event()

    def slow(_: str, port: int, **__: object) -> list[tuple[object, ...]]:
        if os.getpid() == parent:
            go.wait(PATIENCE_S)
        return [(socket.AF_INET, STREAM, 6, "", ("127.0.0.1", port))]

    def look_up(answers: Connection) -> None:
        answers.send(asyncio.run(addresses_of("slow.example", 4222)))

    parent = os.getpid()
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    first = asyncio.create_task(addresses_of("slow.example", 4222))
    await asyncio.sleep(0)
    forking = multiprocessing.get_context("fork")
    answers, theirs = forking.Pipe(duplex=False)
    child = forking.Process(target=look_up, args=(theirs,), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside a thread, which is the case here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    came = await in_thread("waiting for a child", lambda: answers.poll(PATIENCE_S))
    assert came
    assert answers.recv() == ["127.0.0.1"]
    child.join()
    go.set()
    assert await patiently(first) == ["127.0.0.1"]
