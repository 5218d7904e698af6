"""The processes of the demo. They are started, get cues, are killed, and are never left behind."""

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
"""How long a process may take to end by itself, in seconds."""


class StageError(Exception):
    """A process of the demo did not do its work."""


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
        """Send a cue."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")

    async def expect(self, *events: str, within_s: float = 30.0) -> dict[str, Any]:
        """Wait for the next of ``events``, and skip others. Raises :class:`StageError`."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    told = await self._events.get()
                    if told is None:
                        self._events.put_nowait(None)
                        raise StageError(
                            f"{self.name} ended unexpectedly; its log is {self.log.name}"
                        )
                    if told["event"] == "failed":
                        raise StageError(f"{self.name}: {told['what']}")
                    if told["event"] in events:
                        return told
        except TimeoutError:
            waited = f"{self.name} did not report {' or '.join(events)} within {within_s:g} s"
            raise StageError(f"{waited}; its log is {self.log.name}") from None

    async def status(self) -> dict[str, Any]:
        """The counts of the process."""
        self.cue("status")
        return await self.expect("status")

    async def kill(self) -> None:
        """Send SIGKILL, which leaves no time to finish anything."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._end()

    async def stop(self) -> None:
        """Ask it to end, by closing its stdin, and make sure that it does."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
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
    """All processes. As a context it ends them, the last started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._actors: list[Actor] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # To end properly, each needs the processes that were started before it.
        for actor in reversed(self._actors):
            await actor.stop()

    async def start(self, module: str, *arguments: str | Path) -> Actor:
        """Start ``examples.robbery.<module>``. Its stderr goes to ``<module>.log``."""
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
                # Ctrl-C is for the director, which then ends them all.
                start_new_session=True,
            )
        actor = Actor(module, process, log)
        self._actors.append(actor)
        return actor
