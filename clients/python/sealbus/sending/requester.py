"""Asking: each request until its first verified answer is here.

How it works. A request is published like any live message, and *waits* under its nonce until one of
these ends it: an answer on ``bus.reply.<bot>.<nonce>``, a refusal, the end of its time, or the
bot's close. An answer may come before the verdict: it carries the accepting stamp, which then
serves as the receipt. A lost connection changes nothing here; the publisher sends the request again
under its nonce, and the bus accepts one attempt.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sealbus.credentials import Credentials
from sealbus.errors import Malformed, SealbusError
from sealbus.grants import Declared
from sealbus.outcomes import NoReply, RequestFailed
from sealbus.own import OWN
from sealbus.protocol.answer import ERROR_SCHEMA, NOBODY_LISTENS, read_error
from sealbus.protocol.delivery import Message
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import LIVE_NONCE_LIFE_MS
from sealbus.protocol.seal import Verifier
from sealbus.protocol.subjects import BUS, RELAY, is_own, nonce_in
from sealbus.receiving.verifier import DeliveryVerifier
from sealbus.sending.matching import check_answer
from sealbus.sending.publisher import Publisher
from sealbus.trust import Trust

REQUEST_TIMEOUT_S: Final = 5.0
"""A handler's time to answer by default, and how long a request to the bus itself may take."""


class Requester:
    """Sends requests, and matches the answers to them."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        publisher: Publisher,
        opener: DeliveryVerifier,
        verifier: Verifier,
        trust: Trust | None = None,
    ) -> None:
        """
        Args:
            credentials: the bus and its keys, which an answer must be sealed by.
            publisher: sends requests, and takes the stamp in an answer as a receipt.
            opener: opens answers, and counts those that are not believed.
            verifier: remembers seals that held. A request's stamp comes again in its answer.
            trust: has the keys of the bus. ``None``: those of the credentials.
        """
        self._trust = trust or Trust.of(credentials)
        self._publisher = publisher
        self._opener = opener
        self._verifier = verifier
        self._waiting: dict[bytes, tuple[Header, asyncio.Future[Message]]] = {}
        """The header and the answer of each request that waits, by its nonce."""

    async def request(
        self, header: Header, payload: bytes, *, timeout_s: float, declared: Declared | None = None
    ) -> Message:
        """Publish a request and return the first answer, verified.

        ``timeout_s`` counts from when it is sent; before that it may have to wait for its turn
        under the rate of its subject, which ``declared`` tells.

        Raises :class:`Refused`, :class:`Unresolved` if there is no verdict in time, or
        :class:`NoReply` if the request was accepted and no answer came.
        """
        loop = asyncio.get_running_loop()
        declared = declared or OWN.get(header.subject)  # which no policy declares
        answer: asyncio.Future[Message] = loop.create_future()
        ends = loop.time() + timeout_s
        nonce = b""

        def on_named(sent: Header) -> None:
            nonlocal ends, nonce
            # Sent for the first time. A request that only gets another nonce gets no more time.
            if self._waiting.pop(nonce, None) is None:
                ends = loop.time() + timeout_s
            nonce = sent.nonce
            self._waiting[nonce] = sent, answer

        try:
            await self._publisher.publish(
                header,
                payload,
                live=True,
                resumed=False,
                # The verdict cannot take longer than a nonce lives. The answer may.
                timeout_s=min(timeout_s, LIVE_NONCE_LIFE_MS / 1000),
                declared=declared,
                on_named=on_named,
            )
            async with asyncio.timeout_at(ends):
                return await answer
        except TimeoutError:
            raise NoReply(
                f"nobody answered on {header.subject} within {timeout_s:g} s",
                hint=self._opener.clock.told or _who_answers(header.subject),
            ) from None
        finally:
            self._waiting.pop(nonce, None)
            if answer.done() and not answer.cancelled():
                # asyncio reports an exception that nobody looks at. abandon() may have set this one
                # while the verdict was still waited for.
                answer.exception()

    def answers(self) -> list[asyncio.Future[Message]]:
        """The answers that callers of :meth:`request` wait for."""
        return [answer for _, answer in self._waiting.values() if not answer.done()]

    def abandon(self) -> None:
        """Wait for no answer any more: the bot is closed."""
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(NoReply("the bot was closed before an answer came"))

    def receive(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        """Take an answer on ``bus.reply.<bot>.<nonce>`` if it is one to a request that waits."""
        nonce = nonce_in(subject)
        waiting = self._waiting.get(nonce) if nonce is not None else None
        if waiting is None or waiting[1].done():
            return
        # Only now: whatever nobody waits for must cost no check of a signature.
        opened = self._opener.open(subject, data, BUS)
        if not opened or self._opener.is_late_live(opened[0]):
            return
        message = opened[0]
        # A verified message proves only that the bus accepted it on this subject. Whether it
        # answers this request is in its parent, which check_answer() looks at.
        request, answer = waiting
        try:
            accepted = check_answer(
                message,
                request,
                bus_keys=self._trust.keys,
                verifier=self._verifier,
            )
        except Malformed as error:
            self._opener.refuse(error.what)
        else:
            # The request's own receipt may be lost, or still on its way.
            self._publisher.take(accepted)
            if message.envelope.header.schema_name == ERROR_SCHEMA:
                answer.set_exception(_failure(message, request.subject))
            else:
                answer.set_result(message)


def _who_answers(subject: str) -> str:
    """The hint where nobody answers on ``subject``."""
    if is_own(subject):
        return "is a relay running? `sealbus ping` tells"
    return "is a bot that replies on it connected?"


def _failure(message: Message, subject: str) -> SealbusError:
    """The error that the asker gets in place of an answer."""
    error, text = read_error(message.payload)
    if message.bot == RELAY and error == NOBODY_LISTENS:
        return NoReply(
            f"nobody listens on {subject}",
            hint=_who_answers(subject),
        )
    return RequestFailed(text, error=error, bot=message.bot, subject=subject)
