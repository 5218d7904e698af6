"""The bus's own subjects (``sealbus.…``), which the relay answers itself.

A request comes through the gate like any message: sealed, granted, schema-valid, its nonce burned. The answer is a message too: sealed
and stamped with the bus's key, in the name of ``sealbus``, on the requester's reply subject.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
from nats.errors import Error as NatsError

from sealbus.answer import ERROR_ID, ERROR_VERSION, NOBODY_LISTENS, NOT_SERVED, UNAVAILABLE, error_payload
from sealbus.codec import pack_json, unpack_json
from sealbus.delivery import pack_delivery
from sealbus.envelope import Envelope, Header, Parent, seal_envelopes
from sealbus.hardened import HardenedClient
from sealbus.keys import SigningKey
from sealbus.limits import NONCE_BYTES
from sealbus.stamp import Stamp, Verdict, seal_stamps
from sealbus.subjects import RELAY, is_pattern, overlap, reply_subject
from sealbus_broker.gate.policy import Delivery, Policy
from sealbus_broker.gate.verdict import Judgment
from sealbus_broker.relay.consumers import make_consumer
from sealbus_broker.relay.grants import Grants
from sealbus_broker.relay.journal import Entry, Journal
from sealbus_broker.relay.listening import Asked, Listening
from sealbus_broker.relay.quarantine_reader import read_record, read_records

log = structlog.get_logger(__name__)

GRANTS: Final = "sealbus.grants"
SUBSCRIBE: Final = "sealbus.subscribe"
QUARANTINE_LIST: Final = "sealbus.quarantine.list"
QUARANTINE_SHOW: Final = "sealbus.quarantine.show"

CHUNK_BYTES: Final = 192 * 1024
"""Of a quarantined message's bytes in one answer: 256 KiB in base64, well inside an envelope."""

_BUSY: Final = 64
"""Requests served at once; a flood beyond it waits for nothing and is not answered, which bounds the relay's memory."""

Handler = Callable[[str, Any], Awaitable[Any]]


class NotServed(Exception):
    """A request that cannot be served; its text goes to the requester as the message of a ``sealbus.error.v1``."""


class Services:
    """Answers requests on the bus's own subjects."""

    def __init__(
        self,
        nc: HardenedClient,
        journal: Journal,
        policy: Callable[[], Policy],
        key: SigningKey,
        relay: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._nc = nc
        self._journal = journal
        self._policy = policy
        self._key = key
        self._relay = relay
        self._now_ms = now_ms
        self._grants = Grants(relay)
        self._listening = Listening(nc, self._tell_that_nobody_listens)
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[str, Handler] = {
            GRANTS: self._tell_grants,
            SUBSCRIBE: self._subscribe,
            QUARANTINE_LIST: self._quarantine_list,
            QUARANTINE_SHOW: self._quarantine_show,
        }

    def __contains__(self, subject: str) -> bool:
        return subject in self._handlers

    async def open(self) -> None:
        """Get ready to learn who listens. Call once, before :meth:`probe`."""
        await self._listening.open()

    def probe(self, judgment: Judgment, stamp: bytes) -> bytes:
        """The frame that finds out whether anybody listens to an accepted request; if not, the requester is told."""
        assert judgment.envelope is not None
        header = judgment.envelope.header
        return self._listening.probe(Asked(header.bot, header.subject, header.nonce, stamp))

    def _tell_that_nobody_listens(self, asked: Asked) -> None:
        if len(self._tasks) < _BUSY:  # beyond that the requester learns it by its own deadline
            what = f"nobody listens on {asked.subject}"
            self._start(self.fail(asked.bot, asked.nonce, asked.stamp, NOBODY_LISTENS, what))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def serve(self, judgment: Judgment, stamp: bytes) -> None:
        """Start answering an accepted request. Returns at once; never raises."""
        if len(self._tasks) >= _BUSY:
            log.warning("service.busy", bot=judgment.arrival.session)
            return
        self._start(self._answer(judgment, stamp))

    async def drain(self) -> None:
        """Wait for the answers under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cancel(self) -> None:
        """Give up the answers under way."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, judgment: Judgment, stamp: bytes) -> None:
        assert judgment.envelope is not None
        header, bot = judgment.envelope.header, judgment.arrival.session
        try:
            answer = await self._handlers[header.subject](bot, unpack_json(judgment.envelope.payload))
        except NotServed as refusal:
            await self.fail(bot, header.nonce, stamp, NOT_SERVED, str(refusal))
        except (NatsError, OSError, TimeoutError) as error:
            log.warning("service.failed", subject=header.subject, bot=bot, error=type(error).__name__)
            await self.fail(bot, header.nonce, stamp, UNAVAILABLE, "the relay cannot reach JetStream; try again")
        else:
            await self._reply(bot, header.nonce, stamp, pack_json(answer))

    async def fail(self, requester: str, request: bytes, stamp: bytes, error: str, message: str) -> None:
        """Tell ``requester`` that the request with the nonce ``request``, which was accepted with ``stamp``, failed."""
        await self._reply(requester, request, stamp, error_payload(error, message), (ERROR_ID, ERROR_VERSION))

    async def _reply(
        self,
        requester: str,
        request: bytes,
        stamp: bytes,
        payload: bytes,
        schema: tuple[str | None, int | None] = (None, None),
    ) -> None:
        policy, now_ms = self._policy(), self._now_ms()
        subject = reply_subject(requester, request)
        header = Header(
            bus=policy.bus,
            bot=RELAY,
            subject=subject,
            nonce=os.urandom(NONCE_BYTES),
            issued_at_ms=now_ms,
            ttl_ms=policy.limits.live_ttl_ms,
            schema=schema[0],
            schema_version=schema[1],
            parent=Parent(stamp).encode(),
        )
        (envelope,) = seal_envelopes(self._key, [(header, payload)])
        verdict = Stamp(
            bus=policy.bus,
            envelope=Envelope.decode(envelope).digest,
            bot=RELAY,
            subject=subject,
            nonce=header.nonce,
            verdict=Verdict.ACCEPTED,
            reason=None,
            detail=None,
            policy=policy.digest,
            position=None,
            judged_at_ms=now_ms,
            relay=self._relay,
        )
        (sealed,) = seal_stamps(self._key, [verdict])
        ledger_id = f"{request.hex()}>{subject}"
        await self._journal.store(
            [Entry(f"live.{subject}", pack_delivery(envelope, sealed), {"Nats-Msg-Id": ledger_id})]
        )

    async def _tell_grants(self, bot: str, _: Any) -> Any:
        policy = self._policy()
        if bot not in policy.bots:
            raise NotServed(f"the policy does not know {bot} any more")
        return self._grants.answer(bot, policy, self._now_ms())

    async def _subscribe(self, bot: str, payload: Any) -> Any:
        """Make the JetStream consumer behind a durable subscription, if the bot may receive all that the pattern stands for."""
        pattern, durable, start = payload["pattern"], payload["durable"], payload["from"]
        policy = self._policy()
        rule = policy.bots.get(bot)
        if not is_pattern(pattern):
            raise NotServed("that is not a pattern")
        if rule is None or not rule.may_subscribe(pattern):
            raise NotServed(f"the policy does not let {bot} subscribe to {pattern}")
        if not any(rule.delivery is Delivery.STREAM and overlap(rule.pattern, pattern) for rule in policy.subjects):
            raise NotServed(f"{pattern} covers no stream subject, so nothing is stored of it: subscribe live")
        name = await make_consumer(self._nc, bot, pattern, durable, start)
        if name is None:
            raise NotServed("JetStream refused the consumer; the relay's log says why")
        return {"consumer": name}

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
