"""The auth callout: the server asks a relay who may come in.

It signs and reads JWTs as nats-server does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify
from sealbus_broker.memory.accounts import Accounts
from sealbus_broker.memory.grant import Grant
from sealbus_broker.memory.interest import Subscription
from sealbus_broker.memory.wire import Message
from sealbus_broker.nats import jwt
from sealbus_broker.nats.config import AUTHORIZATION_TIMEOUT_S, BUS_ACCOUNT

SUBJECT: Final = "$SYS.REQ.USER.AUTH"


class Denied(Exception):
    """The answer gives no session."""


class Callout:
    """Asks, and reads the answers."""

    def __init__(self, accounts: Accounts, key: SigningKey, issuer: PublicKey) -> None:
        """``key``: the server's own. ``issuer``: whose sessions it believes."""
        self._accounts = accounts
        self._key = key
        self._issuer = issuer
        self._asked = 0

    def ask(
        self,
        connect: Mapping[str, Any],
        nonce: str,
        connection: int,
        answered: Callable[[Grant | None], None],
    ) -> Callable[[], None]:
        """Ask about one connection. ``answered`` is called once; ``None``: refused, or no answer.

        Returns a function that gives the question up.
        """
        # A key for this login alone, by which its answer is known.
        user = SigningKey.generate(KeyKind.BOT).public.text
        self._asked += 1
        reply = f"_INBOX.callout.{self._asked}"
        interest = self._accounts.interest(BUS_ACCOUNT)

        def end() -> None:
            timer.cancel()
            interest.remove(subscription)

        def on_answer(message: Message) -> None:
            end()
            try:
                grant: Grant | None = self._read(message.data, user)
            except (Denied, ValueError, KeyError, TypeError):
                grant = None
            answered(grant)

        def on_silence() -> None:
            end()
            answered(None)

        subscription = Subscription(reply, "", on_answer)
        interest.add(subscription)
        timer = asyncio.get_running_loop().call_later(AUTHORIZATION_TIMEOUT_S, on_silence)
        request = self._request(connect, nonce, connection, user)
        self._accounts.publish(BUS_ACCOUNT, Message(SUBJECT, reply, data=request))
        return end

    def _request(self, connect: Mapping[str, Any], nonce: str, connection: int, user: str) -> bytes:
        own, now_s = self._key.public.text, int(time.time())
        client = {"host": "127.0.0.1", "id": connection, "kind": "Client", "type": "nats"}
        claims = {
            "aud": jwt.REQUEST_AUDIENCE,
            "sub": self._issuer.text,
            "exp": now_s + AUTHORIZATION_TIMEOUT_S,
            "nats": {
                "type": "authorization_request",
                "version": 2,
                "server_id": {"name": "memory", "host": "127.0.0.1", "id": own},
                "user_nkey": user,
                # As nats-server: the challenge of a client that signs nothing is not passed on.
                "client_info": client | ({"nonce": nonce} if connect.get("sig") else {}),
                "connect_opts": dict(connect),
            },
        }
        return jwt.sign(claims, self._key, now_s).encode()

    def _read(self, answer: bytes, user: str) -> Grant:
        claims = self._verified(answer)
        if claims["sub"] != user or claims["aud"] != self._key.public.text:
            raise Denied("the answer is about another login")
        if claims["nats"].get("error"):
            raise Denied("refused")
        session = self._verified(claims["nats"]["jwt"].encode())
        rights = session["nats"]
        if session["sub"] != user or session["exp"] <= time.time():
            raise Denied("the session is another's, or is over")
        return Grant(
            account=session["aud"],
            publish=tuple(rights["pub"]["allow"]),
            subscribe=tuple(rights["sub"]["allow"]),
            max_payload=rights["payload"],
            max_subscriptions=rights["subs"],
            expires_at_s=session["exp"],
        )

    def _verified(self, token: bytes) -> dict[str, Any]:
        head, body, signature = token.split(b".")
        signed = head + b"." + body
        if not verify(self._issuer.raw, signed, _decode(signature)):
            raise Denied("the signature does not hold")
        claims: dict[str, Any] = json.loads(_decode(body))
        if claims["iss"] != self._issuer.text:
            raise Denied("issued by another")
        return claims


def _decode(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
