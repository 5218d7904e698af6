"""Three nodes with a network of their own, whose cables can be pulled.

Each node runs in a network namespace, and a bridge joins them with this machine. A node whose cable
is pulled neither sends nor hears anything, and nobody is told, as with a cut between two machines.
This needs the rights of root on Linux. :func:`may_cut` says whether they are there.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Self
from unittest.mock import patch

from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.server.process import NatsServer, find_binary
from tests.e2e.nodes import NODES, ClusterShop

_NAME = f"sb{os.getpid() % 100_000}"
"""The first part of the name of all interfaces and namespaces of this process. An interface has at
most 15 characters."""

_NET = f"10.{200 + os.getpid() % 50}.{os.getpid() % 250}"
"""The network of this process."""


def _ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True, capture_output=True)


def may_cut() -> bool:
    """Whether this process may make network namespaces."""
    try:
        _ip("netns", "add", f"{_NAME}x")
        _ip("netns", "del", f"{_NAME}x")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


class _NodeWithin(NatsServer):
    """A nats-server in a network namespace."""

    def __init__(self, config: NatsConfig, folder: Path, starter: Path) -> None:
        super().__init__(config, folder)
        self._starter = starter

    async def start(self) -> None:
        # Its address is not one of this machine, so nothing can be said about its port from here.
        with patch("sealbus_broker.server.process.check_port"):
            await super().start()

    async def _spawn(self, _: Path) -> None:
        await super()._spawn(self._starter)


class CableShop(ClusterShop):
    """A cluster whose nodes have a cable each."""

    hosts = tuple(f"{_NET}.{10 + number}" for number in range(NODES))

    def _node(self, config: NatsConfig, folder: Path, number: int) -> NatsServer:
        starter = folder / "start"
        binary = find_binary()
        starter.write_text(f'#!/bin/sh\nexec ip netns exec {_NAME}n{number} {binary} "$@"\n')
        starter.chmod(0o700)
        return _NodeWithin(config, folder, starter)

    def pull_cable(self, number: int) -> None:
        """Cut a node off."""
        _ip("link", "set", f"{_NAME}v{number}", "down")

    def plug_cable(self, number: int) -> None:
        """Connect it again."""
        _ip("link", "set", f"{_NAME}v{number}", "up")

    async def __aenter__(self) -> Self:
        self._stack.callback(_remove)
        try:
            await asyncio.to_thread(_make, self.hosts)
            return await super().__aenter__()
        except BaseException:
            await self._stack.aclose()  # else the networks of a start that failed would stay
            raise


def _make(hosts: tuple[str, ...]) -> None:
    _ip("link", "add", f"{_NAME}br", "type", "bridge")
    _ip("addr", "add", f"{_NET}.1/24", "dev", f"{_NAME}br")
    _ip("link", "set", f"{_NAME}br", "up")
    for number, host in enumerate(hosts):
        space, outer, inner = f"{_NAME}n{number}", f"{_NAME}v{number}", f"{_NAME}w{number}"
        _ip("netns", "add", space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", outer, "master", f"{_NAME}br")
        _ip("link", "set", outer, "up")
        _ip("link", "set", inner, "netns", space)
        _ip("-n", space, "addr", "add", f"{host}/24", "dev", inner)
        _ip("-n", space, "link", "set", inner, "up")
        _ip("-n", space, "link", "set", "lo", "up")


def _remove() -> None:
    for number in range(NODES):
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", f"{_NAME}n{number}")
    with suppress(subprocess.CalledProcessError):
        _ip("link", "del", f"{_NAME}br")
