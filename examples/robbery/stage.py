"""Processes of the demo: started, spoken to, killed, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, Self

from examples.robbery.cues import MAX_LINE
from examples.robbery.shop import ROOT

STOP_S = 8.0
"""How long a process may take to end in order."""


class StageError(Exception):
    """A process of the demo did not do what it has to."""


class Actor:
    """One process: a module of this package."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._events.put_nowait(json.loads(line))
        self._events.put_nowait(None)

    def cue(self, do: str, **facts: Any) -> None:
        """Ask for something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")

    async def expect(self, *events: str, within_s: float = 30.0) -> dict[str, Any]:
        """The next of ``events``; others are passed over. Raises :class:`StageError`."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    told = await self._events.get()
                    if told is None:
                        self._events.put_nowait(None)
                        raise StageError(f"{self.name} ended unexpectedly; its log is {self.log.name}")
                    if told["event"] == "failed":
                        raise StageError(f"{self.name}: {told['what']}")
                    if told["event"] in events:
                        return told
        except TimeoutError:
            waited = f"{self.name} did not report {' or '.join(events)} within {within_s:g} s"
            raise StageError(f"{waited}; its log is {self.log.name}") from None

    async def status(self) -> dict[str, Any]:
        """What it has counted."""
        self.cue("status")
        return await self.expect("status")

    async def kill(self) -> None:
        """SIGKILL: no time to finish anything."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._end()

    async def stop(self) -> None:
        """Ask it to end, by closing its stdin, and see to it that it does."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._end()

    async def _end(self) -> None:
        await self._process.wait()
        await asyncio.gather(self._reading, return_exceptions=True)


class Stage:
    """All processes; as a context it ends them, the last started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._actors: list[Actor] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Each needs those that were there before it to end in order.
        for actor in reversed(self._actors):
            await actor.stop()

    async def start(self, module: str, *arguments: str | Path) -> Actor:
        """Start ``examples.robbery.<module>``; its stderr goes to ``<module>.log``."""
        log = self._logs / f"{module}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"examples.robbery.{module}",
                *map(str, arguments),
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                limit=MAX_LINE,
                start_new_session=True,  # Ctrl-C is for the director, which then ends them all
            )
        actor = Actor(module, process, log)
        self._actors.append(actor)
        return actor
