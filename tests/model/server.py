"""The parts of a nats-server that an acceptance depends on.

These are streams that forget ids, acknowledgements, and connections that delay.

The promises are those of nats-server 2.15. An id is refused while the stream remembers it. The
acknowledgement of a duplicate names the stored copy and has no time. An acknowledgement of an
ingress message is confirmed even if the message was acknowledged before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from nats.errors import ConnectionClosedError

from sealbus_broker.nats.streams import ACK_WAIT_S
from tests.model.loop import Clock, Process

Receive = Callable[[bytes, bytes, bytes, bytes], None]

ACK_WAIT_MS: Final = int(ACK_WAIT_S * 1000)
"""How long nats-server waits before it delivers an ingress message again.

It measures elapsed time, so no clock matters.
"""


@dataclass(frozen=True, slots=True)
class Frame:
    """One NATS message."""

    subject: str
    reply: str
    headers: bytes
    data: bytes
    inbox: str = ""
    """The subject of the subscription that gets it, if that is not the frame's subject."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One message of a stream."""

    sequence: int
    subject: str
    data: bytes
    at_ms: int
    """The time by the clock of the stream's leader."""


class Answer:
    """The answer to a request, as nats-py represents it."""

    def __init__(self, frame: Frame) -> None:
        self.subject, self.reply, self.data = frame.subject, frame.reply, frame.data
        self.headers: dict[str, str] = {}
        first, *lines = frame.headers.decode().split("\r\n")
        if first.startswith("NATS/1.0 "):
            self.headers["Status"] = first[9:12]
        for line in lines:
            name, colon, value = line.partition(": ")
            if colon:
                self.headers[name] = value


class Wire:
    """One connection.

    Written frames wait in :attr:`out` until the server reads them. The server's frames wait in
    :attr:`coming`.
    """

    def __init__(self, process: Process, name: str) -> None:
        self.process = process
        self.name = name
        self.out: deque[Frame] = deque()
        self.coming: deque[Frame] = deque()
        self.is_connected = True
        self.server_changes = 0
        self.unsent_bytes = 0
        self.is_behind = False
        self.when_closed: set[Callable[[], None]] = set()
        self.on_write: Callable[[Frame], None] = lambda _: None
        """Called with each frame: an attacker who reads the wire."""
        self._begun = 0
        self._takers: list[tuple[str, Receive]] = []

    @property
    def is_closed(self) -> bool:
        return not self.is_connected

    def new_inbox(self) -> str:
        self._begun += 1
        return f"_INBOX.{self.name}.{self._begun}"

    def write(self, frames: Sequence[bytes]) -> None:
        if not self.is_connected:
            raise ConnectionClosedError
        for data in frames:
            self._leave(_parse(data))

    def _leave(self, frame: Frame) -> None:
        self.out.append(frame)
        self.on_write(frame)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        if not self.is_connected:
            raise ConnectionClosedError
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._leave(
            Frame(subject, reply, f"NATS/1.0\r\n{lines}\r\n".encode() if headers else b"", payload)
        )

    async def flush(self, timeout: float = 0) -> None:  # noqa: ASYNC109  # as nats-py has it
        del timeout

    async def subscribe_direct(
        self, subject: str, receive: Receive, queue: str = ""
    ) -> _Subscription:
        entry = subject, receive
        self._takers.append(entry)
        return _Subscription(lambda: self._takers.remove(entry))

    async def subscribe(
        self, subject: str, queue: str = "", cb: Callable[[Any], Awaitable[None]] | None = None
    ) -> _Subscription:
        waiting: asyncio.Queue[Any] = asyncio.Queue()

        def receive(name: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
            waiting.put_nowait(Answer(Frame(name.decode(), reply.decode(), headers, data)))

        subscription = await self.subscribe_direct(subject, receive)
        subscription.waiting = waiting
        return subscription

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109  # as nats-py has it
        headers: dict[str, str] | None = None,
    ) -> Any:
        inbox = self.new_inbox()
        subscription = await self.subscribe(inbox)
        try:
            await self.publish(subject, payload, inbox, headers)
            return await subscription.next_msg(timeout)
        finally:
            await subscription.unsubscribe()

    def deliver(self, count: int) -> None:
        """Let the process read up to ``count`` of the frames that have come, and run it."""
        with self.process.turn():
            for _ in range(min(count, len(self.coming))):
                frame = self.coming.popleft()
                for pattern, receive in list(self._takers):
                    if _matches(pattern, frame.inbox or frame.subject):
                        receive(
                            frame.subject.encode(), frame.reply.encode(), frame.headers, frame.data
                        )
        self.process.run()

    def reconnect(self) -> None:
        """There is another connection, to a server that was restarted.

        The frames on the connection before are lost.
        """
        self.server_changes += 1
        self.out.clear()
        self.coming.clear()
        self.is_connected = True

    def lose(self, kept: int) -> None:
        """The connection ends. The server still gets the first ``kept`` of the written frames."""
        self.is_connected = False
        self.out = deque(list(self.out)[:kept])
        self.coming.clear()


class _Subscription:
    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self.waiting: asyncio.Queue[Any] = asyncio.Queue()

    async def next_msg(self, timeout: float) -> Any:  # noqa: ASYNC109  # as nats-py has it
        async with asyncio.timeout(timeout):
            return await self.waiting.get()

    async def unsubscribe(self) -> None:
        with contextlib.suppress(ValueError):
            self._end()

    async def drain(self) -> None:
        await self.unsubscribe()


def _parse(data: bytes) -> Frame:
    line, _, rest = data.partition(b"\r\n")
    verb, *fields = line.decode().split(" ")
    if verb == "PUB":
        subject, *reply, size = fields
        return Frame(subject, reply[0] if reply else "", b"", rest[: int(size)])
    assert verb == "HPUB"
    subject, reply_to, block, size = fields
    return Frame(subject, reply_to, rest[: int(block)], rest[int(block) : int(size)])


def _matches(pattern: str, subject: str) -> bool:
    mine, theirs = pattern.split("."), subject.split(".")
    return len(mine) == len(theirs) and all(
        one in ("*", other) for one, other in zip(mine, theirs, strict=True)
    )


@dataclass
class Stream:
    """Messages in order, and the ids that the stream remembers."""

    name: str
    leader: str
    window_ms: int
    kept: list[Kept] = field(default_factory=list)
    ids: dict[str, Kept] = field(default_factory=dict)
    last: int = 0
    since_ms: int | None = None
    """The time since when the stream is complete, if it was lost."""


@dataclass
class Waiting:
    """One ingress message that is not acknowledged yet."""

    kept: Kept
    bot: str
    deliveries: int = 0
    again_ms: int = 0
    """The true time from which it may be delivered, for the first time or again."""


class Server:
    """All streams, and the handling of each frame."""

    def __init__(self, clock: Clock, windows: dict[str, int], early_ms: int) -> None:
        """``windows`` are the windows in ms, by stream.

        An id may be forgotten ``early_ms`` too early, after a new leader has read its store.
        """
        self._clock = clock
        self._early_ms = early_ms
        self.streams = {
            name: Stream(name, name.lower(), window) for name, window in windows.items()
        }
        self.streams["QUARANTINE"].leader = "accepted"
        self.ingress: dict[int, Waiting] = {}
        self.position = 0
        self.pulls: dict[str, list[tuple[Wire, str, int]]] = {}
        """By relay: the connection that asked, the inbox, and the number of messages."""
        self.relays: list[Wire] = []
        self.bots: dict[str, list[Wire]] = {}
        self.stored: Callable[[Stream, Kept], None] = lambda _, __: None
        """Called with each new message of a stream."""

    # ---- incoming frames -------------------------------------------------------------------------

    def read(self, wire: Wire) -> None:
        """Read one frame."""
        frame = wire.out.popleft()
        subject = frame.subject
        first = subject.partition(".")[0]
        if first == "send":
            self.ingest(subject[5:], frame.data)
        elif first == "inbox":
            for bot in self.bots.get(subject.split(".")[1], ()):
                bot.coming.append(frame)
        elif subject.startswith("$JS.ACK.INGRESS."):
            self._acknowledge(wire, frame)
        elif subject.startswith("$JS.API."):
            self._api(wire, frame)
        elif (stream := self._stream_of(subject)) is not None:
            self._store(wire, stream, frame)
        elif frame.reply:
            self._send(wire, frame.reply, b"", "503")

    def ingest(self, bot: str, data: bytes) -> int:
        """Store ``data`` in the ingress stream, as if the session of ``bot`` had sent it."""
        self.position += 1
        at_ms = self._clock.now_ms("ingress")
        self.ingress[self.position] = Waiting(
            Kept(self.position, f"ingress.16.0.{bot}", data, at_ms), bot
        )
        return self.position

    def call(self, relay: Wire, bot: str, data: bytes) -> None:
        """Pass a live message on to one relay."""
        relay.coming.append(Frame(f"call.{bot}", "", b"", data))

    def give(self, relay: Wire, position: int) -> bool:
        """Deliver the ingress message at ``position`` to ``relay``.

        Returns false if the relay has not asked for one.
        """
        asked = self.pulls.get(relay.name)
        waiting = self.ingress.get(position)
        if not asked or waiting is None or self._clock.true_ms < waiting.again_ms:
            return False
        _, inbox, count = asked[0]
        asked[0] = (relay, inbox, count - 1)
        if count <= 1:
            asked.pop(0)
        waiting.deliveries += 1
        waiting.again_ms = self._clock.true_ms + ACK_WAIT_MS
        kept = waiting.kept
        numbers = f"{waiting.deliveries}.{kept.sequence}.{kept.sequence}.{kept.at_ms * 1_000_000}.0"
        relay.coming.append(
            Frame(kept.subject, f"$JS.ACK.INGRESS.relay-16-0.{numbers}", b"", kept.data, inbox)
        )
        return True

    def expire(self, relay: Wire) -> None:
        """The requests of ``relay`` have waited long enough, and the relay is told so."""
        for _, inbox, _ in self.pulls.pop(relay.name, []):
            self._send(relay, inbox, b"", "408")

    def restart(self) -> None:
        """The server is killed and comes back. Everything that is only in memory is lost."""
        self.pulls.clear()
        live = self.streams["LIVE"]
        live.kept.clear()
        live.ids.clear()
        # the genesis, which says when the stream began
        live.last, live.since_ms = 1, self._clock.now_ms(live.leader)

    # ---- answers and streams ---------------------------------------------------------------------

    def _stream_of(self, subject: str) -> Stream | None:
        first = subject.partition(".")[0]
        name = {"accepted": "ACCEPTED", "live": "LIVE", "quarantine": "QUARANTINE"}.get(first)
        return None if name is None else self.streams[name]

    def _store(self, wire: Wire, stream: Stream, frame: Frame) -> None:
        now_ms = self._clock.now_ms(stream.leader)
        headers = Answer(frame).headers
        name = headers.get("Nats-Msg-Id")
        self._forget(stream)
        known = stream.ids.get(name) if name is not None else None
        if known is None:
            stream.last += 1
            known = Kept(stream.last, frame.subject, frame.data, now_ms)
            stream.kept.append(known)
            if name is not None:
                stream.ids[name] = known
            self.stored(stream, known)
            answer: dict[str, object] = {"stream": stream.name, "seq": known.sequence}
        else:
            answer = {"stream": stream.name, "seq": known.sequence, "duplicate": True}
        if frame.reply:
            self._send(wire, frame.reply, json.dumps(answer).encode())

    def _forget(self, stream: Stream) -> None:
        horizon = self._clock.now_ms(stream.leader) - stream.window_ms + self._early_ms
        for name, kept in list(stream.ids.items()):
            if kept.at_ms > horizon:
                return  # nats-server stops at the first id that is not old enough
            del stream.ids[name]

    def _acknowledge(self, wire: Wire, frame: Frame) -> None:
        position = int(frame.subject.split(".")[5])
        if frame.data.startswith(b"-NAK"):
            if position in self.ingress:
                self.ingress[position].again_ms = self._clock.true_ms
        elif frame.data.startswith((b"+ACK", b"+TERM")):
            self.ingress.pop(position, None)
        if frame.reply:
            self._send(wire, frame.reply, b"")

    def _api(self, wire: Wire, frame: Frame) -> None:
        call = frame.subject.removeprefix("$JS.API.")
        body = json.loads(frame.data) if frame.data else {}
        if call.startswith("CONSUMER.MSG.NEXT.INGRESS."):
            self.pulls.setdefault(wire.name, []).append((wire, frame.reply, body["batch"]))
        elif call.startswith("DIRECT.GET.") and "batch" in body:
            self._find(wire, self.streams[call.split(".")[2]], frame.reply, body)
        elif call.startswith("DIRECT.GET."):
            stream = self.streams[call.split(".")[2]]
            found = [kept for kept in stream.kept if kept.sequence == body["seq"]]
            if found:
                self._send_kept(wire, frame.reply, stream, found[0])
            else:
                self._send(wire, frame.reply, b"", "404")
        else:
            self._send(wire, frame.reply, b"{}")

    def _find(self, wire: Wire, stream: Stream, reply: str, body: dict[str, Any]) -> None:
        since = (
            datetime.fromisoformat(body["start_time"]).timestamp() * 1000
            if "start_time" in body
            else 0
        )
        found = [
            kept
            for kept in stream.kept
            if kept.subject == body["next_by_subj"]
            and kept.at_ms >= since
            and kept.sequence >= body.get("seq", 0)
        ][: body["batch"]]
        for kept in found:
            self._send_kept(wire, reply, stream, kept)
        self._send(wire, reply, b"", "204" if found else "404")

    def _send_kept(self, wire: Wire, reply: str, stream: Stream, kept: Kept) -> None:
        stamp = (
            datetime.fromtimestamp(kept.at_ms / 1000, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z")
        )
        lines = (
            f"NATS/1.0\r\nNats-Stream: {stream.name}\r\nNats-Subject: {kept.subject}\r\n"
            f"Nats-Sequence: {kept.sequence}\r\nNats-Time-Stamp: {stamp}\r\n\r\n"
        )
        wire.coming.append(Frame(reply, "", lines.encode(), kept.data))

    def _send(self, wire: Wire, reply: str, data: bytes, status: str = "") -> None:
        headers = f"NATS/1.0 {status}\r\n\r\n".encode() if status else b""
        wire.coming.append(Frame(reply, "", headers, data))
