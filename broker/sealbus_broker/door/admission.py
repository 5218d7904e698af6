"""Who may connect, and what their session may do: the relay's answer to NATS's auth callout.

A bot connects with an admission text (:mod:`sealbus.protocol.admission`) as its token, and with its
signature over the server's challenge and that text, made under the ``connect`` context. nats-server
verifies neither: it asks here. The answer is a session of a few minutes with exactly these rights,
inside the account BOTS:

========== =======================================================================================================
publish    ``send.<bot>`` and ``call.<bot>``; for each consumer asked for, which must be the bot's own by its name: asking it for
           messages, and acknowledging them
subscribe  ``inbox.<bot>.>``, ``bus.reply.<bot>.>``, and ``bus.<pattern>`` for each grant; in a queue group only under the bot's
           own name, for in another bot's group it would take that bot's messages away
========== =======================================================================================================

:func:`decide` is pure. A refusal tells the bot nothing but that it was refused; the reason is in the relay's log. A bot that has proven
who it is, and has as many sessions as it may, is told that (:data:`~sealbus_broker.nats.config.FULL_ACCOUNT`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.acks import ack_subjects
from sealbus.nats.pull import next_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import SIGNATURE_BYTES, KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_CONSUMERS
from sealbus.protocol.seal import verify_connect
from sealbus.protocol.streams import ACCEPTED
from sealbus.protocol.subjects import BUS, INBOX, REPLY, consumer_owner, ingress_subject
from sealbus_broker.door.sessions import Sessions
from sealbus_broker.door.throttle import Throttle
from sealbus_broker.gate.policy import BotRule, Policy
from sealbus_broker.nats import jwt
from sealbus_broker.nats.config import BOTS_ACCOUNT, FULL_ACCOUNT, MAX_BOT_PAYLOAD_BYTES, MAX_SUBSCRIPTIONS
from sealbus_broker.printable import printable

log = structlog.get_logger(__name__)

GRANTS_LOGGED: Final = 600
"""Lines about bots that came in, a minute at most: one in ten seconds of each bot, so that a bus of a hundred has all of them."""

CONFIG_HINT: Final = "does it run with the configuration that this version of `sealbus prepare` writes?"

CALLOUT_SUBJECT: Final = "$SYS.REQ.USER.AUTH"


@dataclass(frozen=True, slots=True)
class Session:
    """What an admitted bot gets."""

    bot: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a connection is not admitted: for the log, not for the one who asked."""

    bot: str | None
    why: str


def decide(connect: dict[str, Any], challenge: object, policy: Policy, now_ms: int) -> Session | Denial:
    """Judge one connection. ``connect``: the options that the client sent; ``challenge``: the nonce that the server sent it."""
    token, signature_text = connect.get("auth_token"), connect.get("sig")
    if not (isinstance(token, str) and isinstance(signature_text, str) and isinstance(challenge, str)):
        return Denial(None, "no admission text, signature or challenge")
    if not (challenge.isascii() and challenge):
        return Denial(None, "the challenge is empty, or not ASCII")
    try:
        said = AdmissionText.decode(token)
    except Malformed as error:
        return Denial(None, error.what)
    name, consumers = said.bot, said.consumers
    bot = policy.bots.get(name)  # the relays' own name is not among them
    if bot is None:
        return Denial(name, "the policy knows no such bot")
    refused = _check_key(bot, said.key, now_ms)
    if isinstance(refused, Denial):
        return refused
    raw, expires_at_ms = refused
    try:
        signature = base64.b64decode(signature_text, validate=True)
    except (binascii.Error, ValueError):
        return Denial(name, "the signature is not base64")
    if len(signature) != SIGNATURE_BYTES or not verify_connect(
        raw, challenge=challenge.encode(), admission=token.encode(), signature=signature
    ):
        return Denial(name, "the signature does not hold over the challenge and the admission text")
    if len(consumers) > MAX_CONSUMERS:
        return Denial(name, f"{len(consumers)} consumers; at most {MAX_CONSUMERS}")
    for consumer in consumers:
        if consumer_owner(consumer) != name:
            return Denial(name, "a consumer that is not the bot's own")
    return Session(
        name,
        publish=(
            ingress_subject(name, live=False),
            ingress_subject(name, live=True),
            *(next_subject(ACCEPTED, consumer) for consumer in consumers),
            *(ack_subjects(ACCEPTED, consumer) for consumer in consumers),
        ),
        subscribe=(
            f"{INBOX}.{name}.>",
            f"{BUS}.{REPLY}.{name}.>",
            *(f"{BUS}.{pattern}" for pattern in bot.subscribe),
            # nats-server reads "subject queue": where there is such an entry, no other queue group may be joined.
            *(f"{BUS}.{pattern} {name}" for pattern in bot.subscribe),
        ),
        expires_at_ms=min(now_ms + policy.limits.session_ms, expires_at_ms),
    )


def _check_key(bot: BotRule, text: str, now_ms: int) -> tuple[bytes, int] | Denial:
    """The raw key and when a session with it must end, or why it opens nothing."""
    try:
        raw = PublicKey.parse(text, KeyKind.BOT).raw
    except InvalidInput as error:
        return Denial(bot.name, error.what)
    key = bot.keys.get(raw)
    if key is None:
        return Denial(bot.name, "the key is not one of this bot's")
    ends = [at for at in (key.not_after_ms, key.revoked_ms) if at is not None]
    if now_ms < key.not_before_ms or any(at <= now_ms for at in ends):
        return Denial(bot.name, "the key is not yet valid, expired or revoked")
    return raw, min(ends, default=2**53)


class Admission:
    """Answers the auth callout on a connection of its own. Several relays share the work."""

    def __init__(
        self,
        *,
        nc: Client,
        issuer: SigningKey,
        policy: Callable[[], Policy],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``issuer`` signs the sessions."""
        self._nc = nc
        self._issuer = issuer
        self._policy = policy
        self._now = now
        self._sessions = Sessions(nc, monotonic)
        self._refusals = Throttle(monotonic)
        self._grants = Throttle(monotonic, lines=GRANTS_LOGGED)
        self._subscription: Any = None
        self._answering: set[asyncio.Task[None]] = set()
        """Bounded by the server, which has so many connections and waits two seconds for each answer."""

    async def start(self) -> None:
        """Begin to answer."""
        self._subscription = await self._nc.subscribe(CALLOUT_SUBJECT, queue="relays", cb=self._on_request)
        await self._nc.flush()

    async def stop(self) -> None:
        """Answer what has arrived, and no more."""
        if self._subscription is not None and self._nc.is_connected:
            with contextlib.suppress(NatsError, OSError):
                await self._subscription.drain()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _on_request(self, msg: Msg) -> None:
        """Answer beside others: nats-server is asked about one bot's sessions while the next bot is judged."""
        task = asyncio.create_task(self._respond(msg))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _respond(self, msg: Msg) -> None:
        try:
            await self._nc.publish(msg.reply, await self._answer(msg.data))
        except Malformed as error:
            self._warn("admission.malformed", "malformed", error=error.what)
        except (NatsError, OSError) as error:
            self._warn("admission.unanswered", "unanswered", error=type(error).__name__)

    def _warn(self, event: str, kind: Hashable, **fields: Any) -> None:
        """One line in the log, unless there were many like it."""
        left_out = self._refusals.may_speak(kind)
        if left_out is not None:
            log.warning(event, **fields, left_out=left_out)

    async def _answer(self, request: bytes) -> bytes:
        """The signed response to one request. Raises :class:`Malformed` for what no nats-server asked."""
        now = self._now()
        policy = self._policy()
        nats = jwt.verify_request(request, now, policy.limits.clock_skew_ms / 1000)["nats"]
        try:
            connect, client = nats["connect_opts"], nats["client_info"]
            user, server = str(nats["user_nkey"]), str(nats["server_id"]["id"])
            challenge, host, connection = client.get("nonce"), client.get("host"), int(client.get("id", 0))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise Malformed("a request without its fields") from None
        if not isinstance(connect, dict):
            raise Malformed("a request without its fields")
        decision = decide(connect, challenge, policy, int(now * 1000))
        account = BOTS_ACCOUNT
        if isinstance(decision, Session):
            bot, most = decision.bot, policy.limits.connections
            try:
                if not await self._sessions.admit(bot, connection, most):
                    account = FULL_ACCOUNT
                    self._deny(
                        Denial(bot, f"it has {most} sessions already, as many as it may (limits.connections)"), host
                    )
            except (NatsError, OSError) as error:
                why = f"nats-server does not say how many sessions it has ({type(error).__name__}); {CONFIG_HINT}"
                decision = Denial(bot, why)
        response: dict[str, Any] = {"type": "authorization_response", "version": 2}
        if isinstance(decision, Session):
            if account == BOTS_ACCOUNT and (left_out := self._grants.may_speak(decision.bot)) is not None:
                log.info("admission.granted", bot=decision.bot, host=printable(str(host), 64), left_out=left_out)
            response["jwt"] = jwt.sign(_user_claims(decision, user, account), self._issuer, int(now))
        else:
            self._deny(decision, host)
            response["error"] = "not admitted"
        return jwt.sign({"sub": user, "aud": server, "nats": response}, self._issuer, int(now)).encode()

    def _deny(self, denial: Denial, host: object) -> None:
        kind = denial.bot, denial.why
        self._warn("admission.denied", kind, bot=denial.bot, why=denial.why, host=printable(str(host), 64))


def _user_claims(session: Session, user: str, account: str) -> dict[str, Any]:
    return {
        "sub": user,
        "name": session.bot,
        "aud": account,
        "exp": session.expires_at_ms // 1000,
        "nats": {
            "type": "user",
            "version": 2,
            "subs": MAX_SUBSCRIPTIONS,
            "data": -1,
            "payload": MAX_BOT_PAYLOAD_BYTES,
            "pub": {"allow": list(session.publish)},
            "sub": {"allow": list(session.subscribe)},
        },
    }
