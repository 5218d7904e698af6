"""Answers in the name of ``sealbus``: the relay seals, stamps and stores them as it does a
bot's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sealbus.protocol.answer import ERROR_ID, ERROR_VERSION, error_payload
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Draft, Header, Parent, seal_envelopes
from sealbus.protocol.keys import Signer
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.protocol.streams import LIVE_PREFIX
from sealbus.protocol.subjects import RELAY, reply_subject
from sealbus.protocol.value import value
from sealbus.sending.minting import new_nonce, salted
from sealbus_broker.gate.policy import Policy, Store
from sealbus_broker.gate.shares import Shares
from sealbus_broker.relay.store.stream_store import StreamMessage, StreamStore


@value
class Question:
    """The facts of an accepted request that its answer has."""

    bot: str
    """The requester."""
    nonce: bytes
    stamp: bytes
    """The sealed stamp that accepted it."""


@value
class Answer:
    """An answer that waits to be sealed."""

    question: Question
    payload: bytes
    """Packed."""
    is_error: bool = False
    """Whether it has the schema of errors, ``sealbus.error.v1``."""

    @classmethod
    def error(cls, question: Question, error: str, message: str) -> Answer:
        """Make the answer that the request failed: a word for programs, and a sentence."""
        return cls(question, error_payload(error, message), is_error=True)


class Answers:
    """Seals the answers of a batch with one signature, and stores them."""

    def __init__(
        self,
        *,
        stream_store: StreamStore,
        policy: Callable[[], Policy],
        key: Signer,
        relay: str,
        now_ms: Callable[[], int],
        shares: Shares,
    ) -> None:
        """Prepare.

        Args:
            stream_store: Makes the attempts.
            policy: Gives the policy in force, anew for each attempt.
            key: The bus key, which seals answers and their stamps.
            relay: The relay's name, which stamps have.
            now_ms: The wall clock, in ms since 1970.
            shares: An answer takes room in LIVE, and counts against the share of the requester.
        """
        self._stream_store = stream_store
        self._policy = policy
        self._key = key
        self._relay = relay
        self._now_ms = now_ms
        self._shares = shares

    async def give(self, answers: Sequence[Answer]) -> None:
        """Store ``answers`` (at most 1,024); return when they are stored, or nobody waits for them
        any more.

        Each attempt is sealed and stamped anew, so that it is fresh when it is stored. An answer
        that comes too late is void, and its requester asks again.
        """
        waiting = list(answers)
        # Later the requester has given up: a request lives for live_ttl at most.
        until = time.monotonic() + self._policy().limits.live_ttl_ms / 1000

        async def attempt() -> str | None:
            if time.monotonic() > until:
                return None
            entries = self._entries(waiting)
            found, why = await self._stream_store.attempt(entries)
            for answer, entry, where in zip(waiting, entries, found, strict=True):
                if where is not None and not where.duplicate:
                    self._charge(answer.question.bot, len(entry.data))
            waiting[:] = [
                answer for answer, where in zip(waiting, found, strict=True) if where is None
            ]
            return why

        await self._stream_store.persist(attempt)

    def _charge(self, bot: str, size: int) -> None:
        self._shares.charge(bot, Store.LIVE, self._policy().share(Store.LIVE), size, self._now_ms())

    def _entries(self, answers: Sequence[Answer]) -> list[StreamMessage]:
        policy = self._policy()
        now_ms = self._now_ms()
        headers = [self._header(answer, policy, now_ms) for answer in answers]
        drafts = [
            Draft(header, [salted(answer.payload)], Parent(answer.question.stamp).encode())
            for header, answer in zip(headers, answers, strict=True)
        ]
        envelopes = seal_envelopes(self._key, drafts)
        verdicts = [
            Stamp(
                bus=policy.bus,
                envelope=envelope.digest,
                bot=RELAY,
                subject=header.subject,
                nonce=header.nonce,
                verdict=Verdict.ACCEPTED,
                reason=None,
                detail=None,
                policy=policy.digest,
                position=None,
                judged_at_ms=now_ms,
                relay=self._relay,
                store_by_ms=now_ms + shelf_life_ms(live=True) + policy.limits.clock_skew_ms,
            )
            for header, envelope in zip(headers, envelopes, strict=True)
        ]
        return [
            StreamMessage(
                f"{LIVE_PREFIX}.{header.subject}",
                pack_delivery(envelope.data, stamp),
                # The id that the gate gives to any answer to this request, so there is one answer.
                {"Nats-Msg-Id": f"{answer.question.nonce.hex()}>{header.subject}"},
            )
            for answer, header, envelope, stamp in zip(
                answers, headers, envelopes, seal_stamps(self._key, verdicts), strict=True
            )
        ]

    def _header(self, answer: Answer, policy: Policy, now_ms: int) -> Header:
        question = answer.question
        return Header(
            bus=policy.bus,
            bot=RELAY,
            subject=reply_subject(question.bot, question.nonce),
            nonce=new_nonce(now_ms),
            issued_at_ms=now_ms,
            ttl_ms=policy.limits.live_ttl_ms,
            schema=ERROR_ID if answer.is_error else None,
            schema_version=ERROR_VERSION if answer.is_error else None,
        )
