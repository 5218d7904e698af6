"""One side of a peer in a process of its own: ``python -m benchmarks.actor sender https``.

It takes commands as JSON lines on stdin, and answers each with one JSON line on the original
stdout. The output of the peer's libraries goes to stderr. It ends when stdin ends, so that it
cannot outlive the benchmark. ``time.monotonic`` is one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Final, TextIO

from benchmarks.peer import Order, Receiver, Sender
from benchmarks.peers import load
from benchmarks.taps import noted
from benchmarks.workload import orders

CLOSE_S: Final = 15.0


class SenderSide:
    """The senders of all pairs: the loops and the clock around :class:`Sender`."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._pairs = 0

    async def open(self, setup: dict[str, Any], pairs: int) -> dict[str, Any]:
        """Connect."""
        await self._sender.open(setup, pairs)
        self._pairs = pairs
        return {}

    async def load(self, depth: int, seconds: float, size: int) -> dict[str, Any]:
        """Keep ``depth`` messages in flight for ``seconds``, then wait for the confirmations.

        Returns the number of messages, and the times of the first send and the last confirmation.
        """
        supply, sent = itertools.cycle(orders(size)), 0
        first = time.monotonic()
        until = first + seconds

        async def work(pair: int) -> None:
            nonlocal sent
            send = self._sender.send
            for order in supply:
                await send(pair, order)
                sent += 1
                if time.monotonic() >= until:
                    return

        async with asyncio.TaskGroup() as group:
            for number in range(max(depth, self._pairs)):
                group.create_task(work(number % self._pairs))
        return {"sent": sent, "first": first, "last": time.monotonic()}

    async def time(self, what: str, seconds: float, size: int) -> dict[str, Any]:
        """Send one at a time, on the first pair. Returns how long each took, in µs."""
        do = self._sender.send if what == "send" else self._sender.ask
        supply: Iterator[Order] = itertools.cycle(orders(size))
        taken: list[float] = []
        until = time.monotonic() + seconds
        for order in supply:
            start = time.monotonic()
            await do(0, order)
            now = time.monotonic()
            taken.append((now - start) * 1e6)
            if now >= until:
                break
        return {"us": taken}

    async def close(self) -> dict[str, Any]:
        """Disconnect."""
        await self._sender.close()
        return {}


class ReceiverSide:
    """The receivers of all pairs, and the number of orders that arrived."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._received = 0
        self._last = 0.0
        self._wanted = 0
        self._enough = asyncio.Event()

    async def open(self, setup: dict[str, Any], pairs: int) -> dict[str, Any]:
        """Connect."""
        await self._receiver.open(setup, pairs, self._count)
        return {}

    def _count(self) -> None:
        self._received += 1
        self._last = time.monotonic()
        if self._received == self._wanted:
            self._enough.set()

    async def wait(self, count: int, seconds: float) -> dict[str, Any]:
        """Wait, for ``seconds`` at most, until ``count`` have arrived since the last call.

        Returns how many arrived, and when the last one did.
        """
        self._enough.clear()
        self._wanted = count
        if self._received < count:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._enough.wait()
        answer = {"received": self._received, "last": self._last}
        self._received, self._wanted = 0, 0
        return answer

    async def close(self) -> dict[str, Any]:
        """Disconnect."""
        await self._receiver.close()
        return {}


async def serve(side: SenderSide | ReceiverSide, answers: TextIO) -> None:
    """Take commands until stdin ends."""
    commands = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        command = json.loads(line)
        try:
            answer = await getattr(side, command.pop("do"))(**command)
        # A peer's failure is a result, which the benchmark is told.
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            answer = {"error": short(error)}
        print(json.dumps(answer), file=answers, flush=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await side.close()


def short(error: BaseException) -> str:
    """An error in one line. Of several errors it is the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def main(role: str, name: str) -> None:
    """Serve as the ``sender`` or ``receiver`` of the peer ``name``."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import uvloop

    with noted(role), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        peer = load(name)
        side = SenderSide(peer.sender()) if role == "sender" else ReceiverSide(peer.receiver())
        runner.run(serve(side, answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
