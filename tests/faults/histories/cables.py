"""Networks that can be cut: a network namespace for each process, and a bridge between them.

A cut takes the cable of one process down. Packets are lost in both directions and nobody is told,
as with a pulled plug, so that each connection is half open. A cut may also lose the packets of one
direction alone: whoever sends there has a hardware address (MAC) of nobody. It takes root and
``ip`` (iproute2).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_NETWORKS: Final = 200
"""How many buses of this machine may have a network at the same time."""
_FIRST: Final = 10
"""The last part of the first process's address. The bridge has 1."""
_NAMESPACES: Final = Path("/run/netns")
_NOBODY: Final = "02:00:00:00:00:01"
"""A hardware address that no cable has."""

WAYS: Final = ("both", "out", "in")
"""The directions of a cut, as the process sees them."""


def are_possible() -> bool:
    """Whether this machine and this user can make such networks."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"sealbus-{os.getpid()}"
    made = _ip(f"netns add {name}")
    if made:
        _ip(f"netns del {name}")
    return made


class Cables:
    """One bridge, and the namespaces at it."""

    def __init__(self, number: int, names: Iterable[str]) -> None:
        self._number = number
        self._ends = {name: f"sb{number}-{at}" for at, name in enumerate(names)}
        """By the name of a process: its namespace, and the bridge's end of its cable."""

    def namespace(self, name: str) -> str:
        """The namespace of a process."""
        return self._ends[name]

    @property
    def bridge(self) -> str:
        """The address of the bridge, where this process is."""
        return f"10.213.{self._number}.1"

    def address(self, name: str) -> str:
        """The address of a process."""
        return f"10.213.{self._number}.{_FIRST + list(self._ends).index(name)}"

    def cut(self, name: str, way: str = "both") -> None:
        """Lose the packets of a process. ``way``: one of :data:`WAYS`."""
        if way == "both":
            assert _ip(f"link set {self._ends[name]} down")
        elif way == "out":
            others = [self.address(one) for one in self._ends if one != name]
            self._lose(name, [self.bridge, *others])
        else:
            for one in self._ends:
                if one != name:
                    self._lose(one, [self.address(name)])
            assert _ip(_to_nobody(self.address(name), f"sb{self._number}"))

    def mend(self, name: str) -> None:
        """End the cut."""
        assert _ip(f"link set {self._ends[name]} up")
        _ip(f"neigh flush dev sb{self._number} nud permanent")
        for end in self._ends.values():
            _ip("neigh flush dev eth0 nud permanent", inside=end)

    def _lose(self, name: str, addresses: Sequence[str]) -> None:
        """Lose what a process sends to some addresses."""
        lines = [_to_nobody(address, "eth0") for address in addresses]
        assert _ip(*lines, inside=self._ends[name])

    def lay(self) -> None:
        """Make the namespaces and the cables."""
        for name, end in self._ends.items():
            assert _ip(
                f"netns add {end}",
                f"link add {end} type veth peer name eth0 netns {end}",
                f"link set {end} master sb{self._number}",
                f"link set {end} up",
            )
            assert _ip(
                f"addr add {self.address(name)}/24 dev eth0",
                "link set eth0 up",
                "link set lo up",
                inside=end,
            )

    def remove(self) -> None:
        """Remove them. The processes inside have ended."""
        for end in self._ends.values():
            _ip(f"link del {end}")
            _ip(f"netns del {end}")


def _to_nobody(address: str, device: str) -> str:
    return f"neigh replace {address} lladdr {_NOBODY} dev {device} nud permanent"


@contextmanager
def network(names: Iterable[str]) -> Iterator[Cables]:
    """A network with a namespace for each of ``names``. This process reaches all of them."""
    for number in range(_NETWORKS):
        if _ip(f"link add sb{number} type bridge"):
            break
    else:
        raise AssertionError("no network is free: `ip link` shows bridges of runs that were killed")
    cables = Cables(number, names)
    try:
        assert _ip(f"addr add {cables.bridge}/24 dev sb{number}", f"link set sb{number} up")
        cables.lay()
        yield cables
    finally:
        cables.remove()
        _ip(f"link del sb{number}")


def enter(namespace: str) -> None:
    """Move this process into a namespace. It must have one thread. An empty name: it stays."""
    if not namespace:
        return
    with (_NAMESPACES / namespace).open() as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")


def launcher(folder: Path, binary: Path, namespace: str) -> Path:
    """A program that becomes ``binary`` inside a namespace, with the same process id and name."""
    place = folder / namespace
    place.mkdir(exist_ok=True)
    program = place / binary.name
    program.write_text(f'#!/bin/sh\nexec ip netns exec {namespace} {binary} "$@"\n')
    program.chmod(0o755)
    return program


def _ip(*commands: str, inside: str = "") -> bool:
    """Run commands of ``ip``. Return whether all succeeded."""
    where = ["-n", inside] if inside else []
    text = "\n".join(commands) + "\n"
    if commands[0].startswith("netns"):  # a batch with `netns` in it would not go on
        done = [
            subprocess.run(["ip", *line.split()], capture_output=True, check=False)
            for line in commands
        ]
        return all(one.returncode == 0 for one in done)
    done_all = subprocess.run(
        ["ip", *where, "-batch", "-"], input=text.encode(), capture_output=True, check=False
    )
    return done_all.returncode == 0
