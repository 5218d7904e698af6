"""A cut of the schedules loses the packets of the directions that it says."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.histories.cables import Cables, are_possible, network
from tests.waiting import until

SENDS = """
import pathlib, socket, sys

heard, own, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
end = socket.socket(type=socket.SOCK_DGRAM)
end.bind((own, 0))
end.settimeout(0.02)
count = 0
while True:
    end.sendto(b"tick", (other, int(sys.argv[4])))
    try:
        end.recv(10)
        count += 1
        heard.write_text(str(count))
    except TimeoutError:
        pass
"""
"""Sends from inside, and writes down how often it has heard something."""

QUIET_S = 0.3
"""Nothing that is sent more often comes for so long."""


class Ends:
    """A process with a cable, and this one, which send to each other all the time."""

    def __init__(self, here: socket.socket, heard: Path) -> None:
        self._here = here
        self._heard = heard
        self._inside: tuple[str, int] | None = None

    def _count(self) -> int:
        return int(self._heard.read_text() or 0) if self._heard.exists() else 0

    def hear(self) -> tuple[bool, bool]:
        """Whether this side, and the other one, hear something that is sent from now on."""
        self._here.settimeout(0)
        while True:
            try:
                _, self._inside = self._here.recvfrom(10)
            except BlockingIOError:
                break
        before, hears = self._count(), False
        self._here.settimeout(QUIET_S)
        for _ in range(3):
            if self._inside is not None:
                self._here.sendto(b"tick", self._inside)
            try:
                _, self._inside = self._here.recvfrom(10)
                hears = True
            except TimeoutError:
                break
        return hears, self._count() > before


@contextmanager
def ends(cables: Cables, heard: Path) -> Iterator[Ends]:
    with socket.socket(type=socket.SOCK_DGRAM) as here:
        here.bind((cables.bridge, 0))
        command = ["ip", "netns", "exec", cables.namespace("a"), sys.executable, "-c", SENDS]
        places = [str(heard), cables.address("a"), cables.bridge, str(here.getsockname()[1])]
        process = subprocess.Popen([*command, *places])
        try:
            yield Ends(here, heard)
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("way", "heard"),
    [("both", (False, False)), ("out", (False, True)), ("in", (True, False))],
)
async def test_cut_loses_what_it_says_and_ends(
    tmp_path: Path, way: str, heard: tuple[bool, bool]
) -> None:
    if not are_possible():
        pytest.skip("namespaces of the network take root and iproute2")
    with network(["a", "b"]) as cables, ends(cables, tmp_path / "heard") as both:
        await until(lambda: both.hear() == (True, True), "both hear each other")
        cables.cut("a", way)
        await until(lambda: both.hear() == heard, "the cut holds")
        assert both.hear() == heard
        cables.mend("a")
        await until(lambda: both.hear() == (True, True), "both hear each other again")
