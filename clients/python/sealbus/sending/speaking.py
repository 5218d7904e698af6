"""Speaking: from a bot author's arguments to a message that can be sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from sealbus.arguments import check_live, check_nonce, check_ttl
from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, NotConnected, SealbusError
from sealbus.grants import Declared, KnownGrants
from sealbus.life.states import Life
from sealbus.log import log
from sealbus.outcomes import Refused, RequestFailed, Unresolved
from sealbus.own import QUESTION_TTL_MS
from sealbus.payloads import pack_payload
from sealbus.protocol.answer import ANSWER_REFUSED, ERROR_ID, ERROR_VERSION, error_payload
from sealbus.protocol.delivery import Message
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import NONCE_BYTES
from sealbus.protocol.reason import Reason
from sealbus.protocol.stamp import Stamp
from sealbus.protocol.subjects import check_subject, reply_subject, split_schema
from sealbus.sending.budget import excess
from sealbus.sending.burst import BurstItem
from sealbus.sending.publisher import Publisher
from sealbus.sending.requester import REQUEST_TIMEOUT_S, Requester
from sealbus.supervision import outcome

TTL_S: Final = 30.0
"""Life of an envelope: far longer than a verdict takes, half of a policy's default limit.
Less if the policy allows less."""

LIVE_TTL_S: Final = QUESTION_TTL_MS / 1000
"""The same for a live message, which nobody wants later."""

UNBORN: Final = bytes(NONCE_BYTES)
"""In place of a nonce that is made when its message is sent for the first time."""


class Speaker:
    """Makes messages and requests of one bot, and hands them on."""

    def __init__(
        self,
        credentials: Credentials,
        life: Life,
        *,
        publisher: Publisher,
        requester: Requester,
        known: KnownGrants,
    ) -> None:
        """
        Args:
            credentials: the bus and the bot, which stand in each header.
            life: says whether anything can be sent now.
            publisher: sends messages.
            requester: sends requests.
            known: the grants, which spare a message that would be refused.
        """
        self._credentials = credentials
        self._life = life
        self._publisher = publisher
        self._requester = requester
        self._known = known

    async def publish(
        self,
        subject: str,
        payload: Any,
        *,
        live: bool | None,
        schema: str | None,
        parent: bytes | None,
        ttl: float | None,
        nonce: bytes | None,
        alone: bool,
        timeout_s: float,
    ) -> Stamp:
        """Publish one message: see :meth:`sealbus.Bot.publish`. ``parent``: encoded."""
        check_subject(subject)
        check_live(live)
        resumed = nonce is not None
        name = check_nonce(nonce) if resumed else UNBORN
        ttl_ms = None if ttl is None else check_ttl(ttl)
        identity = (None, None) if schema is None else split_schema(schema)
        # Before the first wait, in which the author may change the payload.
        data = pack_payload(payload)
        self._life.check("publish()")
        is_live, declared = await self._known.way(subject, live, timeout_s)
        declared = await self._fit(subject, declared, data=data, parent=parent, timeout_s=timeout_s)
        header = self._header(
            subject,
            nonce=name,
            schema=identity,
            ttl_ms=self._ttl_ms(live=is_live) if ttl_ms is None else ttl_ms,
        )
        return await self._publisher.publish(
            header,
            data,
            live=is_live,
            resumed=resumed,
            timeout_s=timeout_s,
            parent=parent,
            # Requests are alone. Without a declaration it may be one.
            alone=alone or declared is None or declared.reply,
            declared=declared,
        )

    async def publish_many(
        self,
        subject: str,
        payloads: Iterable[Any],
        *,
        live: bool | None,
        schema: str | None,
        ttl: float | None,
        timeout_s: float,
    ) -> list[Stamp | SealbusError]:
        """Publish many messages: see :meth:`sealbus.Bot.publish_many`."""
        check_subject(subject)
        check_live(live)
        ttl_ms = None if ttl is None else check_ttl(ttl)
        identity = (None, None) if schema is None else split_schema(schema)
        self._life.check("publish_many()")
        is_live, declared = await self._known.way(subject, live, timeout_s)
        if declared is not None and declared.reply:
            raise InvalidInput(
                f"{subject} takes requests, and each is a message of its own",
                hint="use request(), or publish()",
            )
        header = self._header(
            subject,
            nonce=UNBORN,
            schema=identity,
            ttl_ms=self._ttl_ms(live=is_live) if ttl_ms is None else ttl_ms,
        )

        def packed(payload: Any) -> bytes | InvalidInput:
            try:
                data = pack_payload(payload)
            except InvalidInput as error:
                return error
            too_much = None if declared is None else excess(subject, declared, payload=data)
            return data if too_much is None else too_much

        return await self._publisher.publish_many(
            header,
            map(packed, payloads),
            live=is_live,
            timeout_s=timeout_s,
            # Without a declaration they may be requests, or cost much.
            alone=declared is None,
            declared=declared,
        )

    async def resume(self, unresolved: Unresolved, *, timeout_s: float) -> Stamp:
        """Find out an outcome: see :meth:`sealbus.Bot.resume`."""
        if not isinstance(unresolved, Unresolved):
            raise InvalidInput(
                f"resume() takes the Unresolved that was raised, got {type(unresolved).__name__}",
                hint="where only its nonce is left, publish the message again with nonce=...",
            )
        self._life.check("resume()")
        if not isinstance(unresolved.again, BurstItem):
            raise InvalidInput(
                "this message cannot be resumed",
                hint="its outcome cannot be found out in this process",
            )
        return await self._publisher.resume(unresolved.again, timeout_s=timeout_s)

    async def _fit(
        self,
        subject: str,
        declared: Declared | None,
        *,
        data: bytes,
        parent: bytes | None,
        timeout_s: float,
    ) -> Declared | None:
        """The subject's declaration, once the message is within it. Raises :class:`InvalidInput`
        where it is not."""
        if declared is None or excess(subject, declared, payload=data, parent=parent) is None:
            return declared
        # The policy may have changed since the bot was told.
        declared = (await self._known.renewed(timeout_s)).find(subject)
        error = None if declared is None else excess(subject, declared, payload=data, parent=parent)
        if error is not None:
            raise error
        return declared

    async def request(
        self,
        subject: str,
        payload: Any,
        *,
        schema: str | None,
        timeout_s: float,
    ) -> Message:
        """Ask once: see :meth:`sealbus.Bot.request`."""
        header, data = self.draft(subject, payload, schema)
        self._life.check("request()")
        declared = self._known.find(subject)
        if declared is not None and not declared.reply:
            declared = (await self._known.renewed(timeout_s)).find(subject)
        if declared is not None and not declared.reply:
            raise InvalidInput(
                f"{subject} takes no requests: the policy names no `reply` schema for it",
                hint="publish on it instead",
            )
        declared = await self._fit(subject, declared, data=data, parent=None, timeout_s=timeout_s)
        return await self._requester.request(header, data, timeout_s=timeout_s, declared=declared)

    async def answer(self, request: Message, handler: Callable[[Message], Awaitable[Any]]) -> None:
        """Answer ``request`` with the result of ``handler``; where there is none, say so to the
        asker.

        The asker gets the name of an exception's class and never its text, which may be anything.
        An author who wants to say more raises a :class:`RequestFailed`. One that another bot sent
        to this one is not passed on.
        """
        who = f"the request {request.id} on {request.subject}"
        data = b""

        async def work() -> None:
            nonlocal data
            data = pack_payload(await handler(request))

        error = await outcome(work())
        if isinstance(error, RequestFailed) and error.bot is None:
            log.info("%s was answered with %s", who, error.error)
            # An author may have given an exception in place of a text.
            data = error_payload(str(error.error), str(error.message))
        elif error is not None:
            log.exception(error, "the handler failed for %s; the asker is told so", who)
            data = error_payload(type(error).__name__, "the handler failed")
        await self._answer(request, data, failed=error is not None)

    async def _answer(self, request: Message, data: bytes, *, failed: bool) -> None:
        header = self._header(
            reply_subject(request.bot, request.nonce),
            nonce=UNBORN,
            schema=(ERROR_ID, ERROR_VERSION) if failed else (None, None),
            ttl_ms=self._ttl_ms(live=True),
        )
        try:
            # Later the asker has given up.
            await self._publisher.publish(
                header,
                data,
                live=True,
                resumed=False,
                timeout_s=REQUEST_TIMEOUT_S,
                parent=request.as_parent(),
            )
        except Refused as refused:
            if refused.reason is Reason.ALREADY_ANSWERED:
                log.debug("another process or bot answered first: %s", refused.what)
                return
            # Without the traceback, which shows nothing more.
            log.error("the answer was refused: %s", refused.what)
            if not failed and refused.reason in (Reason.SCHEMA, Reason.PAYLOAD, Reason.SIZE):
                await self._refuse(request, "; ".join([refused.reason.meaning, *refused.faults]))
        except Unresolved as error:
            log.error("the asker may not have got the answer: %s", error.what)  # likewise
        except InvalidInput as error:
            log.error("the answer was not sent: %s", error.what)  # likewise
            if not failed:
                await self._refuse(request, error.what)
        except NotConnected as error:
            log.error("the answer was not sent: %s", error.what)  # likewise

    async def _refuse(self, request: Message, why: str) -> None:
        """Tell the asker, who waits, that the answer of the handler was refused."""
        await self._answer(request, error_payload(ANSWER_REFUSED, why), failed=True)

    def draft(self, subject: str, payload: Any, schema: str | None = None) -> tuple[Header, bytes]:
        """The header and the packed payload of a request."""
        check_subject(subject)
        identity = (None, None) if schema is None else split_schema(schema)
        header = self._header(
            subject,
            nonce=UNBORN,
            schema=identity,
            ttl_ms=self._ttl_ms(live=True),
        )
        return header, pack_payload(payload)

    def _ttl_ms(self, *, live: bool) -> int:
        """The life of a message whose author names none."""
        usual_ms = int((LIVE_TTL_S if live else TTL_S) * 1000)
        grants = self._known.grants
        if grants is None:
            return usual_ms
        return min(usual_ms, grants.limits.live_ttl_ms if live else grants.limits.ttl_ms)

    def _header(
        self,
        subject: str,
        *,
        nonce: bytes,
        schema: tuple[str | None, int | None],
        ttl_ms: int,
    ) -> Header:
        return Header(
            bus=self._credentials.bus,
            bot=self._credentials.bot,
            subject=subject,
            nonce=nonce,
            issued_at_ms=0,  # set when it is sealed
            ttl_ms=ttl_ms,
            schema=schema[0],
            schema_version=schema[1],
        )
