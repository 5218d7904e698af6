"""A bot on the bus, as its author uses it. :mod:`sealbus.presence` has its connecting, running and
closing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from sealbus.arguments import (
    check_attempts,
    check_concurrency,
    check_forget,
    check_handler,
    check_place,
    check_seconds,
    check_start,
    check_verify,
)
from sealbus.errors import InvalidInput, SealbusError
from sealbus.life.states import Stopped
from sealbus.outcomes import Unresolved
from sealbus.presence import Presence
from sealbus.protocol.delivery import Message
from sealbus.protocol.stamp import Stamp
from sealbus.protocol.subjects import (
    check_durable,
    check_pattern,
)
from sealbus.receiving.messages import Messages
from sealbus.receiving.serving import H, Handled, Subscription
from sealbus.sending.requester import REQUEST_TIMEOUT_S

PUBLISH_TIMEOUT_S: Final = 30.0
"""A verdict takes milliseconds; a relay that takes over from a dead one, seconds."""


class Bot(Presence):
    """One bot's presence on the bus. Use it only in the event loop in which it connects. It is not
    safe across threads, but :meth:`stop` may be called from any.

    Either run it by its handlers (:meth:`run`), or open it as a context and call its methods::

        async with Bot.from_environment() as bot:
            await bot.publish("orders.placed", {"order_id": "ord-000001"})

    :attr:`state` says where it is in its life. Before :meth:`connect` and after :meth:`close` a
    call that needs the bus raises :class:`NotConnected` at once. A closed bot stays closed. The
    logger ``sealbus`` has one line for each change: connected, lost, connected again, closed. It
    has the cause of failed attempts, at most once in five seconds where that stays the same.
    """

    # ---- speaking --------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: Any,
        *,
        live: bool | None = None,
        schema: str | None = None,
        parent: Message | None = None,
        include_parent: bool = False,
        ttl: float | None = None,
        nonce: bytes | None = None,
        alone: bool = False,
        # It has an error of its own.
        timeout: float = PUBLISH_TIMEOUT_S,  # noqa: ASYNC109
    ) -> Stamp:
        """Publish ``payload`` and return when the relay has accepted it.

        Where the subject has a rate, the message waits for its turn first. So any number may be
        published at once. One is refused for its rate only if other processes of the bot use the
        rate up until ``timeout``, or if the policy gets a smaller ``burst`` meanwhile. Messages on
        one subject that are published in the same turn of the event loop share an envelope. Each
        has its own verdict.

        Args:
            subject: where to publish, such as ``"orders.placed"``.
            payload: the value: see ``docs/bots.md`` for the types that it may be made of.
            live: whether the policy declares the subject as live. The bus tells, so it need not be
                said.
            schema: such as ``"orders.placed.v1"``; by default the subject's first.
            parent: the message that this one follows from.
            include_parent: whether the parent's payload travels along, in its envelope without the
                other payloads. A cause rule with ``match`` needs it.
            ttl: life of the envelope in seconds. By default it is 30, or 5 on a live subject, or
                less if the policy allows less.
            nonce: 16 bytes. It is the one in an earlier :class:`Unresolved`, to find out the
                outcome of the same message. That error says how long it is safe. Or it is of
                :func:`sealbus.new_nonce`, made just before.
            alone: whether the message has an envelope of its own. Subscribers that share a
                subscription get whole envelopes, so long work is shared out better alone.
            timeout: seconds to wait for a verdict, from when the message is sent: at most 120, or
                30 on a live subject.

        Returns:
            The stamp, which is the relay's sealed word that it accepted the message.

        Raises:
            Refused: the relay's verdict, with its reason.
            Unresolved: there was no verdict in time, or none that can be believed.
            InvalidInput: an argument or the payload cannot be used; nothing was sent.
            NotConnected: the bot is not connected; nothing was sent.
        """
        return await self._speaker.publish(
            subject,
            payload,
            live=live,
            schema=schema,
            parent=_encoded_parent(parent, include_parent),
            ttl=ttl,
            nonce=nonce,
            alone=alone,
            timeout_s=check_seconds("timeout", timeout),
        )

    async def publish_many(
        self,
        subject: str,
        payloads: Iterable[Any],
        *,
        live: bool | None = None,
        schema: str | None = None,
        ttl: float | None = None,
        # Each message has an error of its own.
        timeout: float = PUBLISH_TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[Stamp | SealbusError]:
        """Publish ``payloads`` on one subject, up to 256 in an envelope, and return the outcome of
        each, in order.

        Each outcome is the relay's stamp, or the error that :meth:`publish` would have raised:
        :class:`Refused`, :class:`Unresolved` or :class:`InvalidInput`. One bad payload harms no
        other. A generator is read only as fast as the relay gives verdicts. If the bot is closed
        meanwhile, no more payloads are read, and the list ends there: its last outcome is
        :class:`NotConnected`.

        Args:
            subject: where to publish. Not a subject that takes requests.
            payloads: the values, as many as there are.
            live: see :meth:`publish`, like the other arguments.
            schema: for all of them.
            ttl: life of the envelopes in seconds.
            timeout: seconds to wait for the verdict on each message, from when it is sent.

        Raises:
            InvalidInput: an argument cannot be used; nothing was sent.
            NotConnected: the bot is not connected; nothing was sent.

        An error that ``payloads`` raises is raised. Earlier messages may have been sent by then.
        """
        return await self._speaker.publish_many(
            subject,
            payloads,
            live=live,
            schema=schema,
            ttl=ttl,
            timeout_s=check_seconds("timeout", timeout),
        )

    async def resume(
        self,
        unresolved: Unresolved,
        *,
        # It has an error of its own.
        timeout: float = PUBLISH_TIMEOUT_S,  # noqa: ASYNC109
    ) -> Stamp:
        """Find out the outcome of a message that :meth:`publish` or :meth:`publish_many` left
        unresolved.

        It is sent again under its nonce, which makes it no second message. See
        :class:`Unresolved` for how long that is possible.

        Args:
            unresolved: the error.
            timeout: seconds to wait for the verdict. The wait ends with the life of the nonce.

        Returns:
            The stamp, if it is accepted now or was before.

        Raises:
            Refused: the relay's verdict, with its reason.
            Unresolved: there was no verdict in time.
            InvalidInput: the message is too old, cannot be resumed, or is being resumed already.
                Or it was never sent, and the timeout is longer than a nonce lives. Nothing was
                sent.
            NotConnected: the bot is not connected; nothing was sent.
        """
        return await self._speaker.resume(unresolved, timeout_s=check_seconds("timeout", timeout))

    async def request(
        self,
        subject: str,
        payload: Any,
        *,
        schema: str | None = None,
        # It has an error of its own.
        timeout: float = REQUEST_TIMEOUT_S,  # noqa: ASYNC109
    ) -> Message:
        """Ask on a live subject and return the first answer.

        Args:
            subject: where to ask. The policy names a ``reply`` schema for it.
            payload: the question.
            schema: such as ``"stock.check.v1"``; by default the subject's first.
            timeout: seconds to wait for the answer, from when the request is sent.

        Returns:
            The answer, verified.

        Raises:
            RequestFailed: the other bot answered that it failed.
            NoReply: nobody listens, which is known at once; or no answer came in time.
            Refused: the relay refused the request.
            Unresolved: there was no verdict on the request in time, or none that can be believed.
            InvalidInput: an argument or the payload cannot be used; nothing was sent.
            NotConnected: the bot is not connected; nothing was sent.
        """
        return await self._speaker.request(
            subject,
            payload,
            schema=schema,
            timeout_s=check_seconds("timeout", timeout),
        )

    # ---- listening -------------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str,
        *,
        live: bool | None = None,
        durable: str = "default",
        start: str = "new",
        concurrency: int = 1,
        attempts: int | None = None,
        verify: str = "bus",
    ) -> Callable[[H], H]:
        """Decorate ``async def handler(message)`` to be called with each message that ``pattern``
        stands for.

        By default the subscription is durable: each message comes at least once, also messages that
        were accepted while the bot was away. A message is done when the handler returns. When the
        handler raises, the message is delivered again, later each time, while the others go on.
        After the last attempt it is parked in the quarantine as ``undeliverable``.

        A handler that is registered while the bot is connected gets messages once a relay has
        answered. There is no deadline: the bot asks until then, with a line in the log for each
        question without an answer, and :meth:`stop` or :meth:`close` ends it.

        Args:
            pattern: a subject, with ``*`` for one token or a final ``>`` for one or more.
            live: listen to messages as they pass by instead, at most once. On live subjects that is
                the only way, and need not be said: the bus tells. A pattern that covers subjects of
                both kinds gets the stored ones.
            durable: name of the place that is remembered. Processes of the bot that use one name
                share the messages, envelope by envelope. An envelope has up to 256 messages that
                were published together, and all of them wait for the process that has it, also
                while another is idle. Senders publish long work with ``alone=True``.
            start: ``"new"`` begins with new messages, ``"all"`` with the oldest one that is
                stored. It counts only when the durable name is used for the first time.
            concurrency: handlers at once, in this process. With 1, and in one process, messages
                come in their order. The exceptions are messages that failed, a crash, a lost
                connection, a nats-server that stops or dies, and a node of a cluster that loses the
                lead (``docs/bots.md``, Receiving).
            attempts: how often a failing message is tried, if less often than the policy says
                (``limits.attempts``).
            verify: ``"sender"`` takes only messages of senders whose keys the credentials pin
                (:mod:`sealbus.pins`). Messages of a pinned sender are verified in either case.

        Raises:
            InvalidInput: an argument cannot be used, ``verify="sender"`` has no pins, another
                handler or loop has the pattern under the same durable name, or the bot has too many
                subscriptions. Before the bot is connected, :meth:`connect` raises this for handlers
                that may be live.
            NotConnected: the bot is closing or closed, or this is another event loop.
        """
        check_pattern(pattern)
        check_start(start)
        check_durable(durable)
        check_place(live=live, durable=durable, start=start, attempts=attempts)
        check_concurrency(concurrency)
        check_attempts(attempts)
        check_verify(verify)

        def register(handler: H) -> H:
            check_handler(handler)
            place = None if live else durable
            undecided = live is None
            self._handle(
                Handled(
                    handler=handler,
                    pattern=pattern,
                    durable=place,
                    start=start,
                    concurrency=concurrency,
                    attempts=attempts,
                    undecided=undecided,
                    verify=verify,
                )
            )
            return handler

        return register

    def reply(self, pattern: str, *, concurrency: int = 64) -> Callable[[H], H]:
        """Decorate ``async def handler(message) -> payload`` to answer requests on a live subject.

        Of several processes of this bot, one answers. If the handler raises, ``request()`` of the
        asker raises :class:`RequestFailed`, and its ``error`` is the name of the exception's class.
        To say more, raise ``RequestFailed("no such sku")``. If the answer is too large, or is
        refused because of its payload, ``error`` is ``answer-refused``.

        Args:
            pattern: the subject of the requests, or a pattern of subjects.
            concurrency: handlers at once.

        Raises:
            InvalidInput: an argument cannot be used, another reply handler of this bot has the
                pattern, or the bot has too many subscriptions.
            NotConnected: the bot is closing or closed, or this is another event loop.
        """
        check_pattern(pattern)
        check_concurrency(concurrency)

        def register(handler: H) -> H:
            check_handler(handler)

            async def answer(message: Message) -> None:
                await self._speaker.answer(message, handler)

            self._handle(
                Handled(
                    handler=answer,
                    pattern=pattern,
                    durable=None,
                    start="new",
                    concurrency=concurrency,
                    # In another bot's group it would take that bot's requests away.
                    queue=self.name,
                )
            )
            return handler

        return register

    def messages(
        self,
        pattern: str,
        *,
        live: bool | None = None,
        durable: str = "default",
        start: str = "new",
        attempts: int | None = None,
        forget_s: int | None = None,
        verify: str = "bus",
    ) -> Messages:
        """Iterate over messages, one at a time::

            async with bot.messages("orders.placed") as messages:
                async for message in messages:
                    ...

        A message is done when the next one is asked for, or when the block is left other than by an
        exception. :class:`~sealbus.receiving.messages.Messages` says more. Entering the block
        raises :class:`SubscriptionDenied` where the policy does not grant the subscription. It
        raises :class:`InvalidInput` if a handler or another loop of this bot has the pattern under
        the same durable name, because each message would go to one of the two. The name is free
        again when the block is left.

        Entering the block takes until a relay has answered, however long that is. The bot's stop
        ends the wait, and the loop then has no message. A deadline for it is::

            async with asyncio.timeout(10) as limit, bot.messages("orders.placed") as messages:
                limit.reschedule(None)  # it has begun
                async for message in messages:
                    ...

        Args:
            pattern: as for :meth:`subscribe`, like the four arguments that follow.
            live: as above.
            durable: as above.
            start: as above.
            attempts: as above.
            forget_s: seconds without use after which the bus forgets the place, which suits a
                durable name that is used once. By default the bus keeps the place.
            verify: as for :meth:`subscribe`.

        Raises:
            InvalidInput: an argument cannot be used. When the block begins, ``verify="sender"``
                without pins raises it too.
            NotConnected: the bot is not connected when the block begins.
        """
        check_pattern(pattern)
        check_start(start)
        check_durable(durable)
        check_place(live=live, durable=durable, start=start, attempts=attempts)
        check_attempts(attempts)
        check_forget(forget_s)
        check_verify(verify)
        place = None if live else durable
        wanted = Handled(
            handler=_no_handler,
            pattern=pattern,
            durable=place,
            start=start,
            concurrency=1,
            raises=True,
            attempts=attempts,
            forget_s=forget_s,
            undecided=live is None,
            verify=verify,
        )

        @contextlib.asynccontextmanager
        async def subscribed() -> AsyncIterator[Subscription | None]:
            self._life.check_receiving("messages()")
            try:
                yield await self._subscribed(wanted)
            finally:
                self._listener.release(wanted)

        return Messages(subscribed, self._life)

    async def _subscribed(self, wanted: Handled) -> Subscription | None:
        """The subscription of a loop; ``None`` if the bot was told to stop meanwhile."""
        try:
            return await self._life.unless_stopped(self._listener.subscribe(wanted))
        except Stopped:
            return None


async def _no_handler(_: Message) -> None:
    """In place of a handler where the caller iterates."""


def _encoded_parent(parent: Message | None, include_parent: bool) -> bytes | None:
    if parent is None:
        if include_parent:
            raise InvalidInput(
                "include_parent=True needs a parent",
                hint="pass the message that this one follows from",
            )
        return None
    if not isinstance(parent, Message):
        raise InvalidInput(f"parent must be a Message, got {type(parent).__name__}")
    return parent.as_parent(with_envelope=include_parent)
