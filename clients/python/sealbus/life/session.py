"""A series of NATS connections that looks like one.

nats-py closes a connection for good when its session expires, when an operator ends it, and on most
errors that a server can send. So its own reconnection is switched off. One way back serves all of
these cases: connect anew, attach everything, go on.

How it works. A session is in one of three states:

* **closed**: before :meth:`Session.open` and after :meth:`Session.close`. There is no connection,
  and nobody makes one.
* **up**: one connection is in use. :meth:`Session.client` returns it at once.
* **down**: the connection was lost, and the next one is being made. :meth:`Session.client` waits,
  and frames of :meth:`Session.write_soon` wait for the next connection.

:meth:`Session.open` makes the first connection. From then on one task, ``_keep``, waits until the
connection must be replaced, and replaces it:

* It was **lost**: the session goes down and up again. ``on_lost`` and ``on_back`` are called.
* It is to be **renewed**, because it will expire, because somebody needs rights that only a new
  login gives, because relays refuse its session key, or because the server asks for it: the rights
  of the bot have changed, or the server will stop. The new connection is made first, so the session
  stays up. The old connection is closed when nobody holds it any more (:meth:`Session.hold`), at
  the latest after :data:`LINGER_S`. Its subscriptions end before, so that no message is lost.

Only ``_take``, ``_on_closed`` and ``close`` change the connection in use. ``on_denied`` is called
for each subscription that the server refuses, on any connection and at any time. Attempts to
connect never end by themselves. Whoever waits for a connection sets the deadline, and cancels.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.errors import ConnectionFailed, InvalidInput
from sealbus.life.blocking import Blocking
from sealbus.life.connecting import ATTEMPT_S, Attach, Connection, Connector
from sealbus.nats.acks import IN_PROGRESS
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import shortly
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.limits import MAX_CONSUMERS
from sealbus.supervision import Supervisor, end
from sealbus.trust import Trust

STEADY_S: Final = 5.0
"""After a session that was up for this long, the pauses between attempts begin anew. Its renewals
do not count: a bot that renews often would otherwise never be steady, and wait longer each time."""

RENEW_S: Final = 240.0
"""How often the session is renewed. A session lives ten minutes unless the policy says otherwise. A
shorter one simply ends, and the next one follows."""

ASKED_S: Final = 0.5
"""When the server asks for a renewal, it begins within this time, at a moment that chance chooses.
A thousand bots of one server may be asked in one moment, and one login takes the bus a
millisecond."""

APART_S: Final = 1.0
"""The least time between the beginning of a connection and a renewal that the server asks for. A
server that never stops asking costs a login a second, and no more connections than linger."""

SETTLE_S: Final = 1.0
"""How long the server may take to say that it has an answer. It takes a millisecond, and tenths of
a second when it is busy."""

LINGER_S: Final = 10.0
"""How long a renewed connection stays for messages that were asked for on it: longer than any
request waits."""


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Watchers:
    """Those whom a session tells. Called in the event loop; they must not raise."""

    on_lost: Callable[[str], None] = _ignore
    """The session is down. Takes the reason."""
    on_back: Callable[[float], None] = _ignore
    """The session is up again. Takes the seconds that it was down."""
    on_denied: Callable[[str], None] = _ignore
    """The server refused the live subscription with this pattern."""
    on_rekeyed: Callable[[], None] = _ignore
    """The session was renewed because relays refused its key, and all envelopes under it."""


class Session:
    """Keeps a bot connected. The module names its states, and who changes them."""

    def __init__(
        self,
        credentials: Credentials,
        attach: Attach,
        *,
        supervisor: Supervisor,
        renew_s: float = RENEW_S,
        watchers: Watchers | None = None,
        trust: Trust | None = None,
    ) -> None:
        """
        Args:
            credentials: the bot's name, its key, and the servers to try.
            attach: called with every new connection before it is used, and before the old one goes.
            supervisor: answers for the task that keeps the session.
            renew_s: seconds between two renewals.
            watchers: told of losses, returns and denials.
            trust: has the keys that notices are believed under. ``None``: those of the credentials.
        """
        self._supervisor = supervisor
        self._renew_s = renew_s
        self._watchers = watchers or Watchers()
        self._connector = Connector(
            credentials, attach, on_denied=self._watchers.on_denied, trust=trust
        )
        """Makes each connection. It keeps the pauses and the causes of failed attempts."""

        # The connection in use, and the task that replaces it.
        self._client: HardenedClient | None = None
        """``None`` while the session is down or closed."""
        self._up = asyncio.Event()
        """Set while the session is up."""
        self._change = asyncio.Event()
        """Wakes ``_keep``: the connection is lost, or somebody wants it renewed."""
        self._up_since = 0.0
        """When the session came up, by the loop's clock. A renewal changes nothing."""
        self._server_id = ""
        """The server of the last connection, and which of its starts."""
        self.server_changes = 0
        """How often the session came back at another server than the one that it had lost, or at
        another start of it. A renewal is no such change, because it leaves a server that runs."""
        self._lost_at: float | None = None
        """When the session went down, by the loop's clock; ``None`` while it is up."""
        self._blocking = Blocking(credentials.bot, supervisor)
        """Notices that the event loop was blocked, which the server takes for silence."""
        self._keeping: asyncio.Task[None] | None = None
        """Runs ``_keep``; ``None`` while the session is closed."""

        # Connections that were replaced, and who still waits for something on them.
        self._retiring: set[asyncio.Task[None]] = set()
        """One task for each, which ends when the connection is closed."""
        self._held: Counter[HardenedClient] = Counter()
        """How many wait for something on a connection: see :meth:`hold`."""
        self._released = asyncio.Event()
        """Wakes the tasks in ``_retiring``: somebody waits no longer."""

        # Rights: asked for when connecting, so each change needs a new connection.
        self.consumers: set[str] = set()
        """The bot's own JetStream consumers that the next connection asks to use."""
        self._unused: dict[str, None] = {}
        """Those that nobody uses now, in the order in which they were released."""
        self._asked: frozenset[str] = frozenset()
        """Those that the connection in use asked for."""
        self._key: SessionKey | None = None
        """The key of the connection in use, or of the last one."""
        self._key_renew_s = renew_s
        """In how many seconds, from the beginning of the connection on, that key asks for another
        one."""
        self._key_is_refused = False
        """Whether a relay has refused that key, so that another one is needed."""
        self._rekeyed_at = float("-inf")
        """When the session was last renewed because of that."""
        self._renewed = asyncio.Condition()
        """Notified for each new connection."""

        # Frames that leave together at the end of a turn of the event loop.
        self._frames: list[bytes] = []
        """All are acknowledgements: one that is lost brings its message again."""
        self._writing: asyncio.Task[None] | None = None
        """Writes them once the session is up; ``None`` while there are none."""

    # ---- its life --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time, however long that takes, and keep connected from then on.

        Meanwhile :meth:`explain` gives the reason for which there is no connection. May be called
        again after :meth:`close`.
        """
        self._connector.begin()
        self._take(await self._connect())
        self._blocking.begin()
        self._keeping = self._supervisor.keep("keeping the session", self._keep)

    async def close(self, *, flush: bool = True) -> None:
        """End all connections. ``flush``: whether written frames leave first."""
        client: HardenedClient | None = None
        try:
            if self._keeping is not None:
                await end(self._keeping)
                self._keeping = None
            self._blocking.end()
            # First, because a connection that is not in use any more is not lost when it closes.
            client = self._give_up()
            # Nobody needs the replaced connections now: their tasks close them without lingering.
            self._held.clear()
            self._released.set()
            if not flush:
                await end(*self._retiring)
            await asyncio.gather(*self._retiring, return_exceptions=True)
            if self._writing is not None:
                await end(self._writing)
                self._writing = None
            if client is not None and flush:
                # Acknowledgements that still wait leave with it. A retired connection is flushed.
                self._write_on(client)
                await _retire(client)
        finally:
            # Also where the caller gives up: nobody else knows this connection any more.
            client = client or self._give_up()
            if client is not None and not client.is_closed:
                client.abort()
            if self._writing is not None:
                self._writing.cancel()
                self._writing = None
            self._frames.clear()

    def _give_up(self) -> HardenedClient | None:
        """Use the connection in use no more, and return it."""
        client, self._client = self._client, None
        self._up.clear()
        return client

    def explain(self) -> ConnectionFailed:
        """The reason for which there is no connection."""
        return self._connector.explain()

    def take_notice(self, data: bytes) -> None:
        """Take the bytes that came as a notice of the bus. Never raises.

        A valid one is logged once, and :meth:`explain` names it until there is a connection again.
        """
        self._connector.take_notice(data)

    def spread(self, seconds: float) -> None:
        """Come back within ``seconds`` after a server that was away is back."""
        self._connector.spread(seconds)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection."""
        return self._client is not None

    # ---- using it --------------------------------------------------------------------------------

    async def client(self) -> HardenedClient:
        """The connection in use; waits while there is none."""
        # A loop, because it may be lost again before whoever waits has its turn.
        while self._client is None:
            await self._up.wait()
        return self._client

    @property
    def key(self) -> SessionKey:
        """The session key of the connection in use. Once :meth:`client` has returned, there is
        one."""
        assert self._key is not None
        return self._key

    def replace_key(self, refused: SessionKey | None) -> None:
        """Renew the session if it still seals with the key ``refused``, which relays refuse now."""
        if refused is not None and refused is self._key:
            self._key_is_refused = True
            self._connector.doubt_key()
            self._change.set()

    def write_soon(self, frame: bytes) -> None:
        """Send ``frame`` on the connection in use, or on the next one.

        All frames of one turn of the event loop leave in one system call.
        """
        if self._keeping is None:
            return  # closed: the server delivers the unacknowledged message again
        self._frames.append(frame)
        if self._writing is None:
            self._writing = self._supervisor.piece("writing answers", self._write())

    async def settle(self, reply: str) -> None:
        """Return once the server has taken all answers so far to the consumer of ``reply``, the
        acknowledgement subject of one of its messages.

        nats-server puts answers and requests into two queues (2.15.1). So it may serve a request
        before an answer that was written earlier. Without a connection, and where the server takes
        longer than :data:`SETTLE_S`, it returns all the same: the answers may be lost then.
        """
        client = self._client
        if client is None:
            return
        self._write_on(client)
        with contextlib.suppress(NatsError, OSError):
            # Of all answers this one changes nothing. With a reply subject the server says that it
            # has taken it, and so all that came before.
            await client.request(reply, IN_PROGRESS, SETTLE_S)

    async def _write(self) -> None:
        try:
            client = await self.client()
        finally:
            # Also when it was cancelled: the next frame must start a task of its own.
            self._writing = None
        self._write_on(client)

    def _write_on(self, client: HardenedClient) -> None:
        frames = self._frames
        self._frames = []
        # A lost frame was an acknowledgement. Its message is delivered again, and recognised.
        with contextlib.suppress(NatsError, OSError):
            client.write(frames)

    def is_current(self, client: HardenedClient) -> bool:
        """Whether ``client`` is the connection in use."""
        return client is self._client

    @contextlib.contextmanager
    def hold(self, client: HardenedClient) -> Iterator[None]:
        """While the body runs, a renewal does not close ``client``: answers on it still arrive."""
        self._held[client] += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            # Below zero where close() has forgotten all holds meanwhile.
            if self._held[client] <= 0:
                del self._held[client]
                self._released.set()

    def want_consumer(self, name: str) -> None:
        """Have the next connection ask for the consumer ``name``.

        Raises :class:`InvalidInput` for more of them than a session can carry.
        """
        self._unused.pop(name, None)
        if name in self.consumers:
            return
        if len(self.consumers) >= MAX_CONSUMERS:
            if not self._unused:
                raise InvalidInput(
                    f"more than {MAX_CONSUMERS} durable subscriptions",
                    hint="use another bot for the rest",
                )
            self.drop_consumer(next(iter(self._unused)))
        self.consumers.add(name)

    def release_consumer(self, name: str) -> None:
        """Nobody uses the consumer ``name`` any more.

        Connections still ask for it, until another one needs its room. So using it again costs no
        renewal.
        """
        if name in self.consumers:
            self._unused[name] = None

    def drop_consumer(self, name: str) -> None:
        """Have the next connection not ask for the consumer ``name``."""
        self.consumers.discard(name)
        self._unused.pop(name, None)
        # Whoever wants it again waits for a connection that asks for it. The next one does not.
        self._asked -= {name}

    async def add_consumer(self, name: str) -> None:
        """Make sure that the connection in use may pull from the consumer ``name``.

        Renews the session if it may not.
        """
        self.want_consumer(name)
        if name in self._asked:
            return
        # Somebody else may have asked for it, and the renewal may still be under way.
        async with self._renewed:
            self._change.set()
            await self._renewed.wait_for(lambda: name in self._asked)

    # ---- one connection after the other ----------------------------------------------------------

    def _take(self, connection: Connection) -> None:
        """Use ``connection`` from now on."""
        is_renewal = self._client is not None
        self._client = client = connection.client
        if not is_renewal:
            self._up_since = asyncio.get_running_loop().time()
            self.server_changes += client.server_id != self._server_id
        self._server_id = client.server_id
        self._asked = connection.consumers
        self._key = connection.key
        self._key_renew_s = connection.renew_s
        self._key_is_refused = False
        self._lost_at = None
        self._connector.admitted()
        self._up.set()
        # nats-py's own `closed_cb` is not enough: it is left out where a last write fails.
        client.when_closed.add(lambda: self._on_closed(client))
        # It may have been asked already. Then `_keep` finds `is_to_leave` set.
        client.when_to_leave.add(self._change.set)
        if client.is_closed:  # since it was attached, so nobody was told
            self._on_closed(client)

    def _on_closed(self, client: HardenedClient) -> None:
        if client is not self._client:
            return  # a renewed connection, which was closed on purpose
        self._client = None
        self._up.clear()
        self._lost_at = asyncio.get_running_loop().time()
        self._change.set()
        self._watchers.on_lost(self._blocking.cause or shortly(client.last_error))

    async def _keep(self) -> None:
        """Replace the connection in use whenever it has to be, for ever.

        May begin again at any point after an unexpected error: it keeps its state in the session.
        """
        while True:
            began = asyncio.get_running_loop().time()
            await self._until_change(began)
            is_steady = asyncio.get_running_loop().time() - self._up_since >= STEADY_S
            is_refused = self._key_is_refused  # which _take() forgets
            if is_refused:
                self._rekeyed_at = asyncio.get_running_loop().time()
            if is_steady:
                self._connector.begin()
            # A renewal needs no pause.
            if self._lost_at is not None:
                await asyncio.sleep(self._connector.pause_after_loss(is_steady=is_steady))
            # The old connection is looked up afterwards: it may be lost while the new one is made.
            new = await self._connect()
            old = self._client
            lost_at = self._lost_at  # which _take() forgets
            self._take(new)
            if old is not None:
                task = self._supervisor.piece(
                    "ending a renewed connection",
                    self._retire_when_released(old),
                )
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
            async with self._renewed:
                self._renewed.notify_all()
            if is_refused:
                self._watchers.on_rekeyed()
            # Not if it was lost again by now: then the next round tells.
            if lost_at is not None and self._client is new.client:
                self._watchers.on_back(asyncio.get_running_loop().time() - lost_at)

    async def _connect(self) -> Connection:
        return await self._connector.connect(lambda: frozenset(self.consumers))

    async def _until_change(self, began: float) -> None:
        """Wait until the connection in use, which is there since ``began`` by the loop's clock, has
        to be replaced."""
        # Up to a fifth earlier, so that a thousand bots that were started together do not renew in
        # one moment.
        jitter = 1 - 0.002 * secrets.randbelow(100)
        spread_s = ASKED_S * 0.01 * secrets.randbelow(100)
        loop = asyncio.get_running_loop()
        due = loop.time() + min(self._renew_s, self._key_renew_s) * jitter
        is_asked = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due) as limit:
                while self._client is not None and self.consumers <= self._asked:
                    # Once: asking again must not put it off.
                    if self._client.is_to_leave and not is_asked:
                        is_asked = True
                        limit.reschedule(min(due, max(loop.time() + spread_s, began + APART_S)))
                    if self._key_is_refused:
                        # At once, because nothing that it seals is accepted. Only a bot whose
                        # every key is refused, such as one with a wrong clock, has to wait.
                        soon = max(loop.time(), self._rekeyed_at + APART_S)
                        limit.reschedule(min(limit.when() or soon, soon))
                    self._change.clear()
                    await self._change.wait()

    async def _retire_when_released(self, client: HardenedClient) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while client in self._held and not client.is_closed:
                    self._released.clear()
                    await self._released.wait()
        await _retire(client)


async def _retire(client: HardenedClient) -> None:
    """Close in good order. If the caller gives that up, cut the connection."""
    try:
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            if client.is_connected:
                # The connection in use is in the same queue groups. Until the server knows of the
                # end, it would choose this one for some of their messages, and nobody else would
                # get them.
                await client.end_subscriptions(ATTEMPT_S)
        with contextlib.suppress(NatsError, OSError):
            await client.close()
    finally:
        if not client.is_closed:
            client.abort()
