"""The bus's own subjects (``sealbus.…``): each request goes to the function that serves it.

A request comes through the gate like any message: it is sealed, granted and schema-valid, and its
nonce is burned. It then goes through these steps:

1. :meth:`ServiceRouter.serve` puts it into a queue in which each bot has its turn. Where the queue
   has no room, the bot is told that the relay is busy.
2. Its function runs. An error becomes an answer too, so that nobody waits for nothing.
3. The answer is sealed and stamped with the bus's key, in the name of ``sealbus``, and is stored on
   the requester's reply subject.

When the connection is lost, a function that asks JetStream fails, and its requester is told to try
again. An answer waits until it can be stored, or until nobody waits for it any more. A relay that
dies answers nothing, and the requester asks again.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus.grants import GRANTS
from sealbus.nats.client import HardenedClient
from sealbus.own import (
    PARK,
    PROGRESS,
    QUARANTINE_LIST,
    QUARANTINE_SHOW,
    SUBSCRIBE,
    SUBSCRIPTIONS_LIST,
    SUBSCRIPTIONS_REMOVE,
)
from sealbus.protocol.answer import BUSY, NOBODY_LISTENS, NOT_SERVED, UNAVAILABLE
from sealbus.protocol.codec import pack_json, unpack_json
from sealbus.protocol.keys import Signer
from sealbus.protocol.limits import MAX_BUNDLE, MAX_INTEGER
from sealbus.protocol.subjects import is_pattern
from sealbus.supervision import Supervisor, kind
from sealbus_broker.errors import NotGranted, NotServed, StreamsUnusable
from sealbus_broker.gate.policy import DeliveryClass, Policy
from sealbus_broker.gate.shares import Shares
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.relay.judging.counters import VerdictCounters
from sealbus_broker.relay.services.answers import Answer, Answers, Question
from sealbus_broker.relay.services.consumers import Subscriptions
from sealbus_broker.relay.services.crowd import Crowd
from sealbus_broker.relay.services.fair_queue import FairQueue
from sealbus_broker.relay.services.grants import GrantAnswers
from sealbus_broker.relay.services.in_hand import ConsumersInHand
from sealbus_broker.relay.services.listening import Asked, Listening
from sealbus_broker.relay.services.parking import ParkingService
from sealbus_broker.relay.services.progress import ProgressService
from sealbus_broker.relay.services.quarantine_reader import read_record, read_records
from sealbus_broker.relay.store.stream_store import StreamStore

CHUNK_BYTES: Final = 192 * 1024
"""How many bytes of a quarantined message one answer has. That is 256 KiB in base64, well inside an
envelope."""

TOLD_WAITING: Final = 4096
"""How many answers of the kinds *busy* and *nobody listens* may wait. Such an answer costs as much
as a message, and its requester chooses how many are needed. Beyond the bound the requester learns
it by its own deadline."""

Handler = Callable[[str, Any], Awaitable[Any]]
"""Serves one subject: takes the bot and the request's payload, and returns the answer's payload."""


class ServiceRouter:
    """Answers requests on the bus's own subjects.

    A request *waits* in the fair queue, is *served* by its function, and is *answered* by
    :class:`Answers`. The answers *busy* and *nobody listens* skip the first two steps and wait in
    ``_told``. :meth:`serve` and :meth:`_tell` begin the work, and :meth:`cancel` ends it. On a lost
    connection see the module.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        stream_store: StreamStore,
        policy: Callable[[], Policy],
        key: Signer,
        relay: str,
        counters: VerdictCounters,
        now_ms: Callable[[], int],
        supervisor: Supervisor,
        shares: Shares,
    ) -> None:
        """Prepare; :meth:`open` subscribes.

        Args:
            nc: The relay's connection.
            stream_store: Stores answers and parked messages.
            policy: Gives the policy in force.
            key: The bus key, which seals answers and their stamps.
            relay: The relay's name, which stamps have.
            counters: Counts the requests that found no room, and bounds the log lines.
            now_ms: The wall clock, in ms since 1970.
            supervisor: Answers for the work.
            shares: What each bot has stored. Answers and parked messages add to it.
        """
        self._nc = nc
        self._supervisor = supervisor
        self._answers = Answers(
            stream_store=stream_store,
            policy=policy,
            key=key,
            relay=relay,
            now_ms=now_ms,
            shares=shares,
        )
        self._policy = policy
        self._counters = counters
        self._now_ms = now_ms
        self._grants = GrantAnswers(relay)
        self._crowd = Crowd(nc, supervisor, time.monotonic)
        self._listening = Listening(nc, self._tell_that_nobody_listens)
        self._queue = FairQueue(supervisor)
        self._told: deque[Answer] = deque()
        """The answers *busy* and *nobody listens* that wait to be stored."""
        self._telling: asyncio.Task[None] | None = None
        """The task that stores them, or the last one that did."""
        self._subscriptions = Subscriptions(nc)
        in_hand = ConsumersInHand(nc, policy)
        self._progress = ProgressService(
            nc=nc,
            stream_store=stream_store,
            in_hand=in_hand,
            policy=policy,
            shares=shares,
            now_ms=now_ms,
        )
        self._parking = ParkingService(
            in_hand=in_hand,
            nc=nc,
            stream_store=stream_store,
            policy=policy,
            relay=relay,
            now_ms=now_ms,
            shares=shares,
        )
        self._handlers: Mapping[str, Handler] = {
            GRANTS: self._tell_grants,
            SUBSCRIBE: self._subscribe,
            PARK: self._parking.park,
            PROGRESS: self._progress.note,
            SUBSCRIPTIONS_LIST: self._subscriptions_list,
            SUBSCRIPTIONS_REMOVE: self._subscriptions_remove,
            QUARANTINE_LIST: self._quarantine_list,
            QUARANTINE_SHOW: self._quarantine_show,
        }

    def __contains__(self, subject: str) -> bool:
        return subject in self._handlers

    async def open(self) -> None:
        """Subscribe to NATS's word on who listens. Call once, before :meth:`probe`."""
        await self._listening.open()

    def probe(self, judgment: Judgment, stamp: bytes) -> bytes:
        """Return the frame that asks NATS whether anybody listens to an accepted request.

        If nobody does, the requester is told.
        """
        assert judgment.envelope is not None
        header = judgment.envelope.header
        return self._listening.probe(Asked(header.bot, header.subject, header.nonce, stamp))

    def _tell_that_nobody_listens(self, asked: Asked) -> None:
        question = Question(asked.bot, asked.nonce, asked.stamp)
        self._tell(Answer.error(question, NOBODY_LISTENS, f"nobody listens on {asked.subject}"))

    def _tell(self, answer: Answer) -> None:
        if len(self._told) >= TOLD_WAITING:
            return
        self._told.append(answer)
        # The task looks for another answer last, and then ends without waiting. So none is left
        # behind.
        if self._telling is None or self._telling.done():
            self._telling = self._supervisor.piece("telling bots", self._tell_all())

    async def _tell_all(self) -> None:
        while self._told:
            batch = [self._told.popleft() for _ in range(min(len(self._told), MAX_BUNDLE))]
            await self._answers.give(batch)

    def serve(self, judgment: Judgment, stamp: bytes) -> None:
        """Have an accepted request served in its turn. Return at once, and raise nothing."""
        bot = judgment.arrival.session
        size = len(judgment.arrival.data)
        if not self._queue.put(bot, size, lambda: self._answer(judgment, stamp)):
            assert judgment.header is not None
            self._counters.count_busy(bot)
            what = "too many requests wait, of this bot or of all; ask again later"
            self._tell(Answer.error(Question(bot, judgment.header.nonce, stamp), BUSY, what))

    async def drain(self) -> None:
        """Wait until all requests are served, and all answers are stored."""
        await self._queue.drain()
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)

    def cancel(self) -> None:
        """Give up the requests and the answers that wait or are under way."""
        self._queue.cancel()
        if self._telling is not None:
            self._telling.cancel()

    async def _answer(self, judgment: Judgment, stamp: bytes) -> None:
        assert judgment.envelope is not None
        header = judgment.envelope.header
        bot = judgment.arrival.session
        question = Question(bot, header.nonce, stamp)
        try:
            asked = _with_integers(unpack_json(judgment.envelope.payloads[0] or b""))
            answered = await self._handlers[header.subject](bot, asked)
        except NotServed as refusal:
            answer = Answer.error(question, refusal.error, str(refusal))
        except (NatsError, OSError, TimeoutError, StreamsUnusable) as error:
            what = type(error).__name__
            self._counters.log_failed(bot, header.subject, what, is_mistake=False)
            answer = Answer.error(
                question, UNAVAILABLE, "the relay cannot reach JetStream; try again"
            )
        except Exception as error:  # noqa: BLE001  # a mistake in Sealbus, of any type
            # Only its kind: the text of a mistake may have a payload in it.
            self._counters.log_failed(bot, header.subject, kind(error), is_mistake=True)
            answer = Answer.error(
                question, NOT_SERVED, "the relay made a mistake; its log says more"
            )
        else:
            answer = Answer(question, pack_json(answered))
        await self._answers.give([answer])

    async def _tell_grants(self, bot: str, _: Any) -> Any:
        spread_ms = await self._crowd.spread_ms()
        policy = self._policy()
        if bot not in policy.bots:
            raise NotServed(f"the policy does not know {bot} any more")
        return self._grants.answer(bot, policy, self._now_ms(), spread_ms)

    async def _subscribe(self, bot: str, payload: Any) -> Any:
        """Make the consumer behind a durable subscription, if the policy grants the whole
        pattern."""
        pattern = payload["pattern"]
        durable = payload["durable"]
        start = payload["from"]
        policy = self._policy()
        rule = policy.bots.get(bot)
        # The schema checks the characters only, and not their order.
        if not is_pattern(pattern):
            raise NotServed("that is not a pattern")
        if rule is None or not rule.may_subscribe(pattern):
            raise NotGranted(f"the policy does not let {bot} subscribe to {pattern}")
        if not any(one.delivery is DeliveryClass.STREAM for one in policy.overlapping([pattern])):
            raise NotServed(
                f"{pattern} covers no stream subject, so nothing is stored of it: subscribe live"
            )
        most = policy.limits.subscriptions
        forget_s = payload.get("forget_s")
        name = await self._subscriptions.make(
            bot, pattern, durable, start, most=most, forget_s=forget_s
        )
        # The policy may have changed meanwhile, and the subscriptions without a grant may have been
        # removed before this one was there.
        rule = self._policy().bots.get(bot)
        if rule is None or not rule.may_subscribe(pattern):
            await self._subscriptions.withdraw(name)
            raise NotGranted(f"the policy does not let {bot} subscribe to {pattern}")
        return {"consumer": name, "attempts": policy.limits.attempts}

    async def _subscriptions_list(self, _: str, payload: Any) -> Any:
        offset = payload.get("offset", 0)
        limit = payload.get("limit", 50)
        return await self._subscriptions.list(payload.get("bot"), offset, limit)

    async def _subscriptions_remove(self, operator: str, payload: Any) -> Any:
        return await self._subscriptions.remove(payload["consumer"], operator)

    async def _quarantine_list(self, _: str, payload: Any) -> Any:
        return await read_records(
            self._nc,
            reason=payload.get("reason"),
            session=payload.get("bot"),
            subject=payload.get("subject"),
            before=payload.get("before"),
            limit=payload.get("limit", 50),
        )

    async def _quarantine_show(self, _: str, payload: Any) -> Any:
        found = await read_record(self._nc, payload["sequence"])
        if found is None:
            raise NotServed(f"the quarantine holds nothing at {payload['sequence']}")
        record, data = found
        offset = payload.get("offset", 0)
        chunk = base64.b64encode(data[offset : offset + CHUNK_BYTES]).decode()
        return {"record": record, "data": chunk, "size": len(data), "offset": offset}


def _with_integers(asked: dict[str, Any]) -> dict[str, Any]:
    """Return a request with its numbers as integers.

    The schemas of the bus's own subjects have integers alone, and no number in a deeper place. JSON
    Schema also takes a float without a fraction, such as 2.0, for an integer. Python writes it in
    another way, and takes it neither for an index nor for a count.

    Raises:
        NotServed: A float is more than the longest integer of a payload.
    """
    for name, value in asked.items():
        if isinstance(value, float) and value > MAX_INTEGER:
            raise NotServed(f"{name} is more than 2**53-1, the longest integer of a payload")
    return {
        name: int(value) if isinstance(value, float) else value for name, value in asked.items()
    }
