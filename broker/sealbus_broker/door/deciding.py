"""Whether a login opens a session, and which one. Pure.

A bot connects with an admission text (:mod:`sealbus.protocol.admission`) as its token, and with a
signature over the server's challenge and that text. There are three kinds of logins:

============ ================================ ======================================================
in the text  the key that has signed          the session
============ ================================ ======================================================
certificate  a session key, which an enrolled has exactly the rights that
             key certifies                    :mod:`sealbus_broker.door.rights` computes
join proof   a key that is to be enrolled     may read its join record, and nothing else
                                              (:mod:`sealbus_broker.door.joining`)
token        a session key without a          may read the certificate that it gets in exchange, and
             certificate                      nothing else (:mod:`sealbus_broker.door.exchange`)
============ ================================ ======================================================

The last two are *errands*. :mod:`sealbus_broker.door.admission` records them, and answers
nats-server.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace
from typing import Any, Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import SIGNATURE_BYTES, KeyKind, PublicKey
from sealbus.protocol.limits import MAX_CONSUMERS
from sealbus.protocol.seal import Verifier, verify_connect
from sealbus.protocol.subjects import consumer_owner
from sealbus_broker.door.client_certificate import certificate_end_ms
from sealbus_broker.door.errands import SESSION_MS
from sealbus_broker.door.exchange import Exchange, judge_exchange
from sealbus_broker.door.joining import Joining, judge_join
from sealbus_broker.door.rights import Rights, rights
from sealbus_broker.gate.certificates import ends_ms, objection
from sealbus_broker.gate.policy import BotRule, Policy

CLIENT_CHARS: Final = 64
"""How long a client's language and version may be. nats-server lists both with each session, and a
relay has to take the list of thousands."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The session of an admitted bot."""

    bot: str
    key: bytes
    """The bot's enrolled key (raw, public) that answers for the session. On an errand, the key of
    its invitation or its session key."""
    rights: Rights
    expires_at_ms: int
    """When the session ends (ms since 1970)."""
    errand: Joining | Exchange | None = None
    """The one thing for which a login without an enrolled key comes. It has to be recorded before
    the login is answered."""


@dataclass(frozen=True, slots=True)
class Denial:
    """The reason why a connection is not admitted: for the log, and not for the client."""

    bot: str | None
    """The bot that the client says it is, if it says so."""
    why: str
    """A sentence."""


def decide(
    connect: dict[str, Any], challenge: object, policy: Policy, now_ms: int
) -> Admitted | Denial:
    """Judge one connection.

    Args:
        connect: The options that the client sent.
        challenge: The nonce that the server sent to the client.
        policy: The policy in force.
        now_ms: The time of the login (ms since 1970).
    """
    token = connect.get("auth_token")
    signature_text = connect.get("sig")
    if not (
        isinstance(token, str) and isinstance(signature_text, str) and isinstance(challenge, str)
    ):
        return Denial(None, "no admission text, signature or challenge")
    if not (challenge.isascii() and challenge):
        return Denial(None, "the challenge is empty, or not ASCII")
    try:
        said = AdmissionText.decode(token)
    except Malformed as error:
        return Denial(None, error.what)
    # The relays' own name is not among them, so nobody logs in as a relay.
    bot = policy.bots.get(said.bot)
    if bot is None:
        return Denial(said.bot, "the policy knows no such bot")
    # The key before the signature: only a key of the bot's is worth the cost of verifying.
    opening = (
        _check_join(said, bot, policy, now_ms)
        or _check_token(said, bot, now_ms)
        or _check_keys(said, bot, policy, now_ms)
    )
    if isinstance(opening, Denial):
        return opening
    why = (
        _check_signature(opening.key, signature_text, challenge=challenge, token=token)
        or _check_names(said, connect)
        or _check_consumers(said)
    )
    return Denial(said.bot, why) if why else opening.session


@dataclass(frozen=True, slots=True)
class _Opening:
    """A session that a key opens."""

    key: bytes
    """The raw public key that has to sign."""
    session: Admitted


def _check_join(
    said: AdmissionText, bot: BotRule, policy: Policy, now_ms: int
) -> _Opening | Denial | None:
    """Return what a join proof opens, or the reason why it opens nothing. ``None``: there is no
    such proof."""
    try:
        proof = said.read_proof()
    except Malformed as error:
        return Denial(bot.name, error.what)
    if proof is None:
        return None
    joining = judge_join(said, proof, bot, policy, now_ms)
    if isinstance(joining, str):
        return Denial(bot.name, joining)
    ends_at_ms = now_ms + SESSION_MS
    session = Admitted(bot.name, proof.token_key, joining.rights, ends_at_ms, joining)
    return _Opening(joining.key, session)


def _check_token(said: AdmissionText, bot: BotRule, now_ms: int) -> _Opening | Denial | None:
    """Return what a token opens once it is verified, or the reason why it opens nothing. ``None``:
    there is no token."""
    if said.token is None:
        return None
    exchange = judge_exchange(said, said.token, bot)
    if isinstance(exchange, str):
        return Denial(bot.name, exchange)
    key = exchange.key
    session = Admitted(bot.name, key, exchange.rights, now_ms + SESSION_MS, exchange)
    return _Opening(key, session)


def bind(session: Admitted, client_tls: object, policy: Policy) -> Admitted | Denial:
    """Hold a session to its connection: to TLS where a token came by it, and to the certificate,
    with which it ends at the latest.

    Args:
        session: The session of a bot that has proven who it is.
        client_tls: What nats-server says of the connection's TLS. ``None``: it has no TLS.
        policy: The policy by which the session was admitted.
    """
    if isinstance(session.errand, Exchange) and not isinstance(client_tls, dict):
        return Denial(session.bot, "a token came without TLS, so others may have read it")
    end_ms = certificate_end_ms(client_tls, policy.bots[session.bot].certificate_names)
    if isinstance(end_ms, str):
        return Denial(session.bot, end_ms)
    return replace(session, expires_at_ms=min(session.expires_at_ms, end_ms))


def _check_keys(
    said: AdmissionText, bot: BotRule, policy: Policy, now_ms: int
) -> _Opening | Denial:
    """Return what the bot's keys open, or the reason why they open nothing."""
    name = bot.name
    try:
        raw = PublicKey.parse(said.key, KeyKind.BOT).raw
        certificate = said.read_certificate()
    except (InvalidInput, Malformed) as error:
        return Denial(name, error.what)
    if certificate is None and not bot.seals_directly:
        return Denial(
            name, "no session certificate; the policy demands one (seals_directly is not set)"
        )
    key = bot.keys.get(certificate.enrolled if certificate else raw)
    if key is None:
        return Denial(name, "the key is not one of this bot's")
    skew_ms = policy.limits.clock_skew_ms
    if not key.opens(now_ms, skew_ms):
        return Denial(name, "the key is not yet valid, expired or revoked")
    ends_at_ms = min(now_ms + policy.limits.session_ms, key.ends_for(skew_ms))
    if certificate is not None:
        why = objection(certificate, key, policy.limits, now_ms)
        if why is not None:
            return Denial(name, f"the session certificate is not valid: {why}")
        if not certificate.holds(Verifier(), bus=policy.bus, bot=name, key=raw):
            return Denial(name, "the session certificate is not for this key, bot and bus")
        ends_at_ms = min(ends_at_ms, ends_ms(certificate, policy.limits))
    return _Opening(raw, Admitted(name, key.raw, rights(bot, said.consumers), ends_at_ms))


def _check_signature(key: bytes, text: str, *, challenge: str, token: str) -> str | None:
    """Return why ``text`` is not the signature of ``key`` over a login, or ``None``."""
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "the signature is not base64"
    if len(signature) != SIGNATURE_BYTES or not verify_connect(
        key, challenge=challenge.encode(), admission=token.encode(), signature=signature
    ):
        return "the signature does not hold over the challenge and the admission text"
    return None


def _check_consumers(said: AdmissionText) -> str | None:
    """Return why a session may not have the consumers of its text, or ``None``."""
    if len(said.consumers) > MAX_CONSUMERS:
        return f"{len(said.consumers)} consumers; at most {MAX_CONSUMERS}"
    if any(consumer_owner(consumer) != said.bot for consumer in said.consumers):
        return "a consumer that is not the bot's own"
    return None


def _check_names(said: AdmissionText, connect: dict[str, Any]) -> str | None:
    """Return the objection to the names that a client gives itself, or ``None``.

    Operators and relays believe the list of sessions, which tells no more of a session than this.
    """
    # The certificate, proof or token was read before, so the text has a name.
    if connect.get("name") != said.client_name:
        return "the client's name does not say its bot, its keys and its certificate's times"
    for field in ("lang", "version"):
        if len(str(connect.get(field, ""))) > CLIENT_CHARS:
            return f"the client's {field} has more than {CLIENT_CHARS} characters"
    return None
