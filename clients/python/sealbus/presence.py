"""A bot's presence on the bus: connecting, running, stopping, closing, and the hooks that are told.

:class:`Presence` is the part of :class:`~sealbus.Bot` that knows when things happen. Messages and
handlers are in :mod:`sealbus.bot`. :mod:`sealbus.life.states` draws the states and names who leaves
each: ``connect()``, ``close()`` and the session.

How it works. The parts (:mod:`sealbus.parts`) report events to this one. Only the methods
here change the state.

* **connect()** opens the session, starts the sender, waits for the grants, and makes the handlers'
  subscriptions, in this order, because each needs the one before. If one fails, all is undone, and
  ``connect()`` may be called again.
* **a lost connection** changes the state and calls hooks. The session comes back by itself, and
  handlers go on meanwhile.
* **a failure** (``_failure``) is remembered once, the first one, and ends ``run()``.
* **close()** is one task, whoever calls it and however often. It stops receiving, lets handlers and
  then verdicts finish, and disconnects. A second signal (``Life.hurry``) cuts the waiting short.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final, NoReturn, Self

from sealbus.arguments import check_seconds
from sealbus.credentials import Credentials
from sealbus.errors import (
    BackgroundFailed,
    ConnectionFailed,
    InvalidInput,
    SealbusError,
    SubscriptionDenied,
)
from sealbus.grants import Grants
from sealbus.life.hooks import H, Hooks
from sealbus.life.signals import heard
from sealbus.life.states import BotState, Stopped
from sealbus.log import log
from sealbus.outcomes import Refused
from sealbus.parts import BotParts
from sealbus.receiving.serving import Handled, Subscription, serve
from sealbus.supervision import end, outcome
from sealbus.waiting import Overdue

CONNECT_TIMEOUT_S: Final = 10.0
"""How long :meth:`Bot.connect` tries by default."""

DRAIN_S: Final = 10.0
"""How long :meth:`Bot.close` waits for handlers and verdicts."""

FLUSH_S: Final = 5.0
"""How long the last written bytes may take to leave. A server that does not read is not waited
for."""

CUT_SHORT_S: Final = 1.0
"""How long a handler that was cut short has for its ``finally`` blocks."""

SYNC_HINT: Final = (
    "there is no synchronous interface: use `async def main()` and asyncio.run(main())"
)


class Presence(BotParts):
    """Takes a bot's parts through its life."""

    def __init__(self, credentials: Credentials, *, renew_s: float | None = None) -> None:
        """``renew_s``: seconds between two renewals of the NATS session; by default well before it
        ends."""
        super().__init__(credentials, renew_s=renew_s)
        self._tasks: set[asyncio.Task[Any]] = set()
        """Handlers and hooks that run: :meth:`close` waits for them."""
        self._sending: asyncio.Task[None] | None = None
        """The publisher's task, while the bot is connected."""
        self._closing: asyncio.Task[None] | None = None
        """The one task of :meth:`close`, from its first call on."""
        self._failure: SealbusError | None = None
        """The first error that :meth:`run` is to raise."""
        self._failed = asyncio.Event()
        """Set with ``_failure``."""
        self._runs = False
        """Whether :meth:`run` was called, which a failure ends."""
        self._hooks = {event: Hooks(event) for event in ("connected", "lost", "denied")}
        """The author's functions, by the event that they are told of."""

    async def grants(self) -> Grants:
        """The policy's part for this bot: its grants to publish and subscribe, classes, rates and
        limits.

        The bus tells it with each connection. Raises :class:`NotConnected`.
        """
        self._life.check("grants()")
        return await self._known.get()

    # ---- being there -----------------------------------------------------------------------------

    async def connect(
        self,
        # It has an error of its own.
        timeout: float | None = CONNECT_TIMEOUT_S,  # noqa: ASYNC109
    ) -> None:
        """Connect, and return when every handler's subscription is in place.

        Args:
            timeout: seconds for all of it, or ``None`` to wait for the bus as long as it takes.

        Raises:
            ConnectionFailed: the time was over, or the bus refuses the bot's questions for its
                grants or a subscription. The error names the cause. ``connect()`` may be called
                again.
            CredentialsError: the bus answers with a bus key that the credentials do not name, and
                to which no link leads.
            SubscriptionDenied: the policy does not grant a handler's subscription.
            InvalidInput: an argument cannot be used, the bot was connected before, or a handler
                cannot be subscribed (:meth:`subscribe`).
            Malformed, RequestFailed: the relay's answer about the grants cannot be used.
            NotConnected: the bot was told to stop meanwhile, or was closed before.
            BackgroundFailed: something that works in the background ended, which is a mistake of
                this library.
        """
        limit_s = None if timeout is None else check_seconds("timeout", timeout)
        self._life.begin()
        try:
            placed = await self._life.unless_stopped(self._arrive(), limit_s)
        except Overdue:
            # Before it is undone: afterwards there is no session, whatever the cause was.
            failed = self._explain(limit_s)
            await self._undo_connect()
            raise failed from None
        except BaseException:
            await self._undo_connect()
            # A failed part stops the bot, which looks like stop() here. The failure is the cause.
            if self._supervisor.failure is not None:
                raise self._supervisor.failure from None
            raise
        self._life.move(BotState.CONNECTED)
        log.info("%s is connected to the bus %s", self.name, self.credentials.bus)
        for handled, subscription in placed:
            self._start(_of(handled), serve(handled, subscription, self._life.stopping))
        # Others were registered after the last of these was placed, while the bot still connected.
        for handled in self._listener.handlers[len(placed) :]:
            self._start(_of(handled), self._place_and_serve(handled))
        self._call_hooks("connected", self)
        if not self._session.is_up:
            # It was lost before the state was CONNECTED, so _on_lost() has done nothing yet.
            self._on_lost("closed while the subscriptions were made")

    async def _arrive(self) -> list[tuple[Handled, Subscription]]:
        """Connect and make the subscriptions, however long it takes."""
        await self._session.open()
        self._sending = self._supervisor.keep("sending", self._publisher.run)
        placed = []
        try:
            await self._known.get()
            for handled in self._listener.handlers:  # also those that are registered meanwhile
                subscription = await self._listener.subscribe(handled)
                placed.append((handled, subscription))
        except Refused as refused:
            raise self._cannot_speak(refused) from refused
        return placed

    async def _undo_connect(self) -> None:
        try:
            await self._known.close()
            if self._sending is not None:
                await end(self._sending)
                self._sending = None
            await self._session.close(flush=False)
        finally:
            if self._life.stopping.is_set():
                self._life.move(BotState.CLOSING)
                self._life.move(BotState.CLOSED)
            else:
                self._life.move(BotState.NEW)

    def _explain(self, timeout_s: float | None) -> ConnectionFailed:
        if not self._session.is_up:
            return self._session.explain()
        refused = self._known.refused or self._listener.refused
        if refused is not None:  # the last question, which would have been asked again
            return self._cannot_speak(refused)
        return ConnectionFailed(
            f"{self.name} has a session, but no relay answered within {timeout_s:g} s",
            hint=self._clock.told
            or "is a relay running? It tells a bot its grants, and makes the durable "
            "subscriptions; its log says more",
        )

    def _cannot_speak(self, refused: Refused) -> ConnectionFailed:
        return ConnectionFailed(
            f"{self.name} is admitted and cannot speak: {refused.what}", hint=refused.hint
        )

    def stop(self) -> None:
        """Ask the bot to end: :meth:`run` closes it, a :meth:`connect` under way is given up,
        iterating ends.

        Returns at once, and does nothing the second time. Any thread may call it.
        """
        self._life.stop_from_anywhere()

    async def close(
        self,
        # It is how long to wait for others.
        timeout: float = DRAIN_S,  # noqa: ASYNC109
    ) -> None:
        """Stop receiving, let handlers, requests and verdicts finish, and disconnect.

        A message that was sent and has no verdict then raises :class:`Unresolved` where it was
        published. One that was not sent raises :class:`NotConnected`, and a request without an
        answer raises :class:`NoReply`. Called within a handler, a hook, or the body of a loop over
        :meth:`messages`, it cannot wait for its caller: it returns at once, and the bot is closed
        when the handlers are done. All who call it wait for the same end.

        Args:
            timeout: seconds for handlers, requests and verdicts to finish.

        Raises:
            NotConnected: the bot has connected in another event loop. It can be closed only there.
        """
        limit_s = check_seconds("timeout", timeout, zero=True)
        if self._life.state is BotState.NEW:
            self._life.stop()
            self._life.move(BotState.CLOSED)
        if self._life.state is BotState.CLOSED:
            return
        self._life.check_loop("close()")
        self._life.stop()
        if self._closing is None:
            self._closing = self._supervisor.piece("closing", self._close(limit_s))
        if self._life.is_at_work:
            return  # it is itself waited for: waiting here would never end
        try:
            # Shielded, because others may wait for the same task.
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            self._life.hurry.set()
            raise

    async def _close(self, timeout_s: float) -> None:
        await self._life.settled()
        if self._life.state is BotState.CLOSED:  # connect() was under way, and has been undone
            return
        self._life.move(BotState.CLOSING)
        try:
            await self._drain(asyncio.get_running_loop().time() + timeout_s)
            within = asyncio.get_running_loop().time() + FLUSH_S
            if not await self._life.in_time(self._session.close(), within):
                # Cut short: nothing is flushed any more.
                await self._session.close(flush=False)
        finally:
            self._life.move(BotState.CLOSED)
            log.info("%s is closed", self.name)

    async def _drain(self, deadline: float) -> None:
        is_idle = await self._life.in_time(self._life.idle(), deadline)
        late = [task for task in self._tasks if not task.done()]
        if late:
            log.warning(
                "%s is closed before its handlers and hooks are done: %d were cut short",
                self.name,
                len(late),
            )
        # Their tasks are the program's own, so nobody cuts them short here.
        if not is_idle and (blocks := self._life.running - len(late)) > 0:
            log.warning(
                "%s is closed before the program has left its messages(): %d blocks get no more "
                "messages",
                self.name,
                blocks,
            )
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CUT_SHORT_S)
        # Looked up only now, because handlers publish up to their end. The answers come after the
        # verdicts: a request waits for one only once it was sent, and not when it was refused.
        for look_up in (self._publisher.verdicts, self._requester.answers):
            waited_for: list[asyncio.Future[Any]] = [*look_up()]
            if waited_for:
                await self._life.in_time(_all_done(waited_for), deadline)
        # Before abandon(): the question about grants would take that for no answer, and begin anew.
        await self._known.close()
        self._publisher.abandon()
        self._requester.abandon()
        if self._sending is not None:
            await end(self._sending)
            self._sending = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.close()
        if kind is None and isinstance(self._failure, BackgroundFailed):
            raise self._failure  # else it would be in the log alone

    def __enter__(self) -> NoReturn:
        raise InvalidInput("a bot is opened with `async with`, not `with`", hint=SYNC_HINT)

    def __exit__(self, *_: object) -> None:
        """Never reached; here because `with` looks for it first."""

    async def run(self, *, connect_timeout: float | None = None) -> None:
        """Connect, serve the handlers until SIGINT, SIGTERM or :meth:`stop`, and close.

        Both signals are heard from the first line on. The first lets handlers finish, a second one
        cuts them short.

        Args:
            connect_timeout: seconds to wait for the bus at the start; by default as long as it
                takes. Later the bot always comes back by itself.

        Raises:
            ConnectionFailed: there was no bus within ``connect_timeout``, or the bus refuses the
                bot's questions.
            CredentialsError: the bus answers with a bus key that the credentials do not name, and
                to which no link leads.
            InvalidInput: an argument cannot be used, or a handler cannot be subscribed
                (:meth:`subscribe`).
            Malformed, RequestFailed: the relay's answer about the grants cannot be used.
            SubscriptionDenied: the policy does not grant a handler's subscription; or does not
                grant it any more, and there is no hook for it (:meth:`on_denied`).
            BackgroundFailed: something that works in the background ended, which is a mistake of
                this library.
            NotConnected: the bot is closed, or has connected in another event loop.
        """
        if connect_timeout is not None:
            check_seconds("connect_timeout", connect_timeout)
        if self._life.state not in (BotState.NEW, BotState.CLOSED):
            self._life.check_loop("run()")
        self._runs = True
        with heard(self._life.on_signal):
            try:
                if self._life.state not in (BotState.CONNECTED, BotState.LOST):
                    await self.connect(connect_timeout)
                error = await outcome(self._life.unless_stopped(self._failed.wait()))
                if error is not None and not isinstance(error, Stopped):
                    self._supervisor.fail("running", error)
            except Stopped:
                pass
            finally:
                await self.close()
        if self._failure is not None:
            raise self._failure

    # ---- hooks -----------------------------------------------------------------------------------

    def on_connected(self, hook: H) -> H:
        """Decorate a function to be called whenever there is a connection: the first time, and
        after each loss.

        It may be plain or ``async``, and takes the bot or nothing. An exception is logged.
        """
        return self._hooks["connected"].add(hook)

    def on_lost(self, hook: H) -> H:
        """Decorate a function to be called whenever the connection is lost. Else as
        :meth:`on_connected`."""
        return self._hooks["lost"].add(hook)

    def on_denied(self, hook: H) -> H:
        """Decorate a function to be called when the bus no longer grants a handler's subscription.

        It takes the :class:`SubscriptionDenied` or nothing. Without such a hook :meth:`run` raises
        the error. A live subscription is asked for again with each new session, and a durable one
        when the policy has changed, after a minute at the latest.
        """
        return self._hooks["denied"].add(hook)

    def _call_hooks(self, event: str, argument: object) -> None:
        if self._hooks[event]:
            self._start(f"a hook for {event}", self._hooks[event].call(argument), lasts=False)

    def _on_lost(self, why: str) -> None:
        if self._life.state is BotState.CONNECTED:
            self._life.move(BotState.LOST)
            log.warning("%s lost its connection to the bus: %s", self.name, why)
            self._call_hooks("lost", self)

    def _on_back(self, after_s: float) -> None:
        # In every state: the question of connect() about grants may be among them.
        self._publisher.resend()
        if self._life.state is BotState.LOST:
            self._life.move(BotState.CONNECTED)
            # At the level of the loss: whoever saw the one must see the other.
            log.warning("%s is connected again after %.1f s", self.name, after_s)
            self._call_hooks("connected", self)

    def _on_denied(self, error: SubscriptionDenied) -> bool:
        if self._hooks["denied"]:
            self._call_hooks("denied", error)
            return True
        self._fail(error)
        return False

    # ---- inside ----------------------------------------------------------------------------------

    def _handle(self, handled: Handled) -> None:
        call = f"a handler for {handled.pattern}"
        if self._life.state is BotState.CONNECTING:
            self._life.check_loop(call)
        elif self._life.state is not BotState.NEW:
            self._life.check_receiving(call)
        self._listener.register(handled)
        if self._life.state in (BotState.CONNECTED, BotState.LOST):
            self._start(_of(handled), self._place_and_serve(handled))

    async def _place_and_serve(self, handled: Handled) -> None:
        with contextlib.suppress(Stopped):
            subscription = await self._life.unless_stopped(self._listener.subscribe(handled))
            await serve(handled, subscription, self._life.stopping)

    def _start(self, name: str, work: Coroutine[Any, Any, None], *, lasts: bool = True) -> None:
        """Have ``work`` done beside everything else; :meth:`close` waits for it.

        ``lasts``: whether the work goes on until the bot stops. Then an earlier end is a failure.
        """
        if lasts:
            task: asyncio.Task[None] = self._supervisor.must(
                name,
                self._work(work),
                until=self._life.stopping,
            )
        else:
            task = self._supervisor.piece(name, self._work(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        with self._life.work():
            await work

    def _on_failure(self, error: SealbusError) -> None:
        """A part ended that the bot cannot do without."""
        self._fail(error)
        if isinstance(error, BackgroundFailed):
            self._life.stop()  # also where nobody waits in run()

    def _fail(self, error: SealbusError) -> None:
        if self._failure is None:
            ends = self._runs or isinstance(error, BackgroundFailed)
            then = "cannot go on" if ends else "goes on without this subscription"
            log.error("%s %s: %s", self.name, then, error)
            self._failure = error
            self._failed.set()


def _of(handled: Handled) -> str:
    return f"the handler of {handled.pattern}"


async def _all_done(futures: list[asyncio.Future[Any]]) -> None:
    await asyncio.wait(futures)
