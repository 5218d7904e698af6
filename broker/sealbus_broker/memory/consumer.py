"""One pull consumer in memory: the messages that it gives out, and those that it gives out again.

A message is *pending* from its delivery until it is acknowledged. It is delivered again after
``ack_wait``, or when it is given back (``-NAK``), and then before all new ones.

:meth:`Consumer.pump` delivers for as long as there is a message and a request for it. It is called
whenever either may have come. One timer wakes the consumer for the earliest of its deadlines.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from sealbus.nats.parser import PIN_HEADER
from sealbus_broker.memory import headers, pulls
from sealbus_broker.memory.accounts import Target
from sealbus_broker.memory.interest import covers
from sealbus_broker.memory.outstanding import Outstanding
from sealbus_broker.memory.pulls import BadRequest, Request, Waiting
from sealbus_broker.memory.stream import Json, Stored, Stream
from sealbus_broker.memory.times import NS_PER_S, now_ns, read_pause, rfc3339
from sealbus_broker.memory.wire import Message


class Paths(Protocol):
    """Where a consumer's messages go."""

    def answer(self, target: Target, message: Message) -> None:
        """Give ``message`` to whoever listens at ``target``."""

    def listens(self, target: Target) -> bool:
        """Whether anybody does."""


class Ack(NamedTuple):
    """What an acknowledgement says, and about which delivery."""

    sequence: int
    delivery: int
    text: bytes


class Consumer:
    """Delivers the messages of one stream, on request.

    A message is *unseen*, *given out*, *to be given out again* (both in ``_given``), or done. The
    stream tells of messages that come and go, clients ask and acknowledge. A lost connection
    changes nothing here: a request whose client has gone is dropped when its turn comes.
    """

    def __init__(
        self,
        *,
        stream: Stream,
        config: Json,
        paths: Paths,
        longest_wait_s: Callable[[], float | None],
    ) -> None:
        """``longest_wait_s``: how long a request without a group may wait, whatever it says."""
        self.stream = stream
        self.config = config
        self.created_ns = now_ns()
        self._paths = paths
        self._longest_wait_s = longest_wait_s
        self._filter = str(config.get("filter_subject") or ">")
        """The pattern of its subjects."""
        self._next = self._start()
        """The sequence from which on messages are unseen."""
        ahead = [one for one in stream.messages() if one.sequence >= self._next]
        self._unseen = sum(self._wants(one) for one in ahead)
        """Messages that were never given out."""
        self._delivery = 1
        """The sequence of the next delivery."""
        ack_wait_ns = int(config.get("ack_wait") or 30 * NS_PER_S)
        self._given = Outstanding(ack_wait_ns, self._next - 1)
        """The messages in hand."""
        self._waiting = Waiting()
        """The requests that may still bring messages."""
        self._pin = ""
        """The pin that is valid; empty: nobody has it."""
        self._pinned_ns = 0
        """When its holder asked last."""
        self._paused_until_ns = 0
        """Until when nothing is delivered; 0: it is not paused."""
        self._active_ns = 0
        """When a message was delivered last; 0: never."""
        self._used_ns = now_ns()
        """When a client asked last, for the time without use."""
        self._timer: asyncio.TimerHandle | None = None
        """Wakes it for the earliest deadline."""
        self._pumping = False
        """Whether :meth:`pump` is at work, which must not begin again inside itself."""
        self.is_over = False
        """Whether it was deleted."""

    def _start(self) -> int:
        policy = self.config.get("deliver_policy", "all")
        if policy == "new":
            return self.stream.last + 1
        if policy == "last":
            last = self.stream.last_on(self._filter)
            return self.stream.last + 1 if last is None else last.sequence
        if policy == "by_start_sequence":
            return max(1, int(self.config.get("opt_start_seq", 1)))
        return 1

    def _wants(self, stored: Stored) -> bool:
        return covers(self._filter, stored.subject)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config.get("durable_name") or self.config["name"])

    @property
    def is_acknowledged(self) -> bool:
        """Whether messages have to be acknowledged."""
        return self.config.get("ack_policy") == "explicit"

    # ---- calls of the stream --------------------------------------------------------------------

    def came(self, stored: Stored) -> None:
        """A message was stored."""
        if stored.sequence >= self._next and self._wants(stored):
            self._unseen += 1
            self.pump()

    def went(self, stored: Stored) -> None:
        """A message was removed."""
        sequence = stored.sequence
        if sequence >= self._next:
            self._unseen -= self._wants(stored)
        elif sequence in self._given:
            self._settle(sequence)

    # ---- requests of clients --------------------------------------------------------------------

    def ask(self, body: bytes, target: Target) -> None:
        """A client asks for messages."""
        now = self._used_ns = now_ns()
        try:
            request = pulls.read(body, target, self.config, now)
            self._admit(request, now)
        except BadRequest as refused:
            self._tell(target, refused.code, str(refused))
            return
        self._waiting.add(request)
        self.pump()

    def _admit(self, request: Request, now: int) -> None:
        if request.pin and self._pin:
            if request.pin != self._pin:
                raise BadRequest(423, "Nats-Pin-Id mismatch")
            self._pinned_ns = now
        most = self.config.get("max_waiting") or 512
        if len(self._waiting) >= most:
            self._expire(now)
        if len(self._waiting) >= most:
            raise BadRequest(409, "Exceeded MaxWaiting")
        is_empty = not self._unseen and self._given.first_again is None
        if request.no_wait and request.expires_ns is None and is_empty:
            raise BadRequest(404, "No Messages")
        longest_s = self._longest_wait_s()
        if longest_s is not None and request.group is None and request.expires_ns is not None:
            request.expires_ns = min(request.expires_ns, now + int(longest_s * NS_PER_S))

    def settle(self, ack: Ack) -> bool:
        """A client acknowledges a delivery, or gives it back. Whether it is answered."""
        if ack.text in (b"", b"+ACK", b"+OK") or ack.text.startswith(b"+TERM"):
            # It was never given out. nats-server does not answer such a word.
            if ack.sequence >= self._next:
                return False
            self._settle(ack.sequence)
            if self.stream.config.get("retention") == "workqueue":
                self.stream.remove(ack.sequence)
        elif ack.text == b"+WPI":
            self._given.progress(ack.sequence, now_ns())
        elif ack.text.startswith(b"-NAK"):
            pause_ns = read_pause(ack.text[len(b"-NAK") :].strip())
            due_ns = None if pause_ns is None else now_ns() + pause_ns
            self._given.give_back(ack.sequence, ack.delivery, due_ns)
        self.pump()
        return True

    def _settle(self, sequence: int) -> None:
        self._given.settle(sequence, (self._delivery - 1, self._next - 1))

    # ---- requests of operators ------------------------------------------------------------------

    def pause(self, until_ns: int) -> None:
        """Deliver nothing before ``until_ns``; 0: go on.

        As in nats-server, this wakes no request that waits: the next request or message does.
        """
        self._paused_until_ns = until_ns
        self._wake_at(now_ns())

    def unpin(self) -> None:
        """Forget who has the pin: the next request gets a new one."""
        self._pin = ""
        self.pump()

    def look(self) -> None:
        """Forget requests that nobody waits for any more, as nats-server does when it is asked."""
        self._expire(now_ns())

    def hasten(self) -> None:
        """End the requests that wait, as if their time was over. nats-server has no such order."""
        for request in self._waiting:
            self._end(request, 408, "Request Timeout", request.pending)

    def follow(self, config: Json) -> None:
        """Take a changed configuration. The messages that were given out stay so."""
        self.config = config
        self.pump()

    def disconnect(self) -> None:
        """The server has stopped: nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for request in self._waiting:
            self._waiting.remove(request)
        self._pin = ""

    def end(self) -> None:
        """It was deleted: whoever waits is told."""
        self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        for request in self._waiting:
            self._tell(request.target, 409, "Consumer Deleted")

    # ---- delivering -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver what can be delivered; then wait for the next deadline."""
        if self._pumping or self.is_over:
            return
        self._pumping = True
        try:
            now = now_ns()
            self._given.come_due(now)
            while now >= self._paused_until_ns and self._waiting and self._deliver_next(now):
                pass
            self._expire(now, is_empty=not self._is_full)
        finally:
            self._pumping = False
        self._wake_at(now)

    @property
    def _is_full(self) -> bool:
        most = self.config.get("max_ack_pending") or 0
        return self.is_acknowledged and 0 < most <= len(self._given)

    def _deliver_next(self, now: int) -> bool:
        again = self._given.first_again
        stored = self._find_next() if again is None else self.stream.get(again)
        # A message that is due again has left the stream meanwhile: it is done.
        if stored is None:
            if again is not None:
                self._settle(again)
            return again is not None
        count = self._given.count(stored.sequence) + 1
        left = self._unseen - (again is None)
        reply = (
            f"$JS.ACK.{self.stream.name}.{self.name}.{count}.{stored.sequence}"
            f".{self._delivery}.{stored.stored_ns}.{left}"
        )
        block, data = stored.headers, stored.data
        if self.config.get("headers_only"):
            block, data = headers.add(block, {"Nats-Msg-Size": len(data)}), b""
        size = len(stored.subject) + len(reply) + len(block) + len(data)
        request = self._taker(size, now)
        if request is None:
            return False
        if self._pin:
            block = headers.add(block, {PIN_HEADER: self._pin})
        self._note(stored, is_new=again is None, now=now)
        self._waiting.served(request)
        self._paths.answer(request.target, Message(stored.subject, reply, block, data))
        if request.batch <= 0 and request.max_bytes > 0:
            self._tell(request.target, 409, "Batch Completed", request.pending)
        return True

    def _find_next(self) -> Stored | None:
        if self._is_full or not self._unseen:
            return None
        self._next = max(self._next, self.stream.first)
        while self._next <= self.stream.last:
            stored = self.stream.get(self._next)
            if stored is not None and self._wants(stored):
                return stored
            self._next += 1
        return None

    def _note(self, stored: Stored, *, is_new: bool, now: int) -> None:
        """It is being given out."""
        self._active_ns = now
        if is_new:
            self._next = stored.sequence + 1
            self._unseen -= 1
        if self.is_acknowledged:
            self._given.given(stored.sequence, self._delivery, now)
        else:
            self._given.floor = self._delivery, stored.sequence
        self._delivery += 1

    def _taker(self, size: int, now: int) -> Request | None:
        """The request that gets a message of ``size`` bytes; it stays the first in the queue."""
        skipped = 0
        while (request := self._waiting.first()) is not None and skipped < len(self._waiting):
            if request.expires_ns is not None and request.expires_ns <= now:
                self._end(request, 408, "Request Timeout", request.pending)
            elif self._is_pinned and not self._may_take(request, now):
                if request.pin:
                    self._end(request, 423, "Nats-Wrong-Pin-Id", request.pending)
                else:
                    self._waiting.skip()
                    skipped += 1
            elif 0 < request.max_bytes < size:
                self._end(request, 409, "Message Size Exceeds MaxBytes", request.pending)
            elif not self._paths.listens(request.target):
                self._waiting.remove(request)
            else:
                self._charge(request, size)
                return request
        return None

    @staticmethod
    def _charge(request: Request, size: int) -> None:
        if request.max_bytes:
            request.max_bytes -= size
            # Exactly used up. 0 would mean any number from here on, so this message is its last.
            if not request.max_bytes:
                request.batch = 1

    @property
    def _is_pinned(self) -> bool:
        return self.config.get("priority_policy") == "pinned_client"

    def _may_take(self, request: Request, now: int) -> bool:
        """Whether the request has the pin. While nobody has it, who asks first gets it."""
        lasts_ns = self.config.get("priority_timeout") or 0
        if self._pin and now - self._pinned_ns >= lasts_ns:
            self._pin = ""
        if not self._pin and not request.pin:
            self._pin = request.pin = secrets.token_hex(11)
            self._pinned_ns = now
        return bool(self._pin) and request.pin == self._pin

    # ---- deadlines ------------------------------------------------------------------------------

    def _expire(self, now: int, *, is_empty: bool = False) -> None:
        """End the requests whose time is over.

        ``is_empty``: there is no message, so the requests that do not wait end too.
        """
        for request in self._waiting:
            if request.expires_ns is not None and request.expires_ns <= now:
                self._end(request, 408, "Request Timeout", request.pending)
            elif is_empty and request.no_wait and (request.expires_ns is None or request.delivered):
                self._end(request, 404, "No Messages")
            elif not self._paths.listens(request.target):
                self._waiting.remove(request)

    def _wake_at(self, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = list(self._given.deadlines())
        times += [one.expires_ns for one in self._waiting if one.expires_ns is not None]
        if self._paused_until_ns > now:
            times.append(self._paused_until_ns)
        if self._pin and self._waiting and (lasts_ns := self.config.get("priority_timeout")):
            times.append(max(now, self._pinned_ns) + lasts_ns)
        if times:
            # At least a millisecond: a deadline that has passed and changes nothing would keep the
            # event loop busy.
            after_s = max(0.001, (min(times) - now) / NS_PER_S)
            self._timer = asyncio.get_running_loop().call_later(after_s, self.pump)

    def is_unused(self, now: int) -> bool:
        """Whether it was not used for so long that it is to be removed."""
        lasts_ns = self.config.get("inactive_threshold") or 0
        return bool(lasts_ns) and now - self._used_ns >= lasts_ns and not self._waiting

    # ---- telling --------------------------------------------------------------------------------

    def _end(self, request: Request, code: int, text: str, fields: Any = None) -> None:
        self._waiting.remove(request)
        self._tell(request.target, code, text, fields)

    def _tell(self, target: Target, code: int, text: str, fields: Any = None) -> None:
        block = headers.status(code, text, fields)
        self._paths.answer(target, Message(target.subject, headers=block))

    def info(self) -> Json:
        """What CONSUMER.INFO says."""
        now = now_ns()
        self._given.come_due(now)
        floor = self._given.floor
        is_paused = self._paused_until_ns > now
        found: Json = {
            "stream_name": self.stream.name,
            "name": self.name,
            "created": rfc3339(self.created_ns),
            "config": self.config,
            "delivered": {"consumer_seq": self._delivery - 1, "stream_seq": self._next - 1},
            "ack_floor": {"consumer_seq": floor[0], "stream_seq": floor[1]},
            "num_ack_pending": len(self._given),
            "num_redelivered": self._given.redelivered,
            "num_waiting": len(self._waiting),
            "num_pending": self._unseen,
            "ts": rfc3339(now),
            "paused": is_paused,
        }
        if self._active_ns:
            found["delivered"]["last_active"] = rfc3339(self._active_ns)
        if self._is_pinned:
            groups = self.config["priority_groups"]
            pinned = {"pinned_client_id": self._pin} if self._pin else {}
            found["priority_groups"] = [{"group": group, **pinned} for group in groups]
        return found
