"""A session key that is kept, from an exchange of a token of an identity provider.

How it works. A bot without an enrolled key gets a token (:mod:`sealbus.tokens`), makes a session
key, and has the bus certify it over a connection of its own
(:mod:`sealbus.protocol.exchange`). Such a certificate lives for as long as the policy says, an hour
by default. So the key is *kept*, and each connection of the bot uses it. The key is in one of these
states:

======== ================================================================== =====================
state    meaning                                                            left for
======== ================================================================== =====================
none     there is no key, or its certificate has ended                      kept, by an exchange
kept     less than half of its life has passed                              due
due      another half is left, or somebody doubts the key: a relay refused  kept; none
         it, or refused a login with it
======== ================================================================== =====================

Each new connection asks for the key. When it is due, a new token is exchanged first. If that fails,
the bot goes on with the key that it has, while it lasts, and says so in the log. The session is
renewed in half of the time that is left, so the next attempt comes early enough.

A token is exchanged once. When the connection is lost before the answer, the same token is
exchanged again with the same new key, and gives the same certificate. A source that is slow or
hangs is asked once: the next attempt takes the same answer, unless that is older than
:data:`LATE_S`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from sealbus.credentials import Credentials
from sealbus.errors import ConnectionFailed, CredentialsError, Malformed, SealbusError
from sealbus.life.login import login_options
from sealbus.log import log
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import NO_RELAY_S, explain, is_denied
from sealbus.nats.records import read, read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.exchange import PREFIX, TOKEN, ExchangeRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.value import value
from sealbus.supervision import kind, spawn
from sealbus.tokens import TokenSource

EXCHANGE_S: Final = 4.0
"""How long the exchange of a token may take. nats-server waits two seconds for the relay."""

TOKEN_S: Final = 6.0
"""How long a source may take to give a token. A token endpoint has five seconds."""

KEY_S: Final = TOKEN_S + EXCHANGE_S
"""How long a key may take in all."""

LATE_S: Final = 60.0
"""The longest time between an answer of the source and its use. A token may live for a few minutes
only. The pause between two attempts is shorter."""

LEAST_S: Final = 5.0
"""A key that lasts for less is not used any more. It is also the shortest time between two renewals
of a session because of the key."""


@value
class _Kept:
    """A session key, with its times."""

    key: SessionKey
    enrolled: bytes
    """The raw public key of the session issuer that has certified it."""
    ends_at: float
    """When its certificate ends, by the monotonic clock."""
    life_s: float

    def left_s(self) -> float:
        return self.ends_at - time.monotonic()


class Exchanger:
    """Makes and keeps the session key of one bot. The module names its states."""

    within_s: Final = KEY_S
    """How long :meth:`session_key` may take."""

    def __init__(self, credentials: Credentials, source: TokenSource) -> None:
        self._credentials = credentials
        self._source = source
        self._kept: _Kept | None = None
        self._is_doubted = False
        self._getting: asyncio.Task[str] | None = None
        """A call of the source whose answer was not taken yet."""
        self._answered_at = 0.0
        """When the last call of the source ended, by the monotonic clock."""
        self._pending: tuple[str, SigningKey] | None = None
        """The token (by its digest) of an exchange without an answer, and the key for it."""
        self._used: str | None = None
        """The digest of the token that was exchanged last."""

    async def session_key(self, server: str) -> SessionKey:
        """The session key for a connection to ``server``.

        Raises :class:`CredentialsError` without a token, and :class:`ConnectionFailed` if the bus
        does not exchange it.
        """
        kept = self._kept if self._kept is not None and self._kept.left_s() > LEAST_S else None
        if kept is not None and not self._is_doubted and kept.left_s() > kept.life_s / 2:
            return kept.key
        try:
            self._kept = await self._exchange(server)
        except SealbusError as error:
            if kept is None:
                raise
            log.warning(
                "no new session key for %s yet: %s; it goes on with the one that ends in %d s",
                self._credentials.bot,
                error.what,
                kept.left_s(),
            )
            return kept.key
        self._is_doubted = False
        return self._kept.key

    def doubt(self) -> None:
        """Exchange a new token before the next connection: relays may refuse the key."""
        self._is_doubted = True

    @property
    def enrolled(self) -> bytes | None:
        """The raw public key that answers for the session key, if there is one."""
        return None if self._kept is None else self._kept.enrolled

    @property
    def renew_s(self) -> float:
        """In how many seconds a session has to be renewed, so that it has a key after that too."""
        return LEAST_S if self._kept is None else max(LEAST_S, self._kept.left_s() / 2)

    def explain(self, error: Exception | None) -> ConnectionFailed:
        """Explain an attempt that ended with ``error`` before there was a session key.

        ``None``: it was cancelled.
        """
        bot = self._credentials.bot
        if isinstance(error, SealbusError):
            return ConnectionFailed(error.what, hint=error.hint)
        if error is not None and not isinstance(error, TimeoutError):
            return ConnectionFailed(f"{bot} could not get a session key: {kind(error)}")
        how_long = "yet" if error is None else f"within {KEY_S:g} s"
        return ConnectionFailed(
            f"{self._source.name} was not exchanged {how_long}",
            hint="does the source of tokens answer, and is a relay there?",
        )

    async def _token(self) -> str:
        while True:
            if self._getting is None:
                self._getting = spawn(self._get(), f"token of {self._credentials.bot}")
            # Not cancelled with this attempt: the next one takes the answer.
            done, _ = await asyncio.wait([self._getting], timeout=TOKEN_S)
            if not done:
                raise CredentialsError(
                    f"{self._source.name} has not come within {TOKEN_S:g} s",
                    hint="does its source answer?",
                )
            getting, self._getting = self._getting, None
            if time.monotonic() - self._answered_at <= LATE_S:
                return getting.result()

    async def _get(self) -> str:
        try:
            return await self._source.get()
        finally:
            self._answered_at = time.monotonic()

    async def _exchange(self, server: str) -> _Kept:
        """Exchange a new token at ``server``."""
        bot = self._credentials.bot
        token = await self._token()
        identity = record_id(token)
        if identity == self._used:
            raise CredentialsError(
                f"{self._source.name} was used before, and a token is exchanged once",
                hint=f"{bot} waits for the next one; a shorter life of tokens brings it sooner",
            )
        if self._pending is None or self._pending[0] != identity:
            self._pending = identity, SigningKey.generate(KeyKind.BOT)
        key = self._pending[1]
        record = await self._ask(server, token, identity, key)
        self._used, self._pending = identity, None
        if record.key != key.public.raw:
            raise CredentialsError(
                f"{self._source.name} was exchanged before, by another process",
                hint=f"each process of {bot} needs tokens of its own, and a process that is "
                f"started again needs a new one; {bot} waits for the next one",
            )
        return self._checked(record, key)

    def _checked(self, record: ExchangeRecord, key: SigningKey) -> _Kept:
        credentials = self._credentials
        certificate = record.read_certificate(bus=credentials.bus, bot=credentials.bot)
        life_s = certificate.life_ms / 1000
        # The relay's clock dates it. By this clock it may be a little in the future, or of before.
        age_s = min(max(0.0, time.time() - certificate.not_before_ms / 1000), life_s)
        ends_at = time.monotonic() + life_s - age_s
        made = SessionKey(key, record.certificate)
        return _Kept(made, certificate.enrolled, ends_at, life_s)

    async def _ask(self, server: str, token: str, identity: str, key: SigningKey) -> ExchangeRecord:
        """Log in with the token, and read its record."""
        credentials = self._credentials
        client = HardenedClient(credentials.tls)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(EXCHANGE_S):
                await client.connect(servers=[server], **self._options(token, identity, key))
                asked = read_subject(record_subject(TOKEN, identity))
                data = await read(client, asked, EXCHANGE_S)
                # In good order, which ends nats-py's tasks too.
                await client.close()
            if data is None:
                raise ConnectionFailed("the bus has no record of the token that it exchanged")
            return ExchangeRecord.decode(data)
        except (ConnectionFailed, Malformed) as error:
            raise ConnectionFailed(error.what, hint=error.hint) from None
        except Exception as error:  # noqa: BLE001  # of any type, as in other attempts
            waited_s = asyncio.get_running_loop().time() - began
            if is_denied(error) and waited_s < NO_RELAY_S:
                raise ConnectionFailed(
                    f"the bus did not exchange {self._source.name} for {credentials.bot}",
                    hint="the relay's log says why (admission.denied); is the identity in "
                    "policy.yaml, with this issuer, audience and subject?",
                ) from None
            stage = client.stage
            raise explain(error, server, credentials.bot, stage=stage, waited_s=waited_s) from None
        finally:
            client.abort()

    def _options(self, token: str, identity: str, key: SigningKey) -> dict[str, Any]:
        bot = self._credentials.bot
        said = AdmissionText(bot, key.public.text, certificate=PREFIX + token)
        return login_options(said, key, inbox_prefix=inbox(identity), attempt_s=EXCHANGE_S)
