"""A relay's memory: at rest, and at full load with a thousand connected bots."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.bus import Bus
from benchmarks.crowd import Crowd
from benchmarks.generator import POLL_S, Generator
from benchmarks.process import rss_bytes
from benchmarks.sessions import raise_file_limit
from sealbus.protocol.streams import INGRESS

CROWD: Final = Crowd(1000, 1000, 10_000)
PROCESSES: Final = 2
WAVE: Final = 2000
"""The number of messages sent when fewer than half as many wait: four full batches and more."""

_MIB: Final = 2**20
_ROOT: Final = Path(__file__).resolve().parents[1]


async def measure(
    folder: Path, schema: Any, *, seconds: float, say: Callable[[str], None]
) -> dict[str, float]:
    """The memory of a relay in MiB, and the size of the load.

    ``rest`` is of a small bus. ``rest_crowd`` is of a bus with 1,000 bots, 1,000 subjects and
    10,000 grants, without any bot connected. ``connected`` is with all bots. ``load`` is the peak
    of ``seconds`` under load. ``bots`` is their number. ``published`` counts their messages, and
    ``loaded`` the generator's.
    """
    raise_file_limit()
    small = Crowd()
    async with Bus(folder / "small", small.plan(schema)) as bus:
        figures = {"rest": _now(bus)}
    say("1,000 bots …")
    async with Bus(folder / "crowd", CROWD.plan(schema)) as bus:
        figures["rest_crowd"] = _now(bus)
        async with _sessions(bus) as ended, Generator(bus, CROWD.routes()) as generator:
            figures["connected"] = _now(bus)
            figures["load"], figures["loaded"] = await _load(bus, generator, seconds)
            published = await ended()
        return figures | {"bots": float(CROWD.bots), "published": float(published)}


def _now(bus: Bus) -> float:
    return rss_bytes(bus.relay_pids) / _MIB


async def _load(bus: Bus, generator: Generator, seconds: float) -> tuple[float, float]:
    """The peak while the relay always has work, and the number of messages that it took."""
    peak, sent, start = 0.0, 0, time.monotonic()
    while time.monotonic() - start < seconds:
        if (await generator.state(INGRESS))["messages"] < WAVE / 2:
            await generator.send(generator.seal(WAVE, 1))
            sent += WAVE
        peak = max(peak, _now(bus))
        await asyncio.sleep(POLL_S)
    return peak, float(sent)


@asynccontextmanager
async def _sessions(bus: Bus) -> AsyncIterator[Callable[[], Any]]:
    """All bots are connected in the block.

    Yields a function that ends them and gives the number of their accepted messages.
    """
    each = CROWD.bots // PROCESSES
    children: list[asyncio.subprocess.Process] = []

    async def end() -> int:
        accepted = 0
        for child in children:
            words, _ = await child.communicate(b"")
            accepted += int(words)
        return accepted

    try:
        for first in range(0, CROWD.bots, each):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.sessions", str(bus.credentials("b0").parent)),
                *(f"{first}", f"{each}", f"{CROWD.subjects}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=_ROOT,
            )
            children.append(child)
        for child in children:
            assert child.stdout is not None
            if await child.stdout.readline() != b"ready\n":
                raise RuntimeError("not all bots could connect")
        yield end
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
