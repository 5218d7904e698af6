"""The measurements of the bus from outside, during the attack and afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nats.errors import Error as NatsError

from benchmarks.process import cpu_seconds, rss_bytes
from sealbus.nats.client import HardenedClient
from sealbus_broker.nats.config import CONNECTIONS_SUBJECT
from sealbus_broker.nats.session_name import read_session_name
from sealbus_broker.relay.health import PING_SUBJECT

LOOK_S: Final = 0.25
MIB: Final = 1024 * 1024
ANSWER_S: Final = 30.0

Watched = tuple[str, str]
"""A stream, and the subjects in it that belong to the greedy bot."""


class Gauges:
    """Measures again and again, and remembers the highest values."""

    def __init__(
        self,
        processes: Mapping[str, Sequence[int]],
        watched: Sequence[Watched],
        nc: HardenedClient,
        bot: str,
    ) -> None:
        """``processes`` has the process ids by name.

        ``bot`` is the bot whose sessions are counted.
        """
        self._processes = processes
        self._watched = watched
        self._nc = nc
        self._bot = bot
        self.most: Counter[str] = Counter()
        """By process, its resident memory in MiB.

        By stream, its messages and bytes. Also the number of sessions, and the milliseconds until
        the relay has told its health. It tells it from memory, at its next
        pause.
        """

    def cpu(self) -> dict[str, float]:
        """The processor time so far by process, in seconds."""
        used = {}
        for name, pids in self._processes.items():
            with contextlib.suppress(OSError):  # a process was restarted
                used[name] = cpu_seconds(pids)
        return used

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Measure once."""
        for name, pids in self._processes.items():
            with contextlib.suppress(OSError):
                self._note(f"{name} MiB", rss_bytes(pids) / MIB)
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            asked = time.monotonic()
            await self._nc.request(PING_SUBJECT, b"", ANSWER_S)
            self._note("health ms", (time.monotonic() - asked) * 1000)
            for stream, subjects in self._watched:
                state = await self._state(stream, subjects)
                self._note(f"{stream} messages", sum((state.get("subjects") or {}).values()))
                self._note(f"{stream} bytes", state["bytes"])
                self._note(f"{stream} consumers", state["consumer_count"])
            ask = json.dumps({"limit": 8192}).encode()
            answer = json.loads((await self._nc.request(CONNECTIONS_SUBJECT, ask, ANSWER_S)).data)
            connections = [
                one
                for one in answer["data"]["connections"] or []
                if read_session_name(one["name"]).bot == self._bot
            ]
            self._note("sessions", len(connections))
            self._note(
                "subscriptions of a session",
                max((one["subscriptions"] for one in connections), default=0),
            )

    def _note(self, name: str, value: float) -> None:
        # This Counter has any numbers, not only whole ones.
        self.most[name] = max(self.most[name], value)  # type: ignore[assignment]

    async def _state(self, stream: str, subjects: str) -> dict[str, Any]:
        ask = json.dumps({"subjects_filter": subjects}).encode()
        info = json.loads(
            (await self._nc.request(f"$JS.API.STREAM.INFO.{stream}", ask, ANSWER_S)).data
        )
        state: dict[str, Any] = info["state"]
        return state


def read_log(path: Path, since: int = 0) -> tuple[Counter[str], Counter[str], int]:
    """A relay's log from a byte on: lines by event, the counts at its end, and its bytes."""
    data = path.read_bytes()[since:]
    events: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for text in data.splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            events[line["event"]] += 1
            if line["event"] == "relay.stopped":
                counts.update(
                    {
                        name: n
                        for name, n in line.items()
                        if isinstance(n, int) and name != "timestamp"
                    }
                )
    return events, counts, len(data)
