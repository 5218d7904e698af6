"""A series of NATS connections that looks like one.

nats-py closes a connection for good when its session expires, when an operator ends it, and on most errors that a server can send. So
its own reconnection is switched off, and there is one way back for all of them: connect anew, attach everything, go on. A session that
is about to expire is renewed the same way, but the new connection is there before the old one goes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from nats.errors import AuthorizationError
from nats.errors import Error as NatsError

from sealbus.credentials import Credentials
from sealbus.errors import ConnectionFailed
from sealbus.hardened import HardenedClient
from sealbus.limits import MAX_CONSUMERS
from sealbus.seal import sign_connect
from sealbus.subjects import INBOX

log = logging.getLogger("sealbus")

ADMISSION: Final = "sealbus/1"
ATTEMPT_S: Final = 3
"""How long one attempt may take: the relay's answer is waited for by the server for two seconds."""

BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 5.0
RENEW_S: Final = 240.0
"""Sessions live ten minutes unless the policy says otherwise; a shorter one simply ends, and is followed by the next."""

LINGER_S: Final = 10.0
"""How long a connection that was renewed stays for what was asked for on it: longer than any request waits."""

Attach = Callable[[HardenedClient], Awaitable[None]]


class Session:
    """Keeps a bot connected. ``attach`` is called with every new connection, before the one before it goes."""

    def __init__(self, credentials: Credentials, attach: Attach, *, renew_s: float = RENEW_S) -> None:
        self._credentials = credentials
        self._attach = attach
        self._renew_s = renew_s
        self._client: HardenedClient | None = None
        self._up = asyncio.Event()
        self._renew = asyncio.Event()
        self._lost = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._held: Counter[HardenedClient] = Counter()
        self._released = asyncio.Event()
        self._renewals = 0
        self._renewed = asyncio.Condition()
        self._frames: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        self.consumers: set[str] = set()
        """The bot's own JetStream consumers that the next connection asks to use."""

    async def open(self, timeout_s: float) -> None:
        """Connect for the first time. Raises :class:`ConnectionFailed` that says what stands in the way."""
        self._client = await self._connect_first(timeout_s)
        self._up.set()
        self._keeping = asyncio.create_task(self._keep())

    async def client(self) -> HardenedClient:
        """The connection in use; waits while there is none."""
        while self._client is None:
            await self._up.wait()
        return self._client

    def write_soon(self, frame: bytes) -> None:
        """Send ``frame`` on the connection in use, or the next one. All that is given in one turn of the event loop leaves together."""
        self._frames.append(frame)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        client = await self.client()
        self._writing = None
        self._write_on(client)

    def _write_on(self, client: HardenedClient) -> None:
        frames, self._frames = self._frames, []
        with contextlib.suppress(NatsError, OSError):  # what is lost was an answer, and is asked for again
            client.write(frames)

    def is_current(self, client: HardenedClient) -> bool:
        """Whether ``client`` is the connection in use."""
        return client is self._client

    @contextlib.contextmanager
    def hold(self, client: HardenedClient) -> Iterator[None]:
        """While the body runs, ``client`` is not closed for being renewed: what was asked for on it still arrives."""
        self._held[client] += 1
        try:
            yield
        finally:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]
                self._released.set()

    async def add_consumer(self, name: str) -> None:
        """Make sure that the connection in use may pull from the consumer ``name``: renews the session if it may not."""
        if name in self.consumers:
            return
        if len(self.consumers) >= MAX_CONSUMERS:
            raise ConnectionFailed(
                f"more than {MAX_CONSUMERS} durable subscriptions", hint="use another bot for the rest"
            )
        self.consumers.add(name)
        async with self._renewed:
            before = self._renewals
            self._renew.set()
            await self._renewed.wait_for(lambda: self._renewals > before)

    async def close(self) -> None:
        """Flush, close, and stay closed."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._held.clear()
        self._released.set()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self._writing is not None:
            self._writing.cancel()
        client, self._client = self._client, None
        if client is not None:
            self._write_on(client)
            await _retire(client)

    async def _keep(self) -> None:
        while True:
            await self._wait_for_change()
            old, was_lost = self._client, self._lost.is_set()
            if was_lost:
                self._client = None
                self._up.clear()
            self._renew.clear()
            new = await self._connect_again()
            self._client = new
            self._up.set()
            if old is not None:
                task = asyncio.create_task(self._retire_when_released(old))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
            async with self._renewed:
                self._renewals += 1
                self._renewed.notify_all()

    async def _retire_when_released(self, client: HardenedClient) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while client in self._held and not client.is_closed:
                    self._released.clear()
                    await self._released.wait()
        await _retire(client)

    async def _wait_for_change(self) -> None:
        waits = [asyncio.ensure_future(self._lost.wait()), asyncio.ensure_future(self._renew.wait())]
        # A little earlier or later each time, so that a thousand bots do not renew in one moment.
        jitter = 1 - 0.002 * secrets.randbelow(100)
        try:
            await asyncio.wait(waits, timeout=self._renew_s * jitter, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _connect_first(self, timeout_s: float) -> HardenedClient:
        deadline = asyncio.get_running_loop().time() + timeout_s
        delay = BACKOFF_FIRST_S
        while True:
            try:
                return await self._connect()
            except (NatsError, OSError, TimeoutError) as error:
                if asyncio.get_running_loop().time() + delay > deadline:
                    raise self._explain(error) from None
            await asyncio.sleep(delay)
            delay = min(2 * delay, BACKOFF_MOST_S)

    async def _connect_again(self) -> HardenedClient:
        delay = BACKOFF_FIRST_S
        while True:
            try:
                return await self._connect()
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("no session with the bus (%s); next attempt in %.1f s", _shortly(error), delay)
            await asyncio.sleep(delay * (1 - 0.005 * secrets.randbelow(100)))
            delay = min(2 * delay, BACKOFF_MOST_S)

    async def _connect(self) -> HardenedClient:
        credentials, client = self._credentials, HardenedClient()
        lost = asyncio.Event()
        failure: list[Exception] = []

        def on_closed() -> None:
            lost.set()
            if self._client is client:
                self._lost.set()

        async def on_error(error: Exception) -> None:
            failure.append(error)
            log.debug("nats: %s", _shortly(error))

        client.when_closed.add(on_closed)  # nats-py's own callback is left out where its last write fails
        words = [ADMISSION, credentials.bot, credentials.key.public.text, *sorted(self.consumers)]
        admission = " ".join(words)

        def answer(challenge: str) -> bytes:
            return base64.b64encode(sign_connect(credentials.key, challenge.encode(), admission.encode()))

        try:
            async with asyncio.timeout(ATTEMPT_S):
                await client.connect(
                    servers=list(credentials.servers),
                    name=credentials.bot,
                    token=admission,
                    signature_cb=answer,
                    allow_reconnect=False,
                    connect_timeout=ATTEMPT_S,
                    inbox_prefix=f"{INBOX}.{credentials.bot}",
                    ping_interval=20,
                    error_cb=on_error,
                )
                await self._attach(client)
                await client.flush(ATTEMPT_S)
        except BaseException as error:
            with contextlib.suppress(NatsError, OSError):
                await client.close()
            if isinstance(error, TimeoutError) and failure:
                raise failure[-1] from None  # nats-py tries until it is stopped; what it met says more
            raise
        self._lost = asyncio.Event()
        if lost.is_set() or client.is_closed:
            self._lost.set()
        return client

    def _explain(self, error: Exception) -> ConnectionFailed:
        where, bot = ", ".join(self._credentials.servers), self._credentials.bot
        if isinstance(error, ConnectionRefusedError) or (
            isinstance(error, OSError) and not isinstance(error, TimeoutError)
        ):
            return ConnectionFailed(f"nobody listens at {where}", hint="is the bus up? `sealbus up` starts one")
        if isinstance(error, AuthorizationError) or "authorization" in str(error).lower():
            hint = "the relay's log says why: an unknown bot, a key that is not its own, expired or revoked; or no relay is running"
            return ConnectionFailed(f"{bot} was not admitted at {where}", hint=hint)
        return ConnectionFailed(
            f"no session at {where}: {_shortly(error)}", hint="is a relay running beside that NATS?"
        )


async def _retire(client: HardenedClient) -> None:
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        if client.is_connected:
            await client.flush(ATTEMPT_S)
    with contextlib.suppress(NatsError, OSError):
        await client.close()


def _shortly(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
