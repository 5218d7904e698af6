"""A sender or receiver process, seen from the benchmark: commands out, answers in."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.bus import end

OPEN_S: Final = 60.0
GRACE_S: Final = 30.0
"""The time that an answer may take beyond the time of the command itself."""

_ANSWER_BYTES: Final = 64 * 2**20
"""All latencies come in one line."""


class PeerFailed(RuntimeError):
    """A peer did not carry out a command."""


class Side:
    """One actor process."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._role = role
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, role: str, peer: str, folder: Path) -> Side:
        """Start a process for ``role`` (``sender`` or ``receiver``), with its log in ``folder``."""
        log = folder / f"{role}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.actor", role, peer),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                limit=_ANSWER_BYTES,
                start_new_session=True,  # the benchmark gets Ctrl-C
            )
        return cls(role, process, log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def do(self, command: str, /, takes_s: float = 0.0, **arguments: Any) -> dict[str, Any]:
        """Send a command and return the answer. Raises :class:`PeerFailed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(takes_s + GRACE_S):
                self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise PeerFailed(f"{self._role}: no answer to {command}") from None
        except OSError:
            line = b""
        if not line:
            raise PeerFailed(f"{self._role}: ended. {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(f"{self._role}: {answer['error']}")
        return answer

    async def stop(self) -> None:
        """End its stdin, and terminate the process if it does not end then."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(GRACE_S):
                await self._process.wait()
        except TimeoutError:
            await end(self._process)

    def _said(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "It said nothing."
