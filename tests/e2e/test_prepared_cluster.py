"""A cluster with the files of ``sealbus prepare --cluster``. Only its own nodes may join it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sealbus_broker.server.process import find_binary
from tests.cli.command import sealbus
from tests.forked import ForkedProgram
from tests.ports import free_port
from tests.waiting import PATIENCE_S, until


class Prepared:
    """A bus in a folder, and the nats-servers of its cluster."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.routes = free_port()
        nodes = [part for port in self.ports for part in ("--node", f"127.0.0.1:{port}")]
        for arguments in (
            ("init", "mybus"),
            (
                *("prepare", "--cluster", "--dir", "mybus", *nodes),
                *("--routes-port", f"{self.routes}", "--store", str(folder / "stores")),
            ),
            ("certs", "init", "--dir", "mybus"),
        ):
            ran = sealbus(*arguments, cwd=folder)
            assert ran.code == 0, ran.err
        self.bus = folder / "mybus"
        self.nodes = sorted((self.bus / ".sealbus/nodes").iterdir())

    def start(self, stack: AsyncExitStack) -> None:
        for node in self.nodes:
            command = (str(find_binary()), "-c", str(node / "nats.conf"))
            stack.push_async_callback(end, start(command, node / "nats.log"))


def start(command: tuple[str, ...], log: Path) -> asyncio.Task[asyncio.subprocess.Process]:
    async def run() -> asyncio.subprocess.Process:
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)

    return asyncio.create_task(run())


async def end(starting: asyncio.Task[asyncio.subprocess.Process]) -> None:
    process = await starting
    if process.returncode is None:
        process.terminate()
    await process.wait()


@pytest.fixture
async def prepared(tmp_path: Path) -> AsyncIterator[Prepared]:
    one = await asyncio.to_thread(Prepared, tmp_path)
    async with AsyncExitStack() as stack:
        one.start(stack)
        yield one


async def test_prepared_nodes_are_a_bus_that_works(prepared: Prepared) -> None:
    policy = prepared.bus / "policy.yaml"
    text = policy.read_text()
    policy.write_text(f"{text}\nlimits: {{replicas: 3}}\n" if "limits:" not in text else text)
    relay = ForkedProgram(
        ("sealbus_broker", "relay", "--dir", str(prepared.bus)), prepared.bus / "relay.log"
    )
    try:

        async def works() -> bool:
            assert relay.returncode is None, (prepared.bus / "relay.log").read_text()
            return (await asyncio.to_thread(sealbus, "ping", cwd=prepared.bus)).code == 0

        await until(works, "a message goes the whole way")
    finally:
        relay.terminate()
        await relay.wait()


async def greeting(port: int, tls: ssl.SSLContext) -> bytes:
    """What a node says to whoever opens a route."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1"
    )
    try:
        # In TLS 1.3, a client learns only when it reads that its certificate is refused.
        return await reader.readline()
    finally:
        writer.close()


def context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(ca)
    made.load_cert_chain(certificate, key)
    return made


async def until_greeted(port: int, tls: ssl.SSLContext) -> None:
    async def greets() -> bool:
        try:
            return (await greeting(port, tls)).startswith(b"INFO ")
        except OSError:
            return False

    await until(greets, "a node's own certificate opens a route")


@pytest.mark.parametrize("who", ["a bot", "the bus itself", "nobody"])
async def test_only_a_node_opens_a_route(prepared: Prepared, who: str) -> None:
    """The certificates of bots and of relays are of another authority."""
    bus, node = prepared.bus, prepared.nodes[0]
    nodes_ca = node / "nodes-ca.pem"
    own = context(nodes_ca, node / "node.pem", node / "node.key")
    await until_greeted(prepared.routes, own)
    async with asyncio.timeout(PATIENCE_S):
        other = {
            "a bot": lambda: context(
                nodes_ca, bus / "credentials/clock.pem", bus / "credentials/clock.key"
            ),
            "the bus itself": lambda: context(
                nodes_ca, bus / ".sealbus/bus.pem", bus / ".sealbus/bus.key"
            ),
            "nobody": lambda: ssl.create_default_context(cafile=nodes_ca),
        }[who]()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await greeting(prepared.routes, other)
