"""``sealbus pub --file``: each line of a file as a message, with an account of every line.

Lines that are read together share envelopes, because they are published in the same turn of the
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sealbus import Bot, Reason, Refused, Unresolved, Verdict
from sealbus.errors import InvalidInput, NotConnected, SealbusError
from sealbus_broker.cli.messages.json_lines import Line, Lines, parse_json
from sealbus_broker.cli.messages.progress import ProgressLine
from sealbus_broker.cli.shared import output
from sealbus_broker.cli.shared.errors import InputFailed, OutputFailed, ReaderGone
from sealbus_broker.cli.shared.signals import Stop, connected
from sealbus_broker.escape import json_line, reshown

IN_FLIGHT: Final = 512
"""Messages published at once.

They are enough to fill envelopes, and few enough to remember.
"""

STOP_S: Final = 2.0
"""How long a stop waits for the verdicts of sent messages. A verdict takes milliseconds."""

ROW: Final[Mapping[str, str]] = {
    "line": "The number of the line in the file, from 1. It is `null` for a single message.",
    "subject": "The subject of the message.",
    "verdict": (
        "`accepted`, `quarantined`, `dropped`, `refused` (others of its envelope were accepted), "
        "`invalid` (never sent) or `unresolved` (no verdict)."
    ),
    "nonce": (
        "32 hexadecimal digits that name the envelope. Of a single message, they are for `--nonce`."
    ),
    "index": (
        "The place of the message in its envelope, from 0, if it was refused or has no verdict."
    ),
    "relay": "The relay that judged the message.",
    "reason": "The reason of a refusal, from the [closed list](protocol.md).",
    "detail": "The place in the message, and the rule. Several violations have several lines.",
    "record": (
        "The number of the record in the quarantine. It is `null` if the verdict is `refused`."
    ),
}
"""The fields of a row. Each row has all of them. An unknown value is ``null``."""

MAX_TOLD_CHARS: Final = 2000
"""Longest shown detail of a message. A stamp carries less, unless all of it has to be escaped."""

MAX_NAMED: Final = 20
"""Lines without verdict that the account names. ``--json`` and the lines above it name all."""


@dataclass(frozen=True, slots=True)
class Sending:
    """How each message is published."""

    subject: str
    live: bool | None
    schema: str | None
    timeout_s: float

    def row(self, nonce: bytes | None = None) -> dict[str, Any]:
        """The row of a message without verdict. Every row has these fields."""
        row = dict.fromkeys(ROW)
        return row | {
            "subject": self.subject,
            "verdict": "unresolved",
            "nonce": nonce.hex() if nonce else None,
        }

    def invalid(self, error: InvalidInput) -> dict[str, Any]:
        """The row of a message that cannot be sent, because of ``error``."""
        return self.row() | {"verdict": "invalid", "detail": error.what}

    async def publish(self, bot: Bot, document: Any, nonce: bytes | None = None) -> dict[str, Any]:
        """Publish one message, and return its row.

        Raises nothing that is about this message alone.
        """
        row = self.row(nonce)
        try:
            stamp = await bot.publish(
                self.subject,
                document,
                live=self.live,
                schema=self.schema,
                timeout=self.timeout_s,
                nonce=nonce,
            )
        except Refused as error:
            stamp = error.stamp
            told = "\n".join(part for part in (error.detail, error.clock) if part)
            # The stamp of an accepted envelope lists the message as refused, and does not say
            # whether the bus keeps it.
            is_listed = stamp.verdict is Verdict.ACCEPTED
            row |= {
                "index": error.index,
                "reason": error.reason.value,
                "detail": told or None,
                "record": error.record,
                "verdict": "refused" if is_listed else stamp.verdict.value,
            }
        except Unresolved as error:
            return row | {
                "nonce": error.nonce.hex(),
                "index": error.index,
                "detail": error.what,
            }
        except NotConnected as error:  # closed by the end of the command before it was sent
            return row | {"detail": error.what}
        except InvalidInput as error:
            return self.invalid(error)
        else:
            row |= {"verdict": stamp.verdict.value}
        return row | {"nonce": stamp.nonce.hex(), "relay": stamp.relay}


def told(row: dict[str, Any]) -> str:
    """A sentence for a row that is not an acceptance."""
    if row["verdict"] == "unresolved":
        nonce = f"; its nonce is {row['nonce']}" if row["nonce"] else ""
        nonce += f", and its index is {row['index']}" if row["index"] is not None else ""
        return f"{row['detail'] or 'no verdict before the end'}{nonce}"
    if row["reason"] is None:
        return reshown(row["detail"] or row["verdict"], MAX_TOLD_CHARS)
    kept = "" if row["record"] is None else f", kept as record {row['record']}"
    faults = "; ".join((row["detail"] or Reason(row["reason"]).meaning).split("\n"))
    return f"refused ({row['reason']}){kept}: {reshown(faults, MAX_TOLD_CHARS)}"


class Bulk:
    """Publishes lines as they are read, some at once, and counts their results."""

    def __init__(
        self, bot: Bot, sending: Sending, lines: Lines, *, first: int, as_json: bool
    ) -> None:
        """``first``: the number of the first line that is sent."""
        self.counts: Counter[str] = Counter()
        self.next_line = first
        """The number of the first line that was not sent."""
        self.is_whole = False
        """Whether the end of the file was reached."""
        self.lost: OutputFailed | ReaderGone | None = None
        """Why rows can no longer be written."""
        self.failed: SealbusError | None = None
        """Why no more lines can be read."""
        self.without_verdict: list[int] = []
        self._bot = bot
        self._sending = sending
        self._lines = lines
        self._as_json = as_json
        self._window = asyncio.Semaphore(IN_FLIGHT)
        self._running: set[asyncio.Task[None]] = set()
        self._progress = ProgressLine()

    async def run(self, stop: Stop, connect_s: float) -> None:
        """Publish until the end of the lines, a signal, or the end of the output."""
        try:
            await stop.before(self._lines.open())
            async with connected(self._bot, connect_s, stop):
                try:
                    await self._send_all(stop)
                except InputFailed as error:
                    self.failed = error
                if self._running:
                    patience_s = STOP_S if stop.event.is_set() or self.lost else None
                    await asyncio.wait(self._running, timeout=patience_s)
            # Closing the bot has ended the messages without verdict. If not, this does.
            if self._running:
                await asyncio.wait(self._running, timeout=STOP_S)
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        finally:
            self._lines.close()
            self._progress.clear()

    async def _send_all(self, stop: Stop) -> None:
        chunks = self._lines.chunks()
        async with contextlib.aclosing(chunks):
            while (lines := await stop.before(anext(chunks, None))) is not None:
                for line in lines:
                    if line.number < self.next_line:
                        continue
                    if stop.event.is_set() or self.lost or not await self._admit(stop):
                        return
                    self._send(line)
        self.is_whole = not stop.event.is_set()

    async def _admit(self, stop: Stop) -> bool:
        """Wait for room for one more message. Return ``False`` if a stop comes first."""
        if self._window.locked():
            return await stop.before(self._window.acquire()) is not None
        return await self._window.acquire()

    def _send(self, line: Line) -> None:
        self.next_line = line.number + 1
        task = asyncio.create_task(self._settle(line))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _settle(self, line: Line) -> None:
        row = self._sending.row() | {"line": line.number}
        try:
            document = _parse(line)
        except InvalidInput as error:
            row |= {**self._sending.invalid(error), "line": line.number}
        else:
            with contextlib.suppress(
                asyncio.CancelledError
            ):  # its row says that there is no verdict
                row = {**await self._sending.publish(self._bot, document), "line": line.number}
        try:
            await self._account(row)
        finally:
            self._window.release()

    async def _account(self, row: dict[str, Any]) -> None:
        verdict = row["verdict"]
        self.counts[verdict] += 1
        if verdict == "unresolved":
            self.without_verdict.append(row["line"])
        if verdict != "accepted" and not self._as_json:
            self._progress.say(f"line {row['line']}: {told(row)}")
        self._progress.show(self._status())
        if self._as_json and not self.lost:
            try:
                await output.put_line(json_line(row))
            except (OutputFailed, ReaderGone) as error:
                self.lost = error

    def _status(self) -> str:
        size = self._lines.size
        share = f"{min(100, 100 * self._lines.read // size)} % read, " if size else ""
        return f"publishing: {share}{self.summary()}"

    def summary(self) -> str:
        """The counts, in words."""
        return ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.counts.items()))


def _parse(line: Line) -> Any:
    if line.fault is not None:
        raise InvalidInput(line.fault)
    return parse_json(line.text)
