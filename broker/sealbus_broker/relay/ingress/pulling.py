"""The requests by which a relay pulls one partition, and the pin by which it holds the partition.

**A request** asks for a number of messages. One is under way at a time. It is over when it has
brought all that it asked for, or when the server says so. It is *taken for lost* after
:data:`SILENCE_S`, or when the connection was lost. Then its messages may still come, so
``_is_over`` stays false and ``asked_at`` stays as it was.

**Messages that come again**, from a relay that stopped or died, are asked for one at a time, and
without a bound on their bytes. Otherwise their order would be lost: nats-server (2.15.1) puts a
message that comes again, and does not fit into a request, behind all others that come again. It
delivers these before any new one. So the first new message ends this state (``_is_first``).

**The pin.** The server gives a partition to one relay at a time, the relay that has the pin, until
that relay makes no request for :data:`~sealbus_broker.nats.streams.PIN_TIMEOUT_S`, or gives the pin
up. The requests of the other relays wait meanwhile. So a relay that has no room asks for one
message now and then, only to keep the pin. The server writes the pin into the headers of each
message.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from nats.errors import Error as NatsError

from sealbus.nats.client import HardenedClient
from sealbus.nats.parser import PIN_HEADER
from sealbus.nats.pull import next_subject
from sealbus.nats.pull_requests import PullRequests
from sealbus.protocol.streams import INGRESS
from sealbus.supervision import Supervisor
from sealbus_broker.nats.streams import PIN_TIMEOUT_S, PRIORITY_GROUP, Partition

PULL_MESSAGES: Final = 256
"""How many messages one request asks for: enough that many share one round trip."""

PULL_BYTES: Final = 592 * 1024
"""How many bytes one request asks for. That is more than the largest message. The requests of all
partitions of a lone relay together, which are 24 at most, and the messages that it reads again
(:mod:`~sealbus_broker.relay.ingress.rereading`) stay below the bytes that may wait for its
connection (``config.MAX_PENDING_BYTES``). :mod:`~sealbus_broker.relay.ingress.waiting` bounds
those that wait here."""

PULL_EXPIRES_S: Final = 0.4 * PIN_TIMEOUT_S
"""How long a request waits for messages. The next one is made before the partition's pin runs out.
A partition is handed over when its request is over, so relays share anew within 0.9 s after one
comes or stops. A whole second took 1.1 s. With half a second it was 0.7 s, but a stranger waited
2.1 s for a backlog of a million to be pulled, in place of 1.2 to 1.9 s (``benchmarks.drain``)."""

RENEW_S: Final = PIN_TIMEOUT_S / 8
"""How long after its last request a relay without room asks for one message more. Only a request
keeps the pin. Without it the next relay would get newer messages while older ones are in hand
here."""

MOST_EXTRA: Final = 20
"""How many messages are asked for in this way, one after the other, while no batch ends. They last
for half of ``ACK_WAIT_S``. A relay that is stuck for longer gives way."""

SILENCE_S: Final = PULL_EXPIRES_S + 5
"""After this time without an end a request is taken for lost, because of a lost connection or a new
leader, and the next one is made."""

UNSENT_S: Final = 0.5
"""The pause before the next request when one could not be sent, because there is no connection."""

REFUSED_S: Final = 0.1
"""The pause before the next request when the server did not take one. While the consumer has no
leader, nobody takes requests, and each is answered at once: without a pause a relay made 4,400
requests a second to one partition (measured). A new leader is found within this time."""

_PIN: Final = PIN_HEADER.encode() + b": "
_OTHER_HAS_PIN: Final = b"NATS/1.0 423"
_TAKEN: Final = (
    b"NATS/1.0 404",
    b"NATS/1.0 408",
    b"NATS/1.0 409 Batch Completed",
    b"NATS/1.0 409 Message Size Exceeds MaxBytes",
    _OTHER_HAS_PIN,
)
"""The ends of a request that the server has taken."""


class Pulling:
    """The requests of one relay for one partition.

    A request is *under way* from :meth:`ask` to :meth:`end`, while ``_asking`` is set. It ends by a
    status, by its last message, by a timer, or because the connection came back. The relay *has the
    pin* from the first message that names it until a status 423. Each change that allows another
    request sets ``changed``.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        partition: Partition,
        supervisor: Supervisor,
        changed: asyncio.Event,
    ) -> None:
        """Prepare; ask for nothing yet.

        Args:
            nc: The relay's connection.
            partition: The partition.
            supervisor: Answers for the timers.
            changed: Set whenever another request may be made.
        """
        self._nc = nc
        self._supervisor = supervisor
        self._changed = changed
        subject = next_subject(INGRESS, partition.consumer)
        self.requests = PullRequests(subject, nc.new_inbox())
        """Their numbers, and how many messages the last one may still bring."""
        self._asking: asyncio.TimerHandle | None = None
        """The timer after which the request under way is taken for lost. ``None``: none is under
        way."""
        self._is_over = True
        """Whether the last request is over, and was not only taken for lost."""
        self.asked_at = time.monotonic()
        """When the request was made that may bring the next message: the one under way, or an
        earlier one that was only taken for lost."""
        self._ended_at = 0.0
        """When the last request ended, in either way (event loop's time)."""
        self._pin = b""
        """The server's name for this relay's hold of the partition. Empty: another relay may have
        it."""
        self._is_first = False
        """Whether the last message was delivered for the first time. If not, more of those that
        come again may follow."""
        self._extra = 0
        """How many messages were asked for only to keep the pin, since there was room or a batch
        ended."""
        self._has_room = False
        """Whether the last request was made because there was room."""
        self._renewing: asyncio.TimerHandle | None = None
        """The timer after which a request has to keep the pin."""

    @property
    def answers(self) -> str:
        """The pattern of the subjects on which messages and statuses come."""
        return self.requests.answers

    @property
    def is_under_way(self) -> bool:
        """Whether a request is under way, and may still bring messages."""
        return self._asking is not None

    @property
    def is_for_work(self) -> bool:
        """Whether a request is under way that does more than keep the pin."""
        return self.is_under_way and self._has_room

    @property
    def pin(self) -> str:
        """The pin of this relay, as far as it knows. Empty: it has none."""
        return self._pin.decode("utf-8", "replace")

    def wanted(self, *, has_room: bool) -> int:
        """Return how many messages to ask for now. ``has_room``: for more than keep the pin."""
        if self._asking is not None:
            return 0
        self._has_room = has_room
        if has_room:
            self._extra = 0
            return PULL_MESSAGES if self._is_first else 1
        # There is no room, so one message is asked for only to keep the pin.
        is_due = asyncio.get_running_loop().time() >= self._ended_at + RENEW_S
        if self._pin and is_due and self._extra < MOST_EXTRA:
            self._extra += 1
            return 1
        return 0

    def on_batch_ended(self) -> None:
        """The relay is not stuck: it may keep the pin without room for some time more."""
        self._extra = 0

    def ask(self, count: int) -> None:
        """Make a request for ``count`` messages."""
        terms: dict[str, object] = {
            "expires": int(PULL_EXPIRES_S * 1e9),
            "group": PRIORITY_GROUP,
        }
        if self._is_first:
            terms["max_bytes"] = PULL_BYTES
        # The first request has no id, and the server takes it for one that wants the pin. A request
        # with an id that is not the present pin ends with 423.
        if self._pin:
            terms["id"] = self.pin
        # The messages of a request that was only taken for lost may still come, and were delivered
        # after that request and not after this one. So the earlier time stays.
        if self._is_over:
            self.asked_at = time.monotonic()
        self._is_over = False
        frame = self.requests.next(count, terms)
        patience_s = SILENCE_S
        try:
            self._nc.write([frame])
        except (NatsError, OSError):
            patience_s = UNSENT_S  # the log says already that there is no connection
        self._end_in(patience_s)

    def _end_in(self, seconds: float) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._asking = self._supervisor.later("asking for messages", seconds, self.end)

    def end(self) -> None:
        """End the request: the next one may be made."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        self._ended_at = asyncio.get_running_loop().time()
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = self._supervisor.later("keeping a partition", RENEW_S, self._changed.set)
        self._changed.set()

    def on_status(self, subject: bytes, headers: bytes) -> None:
        """Take a status of the server, which ends a request. 423: another relay has the pin."""
        if headers.startswith(_OTHER_HAS_PIN):
            self._pin = b""
        if not self.requests.is_last(subject):
            return
        self._is_over = True
        if headers.startswith(_TAKEN):
            self.end()
        else:
            # Until then it counts as under way, so nobody asks again.
            self._end_in(REFUSED_S)

    def on_message(self, headers: bytes, *, is_first: bool) -> None:
        """Count a message that a request brought, and read the pin from its headers. ``is_first``:
        it was delivered for the first time."""
        self._is_first = is_first
        # nats-server writes its line behind the bot's headers, which may have a false one: the last
        # line counts (sealbus.nats.parser.read_headers).
        at = headers.rfind(_PIN)
        if at >= 0:
            self._pin = headers[at + len(_PIN) :].partition(b"\r\n")[0]
        if self.requests.brought_all():
            self._is_over = True
            self.end()

    def close(self) -> None:
        """Stop the timers."""
        for timer in (self._asking, self._renewing):
            if timer is not None:
                timer.cancel()
        # run() may be called again after a failure. Then it must not wait for a request of before.
        self._asking = None
        self._renewing = None
        # The pin was given up, or is another's by then. A request that names it would be refused.
        self._pin = b""
        self._is_first = False
