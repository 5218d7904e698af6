"""Who may connect, and what their session may do: the answer to NATS's auth callout.

nats-server knows no bots. It asks here about each login. :mod:`sealbus_broker.door.deciding`
decides, and :class:`Admission` counts, records and answers. A login ends in one of three ways:

- *Admitted.* The answer is a session in the account BOTS, with its rights and its end.
- *Denied.* The bot learns only that it was not admitted. The reason is in the relay's log, so a
  stranger learns nothing about the policy.
- *Full.* The bot has proven who it is, and has all the sessions that it may have, or has to pause
  because it flooded the bus (:mod:`sealbus_broker.door.pauses`). It is told so, by way of
  :data:`~sealbus_broker.nats.config.FULL_ACCOUNT`.

When the connection is lost, nobody asks, and logins that are being answered get no answer.
nats-server refuses each after two seconds, and the bot tries again. Another relay may answer
meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.nats.client import HardenedClient
from sealbus.nats.frames import pub
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus_broker.door import admitted
from sealbus_broker.door.deciding import Admitted, Denial, bind, decide
from sealbus_broker.door.exchange import Exchanges
from sealbus_broker.door.joining import Joining, Joins
from sealbus_broker.door.pauses import PAUSES_SUBJECT, Pauses, errands_of
from sealbus_broker.door.sessions import Entry, Sessions
from sealbus_broker.door.throttle import Throttle
from sealbus_broker.escape import printable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats import jwt
from sealbus_broker.nats.config import (
    BOTS_ACCOUNT,
    FULL_ACCOUNT,
    MAX_BOT_PAYLOAD_BYTES,
    MAX_SUBSCRIPTIONS,
)
from sealbus_broker.oidc.providers import Providers

log = get_logger(__name__)

GRANTS_LOGGED: Final = 600
"""How many lines a minute the log has about admitted bots. Each bot has a line in ten seconds, so a
bus of a hundred bots has all its lines."""

CONFIG_HINT: Final = (
    "does it run with the configuration that this version of `sealbus prepare` writes?"
)

CALLOUT_SUBJECT: Final = "$SYS.REQ.USER.AUTH"
"""The subject on which nats-server asks about each login."""

FIELD_SHOWN: Final = 64
"""How many characters of a client's address, and of its way in, the log has. nats-server writes
both, and the limit stays for a server that does not."""

_NUMBER: Final = re.compile(r"\d+")

PLAIN: Final = "Client/nats"
"""The only way in: a client, by NATS's own protocol. An operator's own nats-server may listen for
WebSocket, MQTT or leaf nodes too, and asks here about their logins. No bot uses them, and the
rights of a session were tried on none of them."""


class Admission:
    """Answers the auth callout on a connection of its own. Several relays share the work.

    It is *stopped*, *answering* from :meth:`start` on, and *stopped* again after :meth:`stop`. Each
    login is a task of its own, and keeps nothing but the counts of sessions. On a lost connection
    logins go unanswered, and nats-py subscribes again by itself: see the module.
    """

    def __init__(
        self,
        *,
        nc: HardenedClient,
        issuer: SigningKey,
        policy: Callable[[], Policy],
        session_issuer: Callable[[], SigningKey | None] = lambda: None,
        providers: Providers | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; :meth:`start` begins to answer.

        Args:
            nc: A connection that is logged in as the relay.
            issuer: The key that signs sessions.
            policy: Gives the policy in force. It gives the same object until the policy changes.
            session_issuer: Gives the key that certifies session keys in exchange for tokens.
                ``None``: this relay has none.
            providers: The keys of identity providers. ``None``: they are fetched.
            now: The wall clock, in seconds since 1970.
            monotonic: A clock that is never set, in seconds.
        """
        self._nc = nc
        self._issuer = issuer
        self._policy = policy
        self._now = now
        self._sessions = Sessions(nc, monotonic)
        """Counts the sessions of each bot."""
        self._pauses = Pauses()
        """The bots that have to pause."""
        self._joins = Joins(nc, monotonic)
        """Records the logins by invitations."""
        self._exchanges = Exchanges(
            nc=nc,
            issuer=session_issuer,
            providers=Providers(monotonic=monotonic) if providers is None else providers,
            monotonic=monotonic,
        )
        """Verifies and records the logins by tokens."""
        self._refusals = Throttle(monotonic)
        """Bounds the log lines about logins that failed."""
        self._grants = Throttle(monotonic, lines=GRANTS_LOGGED)
        """Bounds the log lines about logins that succeeded."""
        self._subscription: Any = None
        """To the callout, once started."""
        self._hearing: Any = None
        """To the pauses, once started."""
        self._answering: set[asyncio.Task[None]] = set()
        """The logins that are being answered. The server bounds them by its number of connections,
        and by the two seconds that it waits for each answer."""

    async def start(self) -> None:
        """Begin to answer."""
        self._hearing = await self._nc.subscribe(PAUSES_SUBJECT, cb=self._on_pauses)
        self._subscription = await self._nc.subscribe(
            CALLOUT_SUBJECT, queue="relays", cb=self._on_request
        )
        await self._nc.flush()

    async def stop(self) -> None:
        """Answer the logins that have come, and no more."""
        # Without a connection a drain would wait ten seconds for its round trip.
        if self._subscription is not None and self._nc.is_connected:
            with contextlib.suppress(NatsError, OSError):
                await self._subscription.drain()
            with contextlib.suppress(NatsError, OSError):
                await self._hearing.unsubscribe()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await self._exchanges.close()

    async def _on_request(self, msg: Msg) -> None:
        """Answer a login beside others.

        While nats-server is asked about the sessions of one bot, the next bot is judged.
        """
        # Without the supervisor: an error is lost with this one login, which nats-server refuses
        # after its time-out.
        task = asyncio.create_task(self._respond(msg))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _on_pauses(self, msg: Msg) -> None:
        # Only a relay's login can publish there. A relay of another version may say it otherwise.
        with contextlib.suppress(Malformed):
            self._pauses.take(msg.data, int(self._now() * 1000))

    async def _respond(self, msg: Msg) -> None:
        try:
            await self._nc.publish(msg.reply, await self._answer(msg.data))
        except Malformed as error:
            self._warn("admission.malformed", "malformed", error=error.what)
        except (NatsError, OSError) as error:
            self._warn("admission.unanswered", "unanswered", error=type(error).__name__)

    def _warn(self, event: str, kind: Hashable, **fields: Any) -> None:
        """Write a line into the log, unless there were many like it."""
        left_out = self._refusals.may_speak(kind)
        if left_out is not None:
            log.warning(event, **fields, left_out=left_out)

    async def _answer(self, request: bytes) -> bytes:
        """Return the signed response to one request.

        Raises:
            Malformed: The request is not one of a nats-server.
        """
        now = self._now()
        policy = self._policy()
        login = _read_login(
            jwt.verify_request(request, now, policy.limits.clock_skew_ms / 1000)["nats"]
        )
        decision = _judge(login, policy, int(now * 1000))
        most = policy.limits.connections
        entry = Entry.NEW
        if isinstance(decision, Admitted):
            entered = await self._enter(decision, login, int(now * 1000), most)
            if isinstance(entered, Denial):
                decision = entered
            else:
                entry = entered
                # The policy may have changed during that wait. Who ends the sessions that it no
                # longer allows does not see this one yet.
                if self._policy() is not policy:
                    now = self._now()
                    decision = _judge(login, self._policy(), int(now * 1000))
        # No wait from here on, so the answer is that of the policy in force.
        response: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if isinstance(decision, Denial):
            self._deny(decision, login.host)
            response["error"] = "not admitted"
        else:
            # Whatever the list says: the pause may have begun meanwhile.
            if left_ms := self._left_ms(decision, int(now * 1000)):
                entry = Entry.FULL
                why = f"it flooded the bus, and has to pause for {left_ms / 1000:.0f} s more"
                self._deny(Denial(decision.bot, why), login.host)
            elif entry is Entry.FULL:
                why = f"it has {most} sessions already, as many as it may (limits.connections)"
                self._deny(Denial(decision.bot, why), login.host)
            elif entry is Entry.NEW and decision.errand is None:
                self._grant(decision, login.host)
            if entry is not Entry.FULL:
                self._tell_admitted(decision, login)
            account = FULL_ACCOUNT if entry is Entry.FULL else BOTS_ACCOUNT
            claims = _user_claims(decision, login.user, account)
            response["jwt"] = jwt.sign(claims, self._issuer, int(now))
        answer = {"sub": login.user, "aud": login.server, "nats": response}
        return jwt.sign(answer, self._issuer, int(now)).encode()

    def _left_ms(self, session: Admitted, now_ms: int) -> int:
        """Return how long a session has to wait for the end of a pause."""
        left_ms = self._pauses.left_ms(session.bot, now_ms)
        if session.errand is not None:
            left_ms = max(left_ms, self._pauses.left_ms(errands_of(session.bot), now_ms))
        return left_ms

    async def _enter(
        self, session: Admitted, login: _Login, now_ms: int, most: int
    ) -> Entry | Denial:
        """Record or count a session that may begin; return how it enters, or why it may not.

        ``most``: how many sessions the bot may have.
        """
        if session.errand is not None:
            if isinstance(session.errand, Joining):
                why = await self._joins.record(session.errand, now_ms)
            else:
                why = await self._exchanges.record(session.errand, self._policy, now_ms)
            return Entry.NEW if why is None else Denial(session.bot, why)
        # Only now, with the bot's proof. A stranger would otherwise use up its sessions.
        try:
            return await self._sessions.admit(session.bot, login.server, login.connection, most)
        except (NatsError, OSError) as error:
            unknown = f"nats-server does not say how many sessions it has ({type(error).__name__})"
            return Denial(session.bot, f"{unknown}; {CONFIG_HINT}")

    def _tell_admitted(self, session: Admitted, login: _Login) -> None:
        """Tell the relays whose session the connection is, before it can send anything."""
        name = session.bot if session.errand is None else errands_of(session.bot)
        word = admitted.encode(login.server, login.connection, name)
        self._nc.write([pub(admitted.ADMITTED_SUBJECT.encode(), word)])

    def _grant(self, session: Admitted, host: str) -> None:
        left_out = self._grants.may_speak(session.bot)
        if left_out is not None:
            key = PublicKey(session.key, KeyKind.BOT).text
            log.info("admission.granted", bot=session.bot, key=key, host=host, left_out=left_out)

    def _deny(self, denial: Denial, host: str) -> None:
        # Without its numbers: a clock that is wrong is wrong by another time at each login.
        kind = denial.bot, _NUMBER.sub("", denial.why)
        self._warn("admission.denied", kind, bot=denial.bot, why=denial.why, host=host)


@dataclass(frozen=True, slots=True)
class _Login:
    """One login that nats-server asks about."""

    connect: dict[str, Any]
    """The options that the client sent."""
    challenge: object
    """The nonce that the server sent to the client."""
    way: str
    """The kind of the client and its protocol, such as ``Client/nats``. Printable."""
    tls: object
    """What the server says of the connection's TLS. ``None``: it has no TLS."""
    host: str
    """The client's address, printable."""
    connection: int
    """The server's number for the connection."""
    user: str
    """The key that the server has made for the session."""
    server: str
    """The server's id, for which the answer is meant."""


def _read_login(nats: Any) -> _Login:
    """Read the fields of a request. Raises :class:`Malformed`."""
    try:
        connect = nats["connect_opts"]
        client = nats["client_info"]
        login = _Login(
            connect=connect,
            challenge=client.get("nonce"),
            way=printable(f"{client.get('kind')}/{client.get('type')}", FIELD_SHOWN),
            tls=nats.get("client_tls"),
            host=printable(str(client.get("host")), FIELD_SHOWN),
            connection=int(client.get("id", 0)),
            user=str(nats["user_nkey"]),
            server=str(nats["server_id"]["id"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise Malformed("a request without its fields") from None
    if not isinstance(connect, dict):
        raise Malformed("a request without its fields")
    return login


def _judge(login: _Login, policy: Policy, now_ms: int) -> Admitted | Denial:
    """Judge one login: its way in, then :func:`decide`, then :func:`bind`."""
    if login.way != PLAIN:
        return Denial(None, f"the login came by {login.way}, and bots come by {PLAIN} alone")
    decision = decide(login.connect, login.challenge, policy, now_ms)
    return decision if isinstance(decision, Denial) else bind(decision, login.tls, policy)


def _user_claims(session: Admitted, user: str, account: str) -> dict[str, Any]:
    may = session.rights
    # Without a "name": nats-server would end the session at each reload (ADR 39).
    return {
        "sub": user,
        "aud": account,
        # Whole seconds, rounded down: no session outlives its key.
        "exp": session.expires_at_ms // 1000,
        "nats": {
            "type": "user",
            "version": 2,
            "subs": MAX_SUBSCRIPTIONS,
            # -1 is NATS's word for no limit. The gate and the payload's limit bound a bot's bytes.
            "data": -1,
            "payload": MAX_BOT_PAYLOAD_BYTES,
            "pub": {"allow": list(may.publish)},
            "sub": {"allow": list(may.subscribe), "deny": list(may.deny)},
        },
    }
