"""Making one connection of a bot: which server, how it logs in, and why it failed.

How it works. :meth:`Connector.connect` tries the servers until one attempt succeeds. An attempt
makes a session key, connects, attaches everything, and waits for the server's answer to a PING. Any
error ends it, is explained in a sentence and kept by its server (:attr:`Connector.failures`). A
connection is made with an admission text, which fixes its rights, and is never reconnected by
nats-py: whoever owns it makes the next one (:mod:`sealbus.life.session`).

The session key signs the login, and seals all envelopes of the connection. So the bot's enrolled
key signs nothing but certificates. It may be in an agent or a module (:mod:`sealbus.signing`). A
signer that fails or hangs ends the attempt as a server does, with a sentence of its own. A bot
without an enrolled key has a session key that is kept for several connections
(:mod:`sealbus.life.exchanging`).

A relay that ends a session says why (:mod:`sealbus.protocol.notice`). :attr:`Connector.told` keeps
that until there is a connection. The attempts go on, because an operator may take it back. A bot
that has sent too much is told to pause, and makes no attempt before the pause is over.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from sealbus.credentials import Credentials
from sealbus.errors import ConnectionFailed, Malformed
from sealbus.life.certifying import Certifier
from sealbus.life.exchanging import Exchanger
from sealbus.life.login import login_options
from sealbus.log import log
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import NO_RELAY_S, ended, explain, is_denied, shortly
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.notice import Ended, check_notice, open_notice
from sealbus.protocol.subjects import BUS, INBOX
from sealbus.trust import Trust

ATTEMPT_S: Final = 3
"""How long each step of an attempt may take: the greeting, the login, the subscriptions, and the
answer to a PING behind them. nats-server waits two seconds for the relay's answer to a login. The
time is not that of all steps together. On a machine with too much to do each step takes half a
second, and an attempt that goes on must not be given up, because the next one costs as much
again."""

BACKOFF_FIRST_S: Final = 0.1
"""The first pause between two attempts. It is doubled each time."""

AWAY_S: Final = 0.25
"""The longest pause while the server or its relay is away. With :data:`RELAYS_FIRST_S`, a server
that is back is used within half a second. An attempt at an empty port costs nobody much."""

RELAYS_FIRST_S: Final = 0.2
"""How long a bot waits with its login at a server that was away or started anew just now. A relay
tries twice as often as that. A login before it would wait for an answer in vain, and that takes two
seconds. nats-server counts this wait as a part of them."""

LATE_S: Final = 0.5
"""A server whose greeting takes longer was away too, for example because it was stopped."""

BACKOFF_MOST_S: Final = 5.0
"""The longest pause while the server or a relay says no, for example because a key is revoked. Such
an attempt costs the bus a login."""

TELL_S: Final = 5.0
"""The log has the same cause of failed attempts once in this time."""

ATTEMPTS_AT_ONCE: Final = 16
"""How many bots of one event loop try to connect at once. A login takes a bot some milliseconds of
work. Several hundred bots in one process would have each of their logins wait for all the others,
and nats-server waits two seconds for each."""

AT_ONCE_S: Final = 2.0
"""Bots whose logins take a bus no longer than this come back at once after a loss, because each has
its answer before nats-server gives up. The others wait for the time beyond it. So a lost session
on a bus of 500 is replaced at once, and one on a bus of 1,000 within two seconds."""

_NOT_ALLOWED: Final = re.compile(
    rf'permissions violation for subscription to "{BUS}\.([^"]+)"',
    re.IGNORECASE,
)
"""nats-server's error for a subscription that the session may not make: the subject in quotes, and
behind it perhaps a queue group."""

Attach = Callable[[HardenedClient], Awaitable[None]]
"""Subscribes everything on a new connection. Raises nats-py's errors and :class:`OSError`."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection on which everything is attached, and the session key of its login."""

    client: HardenedClient
    consumers: frozenset[str]
    """The consumers that it asked for."""
    key: SessionKey
    renew_s: float
    """In how many seconds the key asks for the next connection."""


class Connector:
    """Makes the connections of one session.

    Its state is its pause, the last failures, and the reason that the bus gave.
    """

    def __init__(
        self,
        credentials: Credentials,
        attach: Attach,
        *,
        on_denied: Callable[[str], None],
        trust: Trust | None = None,
    ) -> None:
        """
        Args:
            credentials: the servers, the bot's name and its key.
            attach: subscribes everything on a new connection, before anybody else may use it.
            on_denied: told the pattern of each live subscription that the server refuses, on any
                connection and at any time.
            trust: has the keys that notices are believed under. ``None``: those of the credentials.
        """
        self._credentials = credentials
        source = credentials.tokens
        self._keys = Certifier(credentials) if source is None else Exchanger(credentials, source)
        self._trust = trust or Trust.of(credentials)
        self._attach = attach
        self._on_denied = on_denied
        self.failures: dict[str, ConnectionFailed] = {}
        """The error of the last attempt at each server, by its address."""
        self.told: Ended | None = None
        """The reason that the bus gave for the end of the last session, if it gave one."""
        self._pause_s = BACKOFF_FIRST_S
        """Pause before the next attempt, before chance shortens it."""
        self._not_before = 0.0
        """When the pause is over that the bus has told the bot to make (event loop's time)."""
        self._told_last = "", 0.0
        """The cause in the last line of the log about failed attempts, and when it was written."""
        self._is_away = False
        """Whether nobody has answered in this round of attempts so far, or in the last one."""
        self._was_away = False
        """The same of the round before."""
        self._met: dict[str, str] = {}
        """The id of the server that was met last at each address. It is another one after each
        start."""
        self._spread_s = 0.0
        """Over how long the bots of this bus come back, as a relay has told last."""

    def doubt_key(self) -> None:
        """Get another session key before the next connection: relays refuse the present one."""
        self._keys.doubt()

    def begin(self) -> None:
        """Make the next pause short again."""
        self._pause_s = BACKOFF_FIRST_S

    def spread(self, seconds: float) -> None:
        """Come back within ``seconds`` after a server is back, at a moment that chance chooses."""
        self._spread_s = seconds

    def admitted(self) -> None:
        """Forget why there was no connection, because there is one."""
        self.failures.clear()
        self.told = None
        self._told_last = "", 0.0

    def take_notice(self, data: bytes) -> None:
        """Take the bytes that came as a notice of the bus. Never raises.

        A notice that is invalid, or about another key of the bot, is ignored.
        """
        credentials = self._credentials
        try:
            notice = open_notice(data, self._trust.keys)
            check_notice(
                notice,
                bus=credentials.bus,
                bot=credentials.bot,
                now_ms=_now_ms(),
            )
        except Malformed as error:
            # Other bots can have nats-server send messages here, and must not fill the log.
            log.debug("ignored an invalid notice: %s", error.what)
            return
        # Several come where several sessions end, or while the session is renewed.
        enrolled = self._keys.enrolled
        if notice.pause_ms is not None:
            over = asyncio.get_running_loop().time() + notice.pause_ms / 1000
            self._not_before = max(self._not_before, over)
        if enrolled is None or not notice.concerns(enrolled) or notice.reason is self.told:
            return
        self.told = notice.reason
        if notice.reason is not Ended.FLOODING:
            self._keys.doubt()
        cause = ended(notice.reason, credentials.bot)
        # A bot whose session keys are void comes back by itself. Nobody has to act.
        tell = log.warning if notice.reason is Ended.CERTIFICATES_VOID else log.error
        tell("%s; %s", cause.what, cause.hint)

    def explain(self) -> ConnectionFailed:
        """The reason for which there is no connection."""
        failures = list(self.failures.values())
        if self.told is not None:
            # First, because the refused logins that follow are only its consequence.
            failures.insert(0, ended(self.told, self._credentials.bot))
        if not failures:
            where = ", ".join(self._credentials.servers)
            return ConnectionFailed(
                f"no session at {where}",
                hint="is the bus up? `sealbus up` starts one",
            )
        causes = dict.fromkeys(failure.what for failure in failures)
        return ConnectionFailed("; ".join(causes), hint=failures[0].hint)

    async def connect(
        self,
        wanted: Callable[[], frozenset[str]],
    ) -> Connection:
        """A new connection.

        Tries all servers in turn, with a longer pause after each round, for ever. ``wanted``: the
        consumers to ask for, which may be others at each attempt.
        """
        self._was_away = False
        while True:
            await self._wait_as_told()
            # In another order each time: otherwise every bot would move to the first server.
            servers = list(self._credentials.servers)
            secrets.SystemRandom().shuffle(servers)
            self._is_away = True
            for server in servers:
                try:
                    async with _turns():
                        return await self._attempt(server, wanted())
                except ConnectionFailed as failure:
                    self.failures[server] = failure
            self._was_away = self._is_away
            pause_s = self.next_pause()
            self._tell(self.explain().what, pause_s)
            await asyncio.sleep(pause_s)

    async def _wait_as_told(self) -> None:
        """Wait until the pause is over that the bus has told the bot to make."""
        while (left_s := self._not_before - asyncio.get_running_loop().time()) > 0:
            log.warning("the bus has told %s to pause for %.0f s", self._credentials.bot, left_s)
            await asyncio.sleep(left_s)

    def _tell(self, why: str, pause_s: float) -> None:
        """Log a failed round, unless the log has had the same line just now."""
        now = asyncio.get_running_loop().time()
        last, at = self._told_last
        if why == last and now - at < TELL_S:
            return
        self._told_last = why, now
        log.warning("no session with the bus: %s; next attempt in %.1f s", why, pause_s)

    def pause_after_loss(self, *, is_steady: bool) -> float:
        """How long to wait before the first attempt after a loss.

        ``is_steady``: whether the connection had lived for a while.
        """
        if not is_steady:
            return self.next_pause()
        return max(0.0, self._spread_s - AT_ONCE_S) * _chance()

    def next_pause(self) -> float:
        """How long to wait before the next attempt: twice as long each time, up to a limit."""
        if self._is_away and self._spread_s > AWAY_S:
            # All the others wait for the same server, and it takes a login of each.
            self._pause_s = self._spread_s
            return self._spread_s * _chance()
        # A login without an answer may be one of too many: the next one comes later and later.
        most_s = AWAY_S if self._is_away else max(BACKOFF_MOST_S, 4 * self._spread_s)
        # Up to half shorter, so that bots that lost one server do not come back in one moment.
        pause_s = min(self._pause_s, most_s) * (1 - 0.5 * _chance())
        self._pause_s = min(2 * self._pause_s, most_s)
        return pause_s

    async def _attempt(self, server: str, consumers: frozenset[str]) -> Connection:
        """One attempt at one server. Raises :class:`ConnectionFailed` when a step takes longer than
        :data:`ATTEMPT_S`, so after four times that at most, and the time of a signer."""
        # The key has a time of its own. Otherwise a slow signer would look like a slow server.
        key = await self._session_key(server)
        client = HardenedClient(self._credentials.tls)
        now = asyncio.get_running_loop().time
        began = now()

        def next_step() -> None:
            nonlocal began
            began = now()
            limit.reschedule(began + ATTEMPT_S)

        async def before_login() -> None:
            await self._let_relays_first(began, is_new=self._is_new(server, client.greeted_by))
            next_step()

        client.before_login = before_login
        try:
            async with asyncio.timeout(ATTEMPT_S) as limit:
                await client.connect(servers=[server], **self.options(key, consumers))
                next_step()
                await self._attach(client)
                next_step()
                # The server answers a PING after everything before it, refusals included.
                await client.flush(ATTEMPT_S)
            # nats-py's flush() also returns where its loops have ended, without an answer.
            if client.is_closed:
                raise client.last_error or ConnectionError("closed")
        except Exception as error:
            # Of any type: whatever a server's bytes bring about ends this attempt, and no more.
            client.abort()
            # Not if no relay answered: that says nothing about the key.
            is_answered = now() - began < NO_RELAY_S
            if is_denied(error) and is_answered:
                self._keys.doubt()
            # No greeting has come, and the server has not hung up either.
            self._is_away &= not (client.greeted or (client.reached and is_answered))
            raise self._why(error, server, client=client, began=began) from error
        except BaseException:
            # Cancelled by the caller's deadline: the state of an unfinished attempt is better than
            # nothing for explain().
            client.abort()
            self.failures.setdefault(
                server,
                self._why(TimeoutError(), server, client=client, began=began),
            )
            raise
        return Connection(client, consumers, key, self._keys.renew_s)

    def _is_new(self, server: str, its_id: str) -> bool:
        """Whether another server was met at this address last, or this one before its start."""
        last = self._met.get(server, its_id)
        self._met[server] = its_id
        return last != its_id

    async def _let_relays_first(self, began: float, *, is_new: bool) -> None:
        """Wait before a login if the server, which has greeted, was away just now.

        A start may be shorter than the pause between two attempts. ``is_new``: whether it has begun
        anew.
        """
        is_late = asyncio.get_running_loop().time() - began > LATE_S
        if self._was_away or is_late or is_new:
            await asyncio.sleep(RELAYS_FIRST_S)

    async def _session_key(self, server: str) -> SessionKey:
        """A session key for an attempt at ``server``. Raises :class:`ConnectionFailed` after a
        bounded time."""
        try:
            async with asyncio.timeout(self._keys.within_s):
                return await self._keys.session_key(server)
        except Exception as error:  # noqa: BLE001  # of any type, as in an attempt
            self._is_away = False  # whoever has the key is asked less often than a server
            raise self._keys.explain(error) from None
        except BaseException:
            # As in an attempt.
            self.failures.setdefault(server, self._keys.explain(None))
            raise

    def _why(
        self,
        error: Exception,
        server: str,
        *,
        client: HardenedClient,
        began: float,
    ) -> ConnectionFailed:
        waited_s = asyncio.get_running_loop().time() - began
        bot = self._credentials.bot
        return explain(error, server, bot, stage=client.stage, waited_s=waited_s)

    def options(self, key: SessionKey, consumers: frozenset[str]) -> dict[str, Any]:
        """nats-py's options: the admission text as token, and how the challenge is answered."""
        bot = self._credentials.bot
        said = AdmissionText.of(key, bot, tuple(sorted(consumers)))

        async def on_error(error: Exception) -> None:
            if (denied := _NOT_ALLOWED.search(str(error))) is not None:
                self._on_denied(denied[1])
            elif "permissions violation" in str(error).lower():
                log.warning("nats: %s", shortly(error))
            else:
                log.debug("nats: %s", shortly(error))

        return login_options(
            said, key.key, inbox_prefix=f"{INBOX}.{bot}", attempt_s=ATTEMPT_S, on_error=on_error
        )


_all_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""The turns of the bots of each event loop."""


def _turns() -> asyncio.Semaphore:
    """A turn to connect is one of these."""
    loop = asyncio.get_running_loop()
    return _all_turns.setdefault(loop, asyncio.Semaphore(ATTEMPTS_AT_ONCE))


def _chance() -> float:
    """A random number from 0 to 1."""
    return secrets.randbelow(1001) / 1000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
