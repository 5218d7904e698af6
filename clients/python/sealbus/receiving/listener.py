"""A bot's subscriptions: made, kept over every connection, and reported when the bus denies one.

How it works. A handler is *registered* (:meth:`Listener.register`), and later *subscribed*
(:meth:`Listener.subscribe`). A handler that is registered before the bot connects is subscribed
with the first session, which asks for the rights of all of them at once.

* **Live** subscriptions need no relay. Every new connection attaches all of them
  (:meth:`Listener.attach`), before it is used. One that is made later attaches itself, to the
  connection in use and to one that a renewal is just making.
* **Durable** subscriptions have a consumer, which a relay makes (``sealbus.subscribe``), and which
  a session must be allowed to use: so a new one renews the session.
* **Undecided** ones are those whose author did not say ``live``. The grants tell which they are
  (``_decide``). Only then can two handlers of one pattern be refused.

A durable subscription has a *place* in the stream, and whoever uses it takes messages from all
others who do. So in one bot a handler has its place for good, and a loop has it until its block is
left (:meth:`Listener.release`). Nobody else gets it meanwhile.

A grant can be taken away. nats-server refuses a live subscription with the next session
(:meth:`deny`), and a relay refuses to make a consumer again that it has deleted. Whoever iterates
over messages gets the error. A handler's subscription is asked for again if there is a hook for it,
and ends the bot's ``run()`` otherwise.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from nats.errors import Error as NatsError

from sealbus.arguments import check_place
from sealbus.asking import Insistence
from sealbus.errors import InvalidInput, SealbusError, SubscriptionDenied
from sealbus.grants import Grants, KnownGrants
from sealbus.life.session import Session
from sealbus.life.states import BotState, Life
from sealbus.log import log
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import shortly
from sealbus.outcomes import NoReply, Refused, RequestFailed, Unresolved
from sealbus.own import PARK, PROGRESS, SUBSCRIBE
from sealbus.protocol.answer import ASK_AGAIN, BUSY_PAUSE_S, NOT_GRANTED
from sealbus.protocol.envelope import Header
from sealbus.protocol.limits import MAX_LIVE_SUBSCRIPTIONS
from sealbus.protocol.subjects import consumer_name
from sealbus.receiving.attempts import DEFAULT_ATTEMPTS
from sealbus.receiving.live import LiveSubscription
from sealbus.receiving.place import Note, RememberedPlace
from sealbus.receiving.serving import Handled, Subscription
from sealbus.receiving.subscription import DurableSubscription
from sealbus.receiving.verifier import DeliveryVerifier
from sealbus.sending.requester import REQUEST_TIMEOUT_S, Requester
from sealbus.supervision import Supervisor
from sealbus.waiting import undisturbed

SUBSCRIBE_AGAIN_S: Final = 0.1
"""Pause before a live subscription is tried on the next connection."""

REMAKE_S: Final = 10.0
"""How long a relay may take to make a consumer again. Then the consumer is tried once more."""

DENIED_AGAIN_S: Final = 60.0
"""Pause before a durable subscription whose grant was taken away is asked for again, unless the bus
tells of another policy before."""

_DENIED_HINT: Final = (
    "ask the bus's operators for a `subscribe` grant that covers the whole pattern"
)

Draft = Callable[[str, Any], tuple[Header, bytes]]
"""Makes the header and the payload of a request to the bus."""


class Listener:
    """Everything that one bot listens to."""

    def __init__(
        self,
        name: str,
        life: Life,
        *,
        session: Session,
        opener: DeliveryVerifier,
        requester: Requester,
        draft: Draft,
        known: KnownGrants,
        supervisor: Supervisor,
        on_denied: Callable[[SubscriptionDenied], bool],
    ) -> None:
        """Nothing is asked for before :meth:`subscribe`.

        Args:
            name: the bot's.
            life: says whether the bot has connected yet.
            session: gives the connections, and keeps the consumers that each asks for.
            opener: opens deliveries.
            requester: sends the requests to the bus itself.
            draft: makes these requests.
            known: the grants, which tell a live pattern from a stored one.
            supervisor: answers for the subscriptions' background work.
            on_denied: tells of a subscription whose grant is gone. Returns whether a hook took it.
        """
        self._name = name
        self._life = life
        self._session = session
        self._opener = opener
        self._requester = requester
        self._draft = draft
        self._known = known
        self._supervisor = supervisor
        self._on_denied = on_denied
        self._taken: dict[tuple[str, str | None, str], Handled] = {}
        """Whoever has a place, by its pattern, durable name and queue group."""
        self._live: list[LiveSubscription] = []
        """Live subscriptions of handlers and of loops. Closed ones are dropped when one is
        added."""
        self._newest: HardenedClient | None = None
        """The newest connection. During a renewal it is attached, and not yet in use."""
        self.handlers: list[Handled] = []
        """In the order in which they were registered."""
        self.denied: Counter[str] = Counter()
        """How often a subscription was denied, by its pattern."""
        self.refused: Refused | None = None
        """The last refusal of a question for a subscription, on this session. ``None``: the last
        question was not refused."""

    # ---- registering -----------------------------------------------------------------------------

    def register(self, handled: Handled) -> None:
        """Remember a handler. Before the bot connects, the first session asks for its rights.

        Raises :class:`InvalidInput` for a place that another handler or a loop has, for more
        subscriptions than a session may have, and for one of pinned senders without pins. Two
        handlers that may both turn out to be live share nothing then. If they are durable,
        :meth:`subscribe` refuses the second one.
        """
        self._opener_of(handled)
        grants = self._known.grants
        if handled.undecided and grants is not None and self._life.state is not BotState.NEW:
            self._decide(handled, grants)
        owner = self._taken.get(handled.place)
        if owner is None or not (owner.may_be_live and handled.may_be_live):
            self._check_free(handled)
        if handled.durable is None:
            self._check_live()
        if self._life.state is BotState.NEW:
            if handled.durable is None:
                handled.live = self._make_live(handled)
            else:
                self._session.want_consumer(self._consumer(handled, handled.durable))
        self._taken.setdefault(handled.place, handled)
        self.handlers.append(handled)

    def release(self, loop: Handled) -> None:
        """Let others have the place of a loop that has ended. Does nothing if it has none."""
        if self._taken.get(loop.place) is loop:
            del self._taken[loop.place]
            if loop.durable is not None:
                self._session.release_consumer(self._consumer(loop, loop.durable))

    def _check_free(self, handled: Handled) -> None:
        """Raise :class:`InvalidInput` if ``handled`` would share messages with somebody."""
        owner = self._taken.get(handled.place) if handled.shares else None
        if owner is None or owner is handled:
            return
        kind = "a loop over messages()" if owner.raises else "a handler"
        first = "end that loop first" if owner.raises else "use one handler with concurrency=n"
        durable = handled.durable
        named = "" if durable is None else f" with durable={durable!r}"
        raise InvalidInput(
            f"{self._name} has {kind} for {handled.pattern} already{named}, and both would share "
            "its messages",
            hint=first if durable is None else f"{first}, or give each a durable name of its own",
        )

    def _check_live(self) -> None:
        self._live = [live for live in self._live if not live.closed]
        if len(self._live) >= MAX_LIVE_SUBSCRIPTIONS:
            raise InvalidInput(
                f"more than {MAX_LIVE_SUBSCRIPTIONS} live subscriptions",
                hint="use fewer and wider patterns, or another bot for the rest",
            )

    def _consumer(self, handled: Handled, durable: str) -> str:
        return consumer_name(self._name, handled.pattern, durable)

    def _opener_of(self, handled: Handled) -> DeliveryVerifier:
        return self._opener if handled.verify == "bus" else self._opener.demanding()

    def _make_live(self, handled: Handled) -> LiveSubscription:
        live = LiveSubscription(
            opener=self._opener_of(handled),
            supervisor=self._supervisor,
            pattern=handled.pattern,
            queue=handled.queue,
        )
        self._live.append(live)
        return live

    # ---- subscribing -----------------------------------------------------------------------------

    async def attach(self, client: HardenedClient) -> None:
        """Subscribe everything that is live on a new connection."""
        self._newest = client
        self.refused = None
        for subscription in self._live:
            if not subscription.closed:
                await subscription.attach(client)

    async def subscribe(self, handled: Handled) -> Subscription:
        """The subscription of a handler, or of a loop, which has its place from now on.

        Takes as long as the bus takes to answer. Whoever calls sets a deadline, or stops the bot.
        Raises :class:`SubscriptionDenied` where the policy does not grant it, and
        :class:`InvalidInput` where somebody has its place.
        """
        if handled.undecided:
            self._decide(handled, await self._known.get())
        if handled.live is not None:
            return self._granted(handled.live)
        if handled.durable is None:
            return await self._subscribe_live(handled)
        return await self._subscribe_durable(handled, handled.durable)

    def _decide(self, handled: Handled, grants: Grants) -> None:
        """Make it live if all subjects of its pattern are. Otherwise a handler has its place from
        now on.

        Raises :class:`InvalidInput` for a place that somebody has, or for options that a live
        subscription cannot have. It stays undecided then.
        """
        # Unknown (None) counts as stored: then the relay decides, and gives the reason.
        if handled.durable is not None and grants.is_live(handled.pattern):
            try:
                check_place(
                    live=True,
                    durable=handled.durable,
                    start=handled.start,
                    attempts=handled.attempts,
                )
            except InvalidInput as error:
                # Its author did not say that it is live.
                what = f"{error.what}, and the policy declares {handled.pattern} as live"
                raise InvalidInput(what, hint=error.hint) from None
            # The first session may have asked for it. The next one need not.
            self._session.drop_consumer(self._consumer(handled, handled.durable))
            if self._taken.get(handled.place) is handled:
                del self._taken[handled.place]
            handled.durable = None
        elif not handled.raises:
            self._check_free(handled)
            self._taken[handled.place] = handled
        handled.undecided = False

    async def _subscribe_live(self, handled: Handled) -> LiveSubscription:
        self._check_live()
        live = self._make_live(handled)
        live.raises = handled.raises
        try:
            while True:
                client = await self._session.client()
                try:
                    await live.attach(client)
                    # A renewal may have attached everything before this one was there.
                    if self._newest is not None and not self._newest.is_closed:
                        await live.attach(self._newest)
                    # The server refuses without being asked, and before it answers this.
                    await client.flush()
                except (NatsError, OSError) as error:  # lost meanwhile: the next one will do
                    log.debug("not subscribed: %s", shortly(error))
                    await asyncio.sleep(SUBSCRIBE_AGAIN_S)
                else:
                    self._granted(live)
                    if not handled.raises:
                        # If this connect() fails, the next one takes the same.
                        handled.live = live
                    return live
        except BaseException:
            if live in self._live:
                self._live.remove(live)
            # Otherwise its messages would wait for nobody until the session is renewed.
            await undisturbed(live.detach(), name=f"ending {live.pattern}")
            raise

    async def _subscribe_durable(self, handled: Handled, durable: str) -> DurableSubscription:
        if handled.raises:
            # Before it awaits: two loops may begin at this moment.
            self._check_free(handled)
            self._taken[handled.place] = handled
        # First, because a subscription that is denied must cost no new session.
        most = await self._ask_for_place(handled)
        consumer = self._consumer(handled, durable)
        await self._session.add_consumer(consumer)

        async def park(sequence: int, index: int | None, attempt: int, error: str) -> int | None:
            ask = {"consumer": consumer, "sequence": sequence, "attempt": attempt, "error": error}
            answer = await self._ask(PARK, ask if index is None else {**ask, "index": index})
            record: int | None = answer["record"]
            return record

        async def progress(sequence: int, stored_ms: int, note: Note) -> Note:
            ask = {
                "consumer": consumer,
                "sequence": sequence,
                "stored": stored_ms,
                "done": f"{note.done:x}",
                "given_back": note.given_back,
            }
            answer = await self._ask(PROGRESS, ask)
            return Note(int(answer["done"], 16), answer["given_back"])

        async def remake() -> None:
            while True:
                try:
                    async with asyncio.timeout(REMAKE_S):
                        await self._ask_for_place(handled)
                except SubscriptionDenied as error:
                    # The grant was taken away, and the relay deleted the consumer with it.
                    self.denied[handled.pattern] += 1
                    if handled.raises or not self._on_denied(error):
                        raise
                    again = "it is asked for again when the policy has changed, or in"
                    log.warning("%s; %s %g s", error.what, again, DENIED_AGAIN_S)
                    await self._known.changed(DENIED_AGAIN_S)
                else:
                    return

        place = RememberedPlace(
            bot=self._name,
            consumer=consumer,
            attempts=min(most, handled.attempts or most),
            park=park,
            progress=progress,
            remake=remake,
        )
        return DurableSubscription(
            session=self._session,
            opener=self._opener_of(handled),
            place=place,
            supervisor=self._supervisor,
            concurrency=handled.concurrency,
        )

    async def _ask_for_place(self, handled: Handled) -> int:
        """Have the relay make the consumer. Returns its policy's number of attempts at a
        message."""
        ask: dict[str, Any] = {
            "pattern": handled.pattern,
            "durable": handled.durable,
            "from": handled.start,
        }
        if handled.forget_s is not None:
            ask["forget_s"] = handled.forget_s
        try:
            answer = (await self._insist(SUBSCRIBE, ask)).payload
        except RequestFailed as failed:
            raise _not_made(handled.pattern, failed) from None
        most: int = answer.get("attempts", DEFAULT_ATTEMPTS)
        return most

    async def _ask(self, subject: str, payload: dict[str, Any]) -> Any:
        """Ask one of the bus's own services once. Raises :class:`SealbusError`."""
        header, data = self._draft(subject, payload)
        try:
            answer = await self._requester.request(header, data, timeout_s=REQUEST_TIMEOUT_S)
        except RequestFailed as failed:
            raise SealbusError(f"the relay does not serve {subject}: {failed.message}") from None
        return answer.payload

    async def _insist(self, subject: str, payload: Any) -> Any:
        """Ask one of the bus's own services until it answers.

        Raises :class:`RequestFailed` and :class:`Refused` where another question would not help.
        """
        insistence = Insistence()
        while True:
            header, data = self._draft(subject, payload)
            try:
                answer = await self._requester.request(header, data, timeout_s=REQUEST_TIMEOUT_S)
            except RequestFailed as failed:
                if failed.error not in ASK_AGAIN:
                    raise
                log.warning(
                    "%s cannot be served yet for %s: %s",
                    subject,
                    self._name,
                    failed.message,
                )
                await asyncio.sleep(BUSY_PAUSE_S)
            except (NoReply, Unresolved) as error:
                # No pause: the request has waited for its whole time.
                log.warning("%s asks again on %s: %s", self._name, subject, error.what)
            except Refused as refused:
                pause_s = insistence.pause_s(refused)
                if pause_s is None:
                    raise
                self.refused = refused
                log.warning("%s asks again on %s: %s", self._name, subject, refused.what)
                await asyncio.sleep(pause_s)
            else:
                self.refused = None
                return answer

    # ---- being denied ----------------------------------------------------------------------------

    def deny(self, pattern: str) -> None:
        """The server refused the live subscription with this pattern: now, or on a later
        connection."""
        self.denied[pattern] += 1
        error = SubscriptionDenied(
            f"the policy does not let {self._name} subscribe to {pattern}",
            pattern=pattern,
            hint=_DENIED_HINT,
        )
        matching = [live for live in self._live if live.pattern == pattern]
        for live in matching:
            live.deny(error)
        if any(live.placed and not live.raises for live in matching) and self._on_denied(error):
            log.warning("%s; it is asked for again with the next session", error.what)

    def _granted(self, live: LiveSubscription) -> LiveSubscription:
        if live.denied is not None:
            raise live.denied
        live.placed = True
        return live


def _not_made(pattern: str, failed: RequestFailed) -> SealbusError:
    what = f"cannot subscribe to {pattern}: {failed.message}"
    if failed.error == NOT_GRANTED:
        return SubscriptionDenied(what, pattern=pattern, hint=_DENIED_HINT)
    return InvalidInput(what)
