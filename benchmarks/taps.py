"""Times that a process notes at some places of the real code, for :mod:`benchmarks.trace`.

A process notes nothing unless the variable :data:`FOLDER` names a folder. When it ends, it writes
its notes there. The clock is one for all processes of a machine.

``python -m benchmarks.taps relay …`` is ``sealbus relay …`` with notes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "SEALBUS_BENCHMARK_NOTES"

Notes = dict[str, list[int]]
"""When something happened, in ns, in order: by ``<label> begins`` and ``<label> ends``."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A function that notes when it begins and ends."""

    label: str
    module: str
    """The module that calls it by this name."""

    name: str
    """The function, or ``Class.method``."""

    def install(self, notes: Notes) -> None:
        """Have it note its times from now on, in this process."""
        owner = importlib.import_module(self.module)
        *path, name = self.name.split(".")
        for part in path:
            owner = getattr(owner, part)
        inner: Callable[..., Any] = getattr(owner, name)
        begins = notes.setdefault(f"{self.label} begins", []).append
        ends = notes.setdefault(f"{self.label} ends", []).append
        now = time.monotonic_ns

        @functools.wraps(inner)
        def noted(*given: Any, **named: Any) -> Any:
            begins(now())
            try:
                return inner(*given, **named)
            finally:
                ends(now())

        @functools.wraps(inner)
        async def noted_beside(*given: Any, **named: Any) -> Any:
            begins(now())
            try:
                return await inner(*given, **named)
            finally:
                ends(now())

        setattr(owner, name, noted_beside if inspect.iscoroutinefunction(inner) else noted)


_ALL: Final = (
    Tap("arrival", "asyncio.streams", "StreamReaderProtocol.data_received"),
    Tap("write", "nats.aio.transport", "TcpTransport.writelines"),
)

_BOTS: Final = (
    *_ALL,
    Tap("seal", "sealbus.sending.bundling", "seal_envelopes"),
    Tap("open", "sealbus.receiving.verifier", "open_delivery"),
)

TAPS: Final = {
    "sender": (*_BOTS, Tap("request", "benchmarks.peers.sealbus", "SealbusSender.ask")),
    "receiver": (*_BOTS, Tap("handler", "benchmarks.peers.sealbus", "reply")),
    "relay": (
        *_ALL,
        Tap("judge", "sealbus_broker.relay.judging.pipeline", "judge"),
        Tap("stamp", "sealbus_broker.relay.store.storing", "seal_stamps"),
    ),
}
"""By the process that has them."""


@contextlib.contextmanager
def noted(who: str) -> Iterator[None]:
    """Note times in the block, as ``who`` of :data:`TAPS`."""
    if (place := os.environ.get(FOLDER)) is None:
        yield
        return
    notes: Notes = {}
    for tap in TAPS[who]:
        tap.install(notes)
    try:
        yield
    finally:
        (Path(place) / f"{who}.json").write_text(json.dumps(notes))


def read(folder: Path) -> dict[str, Notes]:
    """The notes of all processes, which have ended."""
    return {who: json.loads((folder / f"{who}.json").read_text()) for who in TAPS}


def main() -> int:
    """Run a relay."""
    from sealbus_broker.cli.main import main as sealbus

    sys.argv[0] = "sealbus"
    with noted("relay"):
        return sealbus()


if __name__ == "__main__":
    raise SystemExit(main())
