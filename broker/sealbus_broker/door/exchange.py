"""Logins with a token of an identity provider, for a session certificate in exchange.

Such a login proves two things. An identity of the bot fits the token
(:mod:`sealbus_broker.oidc.verifying`). And the session key in the admission text has signed the
login, token and challenge together. It has to come by TLS, because whoever reads a token on its way
could use it first.

An *exchange* goes through these states:

========= ====================================================================== ==================
state     meaning                                                                left for
========= ====================================================================== ==================
judged    :func:`judge_exchange` has found nothing against its words. Pure       proven; refused
proven    the token was verified, with keys of its provider                      recorded; refused
recorded  RECORDS has a record of the token: with this session key and its       admitted; refused
          certificate, or with the key that came first
admitted  for half a minute, the session may read this record and do nothing     its end
          else
refused   the token does not hold, its provider cannot be asked, or nothing      another attempt
          could be recorded in time
========= ====================================================================== ==================

The record is written once, whatever number of relays is asked at a time. So the first session key
wins, and the holder of another one reads that it came too late. The certificate is in the record
before anybody can read it. When the connection is lost, the login gets no answer. The bot tries
again with the same key, and gets the same certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from nats.aio.client import Client

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.records import read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.certificate import certify
from sealbus.protocol.exchange import TOKEN, ExchangeRecord, inbox
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_SESSION_KEY_MS
from sealbus_broker.door.errands import Latest, NotRecorded, write
from sealbus_broker.door.rights import Rights
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.gate.policy import BotRule, Limits, Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.oidc.keys import Keys
from sealbus_broker.oidc.providers import Providers
from sealbus_broker.oidc.token import Token
from sealbus_broker.oidc.verifying import Proven, verify

log = get_logger(__name__)

MOST_LOGINS: Final = 4
"""How many logins by one token one relay admits within :data:`SESSION_MS`. A bot makes one, and
another where the first has no answer. They do not count as sessions of the bot."""

SPARE: Final = 2
"""How many exchanges a bot has for each session that it may have, in half of the life of a session
key. It needs one of them, and another after a restart. A bot that can get any number of tokens
would otherwise fill RECORDS, and keep all others from exchanging theirs."""

RECORD_S: Final = 0.8
"""How long the record may take. The keys of a provider may take a second, and a login has two."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange, judged. ``repr()`` shows nothing of the token."""

    bot: str
    key: bytes
    """The raw public session key, which signs the challenge."""
    token: Token = field(repr=False)

    @property
    def subject(self) -> str:
        """The subject of its record."""
        return record_subject(TOKEN, self.token.digest)

    @property
    def rights(self) -> Rights:
        """The rights of its session."""
        return Rights(
            publish=(read_subject(self.subject),),
            subscribe=(f"{inbox(self.token.digest)}.>",),
            deny=(),
        )


def judge_exchange(said: AdmissionText, token: str, bot: BotRule) -> Exchange | str:
    """Judge the words of a login with ``token``, or return the reason why it is refused. The token
    is *not* verified here."""
    if not bot.identities:
        return "the policy has no identities of this bot"
    if said.consumers:
        return "a login with a token has no consumers"
    try:
        return Exchange(bot.name, PublicKey.parse(said.key, KeyKind.BOT).raw, Token.decode(token))
    except (InvalidInput, Malformed) as error:
        return error.what


class Exchanges:
    """Verifies and records exchanges on the door's connection.

    Its state is the keys of providers, the times of the latest logins by each token, and the latest
    tokens of each bot. They are lost with the process.
    """

    def __init__(
        self,
        *,
        nc: Client,
        issuer: Callable[[], SigningKey | None],
        providers: Providers,
        monotonic: Callable[[], float],
    ) -> None:
        """
        Args:
            nc: A connection that is logged in as the relay.
            issuer: Gives the session-issuer key. ``None``: this relay has none.
            providers: The keys of providers.
            monotonic: A clock that is never set, in seconds.
        """
        self._nc = nc
        self._issuer = issuer
        self._providers = providers
        self._monotonic = monotonic
        self._latest = Latest(monotonic)
        self._tried: dict[str, dict[str, _Tried]] = {}
        """By bot: its latest tokens that were recorded here, or may have been."""
        self._followed: Policy | None = None
        """The policy by which providers are kept."""

    async def record(
        self, exchange: Exchange, policy: Callable[[], Policy], now_ms: int
    ) -> str | None:
        """Verify and record an exchange, or return the reason why it is refused.

        Args:
            exchange: The login.
            policy: Gives the policy in force.
            now_ms: The time of the login (ms since 1970).
        """
        await self._forget_others(policy())
        # First without a wait: another provider of the bot may be away.
        keys = self._providers.fresh(_identities(policy(), exchange.bot))
        proven = self._prove(exchange, policy(), keys, now_ms)
        if isinstance(proven, str):
            key_id = exchange.token.key_id
            keys = await self._providers.keys_of(_identities(policy(), exchange.bot), key_id)
            # By the policy after the wait.
            proven = self._prove(exchange, policy(), keys, now_ms)
        if isinstance(proven, str):
            return proven
        if (why := self._latest.refuse(exchange.token.digest, MOST_LOGINS)) is not None:
            return why
        if (why := self._has_enough(exchange, policy().limits)) is not None:
            return why
        mine = self._certified(exchange, policy(), now_ms)
        if isinstance(mine, str):
            return mine
        # Before the wait: other exchanges of the bot come meanwhile.
        tried = self._count(exchange, mine)
        try:
            data = await write(self._nc, exchange.subject, mine.encode(), RECORD_S)
        except NotRecorded as error:
            # It counts: it may be recorded all the same.
            return str(error)
        if data not in tried.records:
            # Another relay has recorded it, or this one before its start.
            self._tried[exchange.bot].pop(exchange.token.digest, None)
        try:
            first = ExchangeRecord.decode(data)
        except Malformed as error:
            return f"the record of the token is not readable: {error.what}"
        # And by the policy after this wait. A bot that is no longer named must not read the
        # certificate.
        proven = self._prove(exchange, policy(), keys, now_ms)
        if isinstance(proven, str):
            return proven
        provider = proven.identity.provider.name
        fields = {"bot": exchange.bot, "provider": provider, "session_key": _text(exchange.key)}
        if first.key == exchange.key:
            log.info("token.exchanged", **fields)
        else:
            # A second process with the same token, one that was started again, or a thief.
            log.warning("token.used-before", **fields, first=_text(first.key))
        return None

    async def close(self) -> None:
        """Give up all fetches that are under way."""
        await self._providers.keep(())

    async def _forget_others(self, policy: Policy) -> None:
        """Forget the providers that the policy no longer has."""
        if policy is not self._followed:
            self._followed = policy
            await self._providers.keep(
                one for bot in policy.bots.values() for one in bot.identities
            )

    def _prove(
        self, exchange: Exchange, policy: Policy, keys: Mapping[Provider, Keys], now_ms: int
    ) -> Proven | str:
        identities = _identities(policy, exchange.bot)
        if not identities:
            return "the policy has no identities of this bot"
        skew_ms = policy.limits.clock_skew_ms
        verdict = verify(exchange.token, identities, keys, now_ms, skew_ms)
        if isinstance(verdict, Proven):
            return verdict
        causes = self._providers.failures(identities) if verdict.unknown_key else []
        return "; ".join([verdict.why, *causes])

    def _certified(self, exchange: Exchange, policy: Policy, now_ms: int) -> ExchangeRecord | str:
        """Return the record for the login, or why there can be none."""
        issuer = self._issuer()
        if issuer is None:
            return "this relay has no session-issuer key: `sealbus keys issuer` makes one"
        known = policy.session_issuers.get(issuer.public.raw)
        if known is None or not known.opens(now_ms, policy.limits.clock_skew_ms):
            return (
                "the session-issuer key of this relay is not one of keys/sealbus.yaml that are"
                " valid: does this relay have the relay.toml that `sealbus keys issuer` wrote?"
            )
        certificate = certify(
            issuer,
            exchange.key,
            bus=policy.bus,
            bot=exchange.bot,
            not_before_ms=now_ms,
            life_ms=min(policy.limits.session_key_ms, MAX_SESSION_KEY_MS),
        )
        return ExchangeRecord(exchange.key, certificate)

    def _has_enough(self, exchange: Exchange, limits: Limits) -> str | None:
        """Return why the bot may exchange no further token for now, or ``None``."""
        bot = exchange.bot
        within_s = limits.session_key_ms / 2000
        most = SPARE * limits.connections
        since = self._monotonic() - within_s
        tried = {token: one for token, one in self._tried.get(bot, {}).items() if one.at > since}
        self._tried[bot] = tried
        # A bot without an answer comes again with its token.
        if exchange.token.digest in tried or len(tried) < most:
            return None
        return f"the bot has exchanged {most} tokens within {within_s:g} s, as many as it may"

    def _count(self, exchange: Exchange, record: ExchangeRecord) -> _Tried:
        """Count a token, for which ``record`` will be tried."""
        counted = self._tried[exchange.bot]
        tried = counted.setdefault(exchange.token.digest, _Tried(self._monotonic(), []))
        tried.records.append(record.encode())
        return tried


@dataclass(frozen=True, slots=True)
class _Tried:
    """A token that was recorded here, or may have been."""

    at: float
    """When it was tried first (monotonic clock)."""
    records: list[bytes]
    """Those that were tried. One of them may be the record of the token."""


def _identities(policy: Policy, bot: str) -> tuple[Identity, ...]:
    rule = policy.bots.get(bot)
    return () if rule is None else rule.identities


def _text(raw: bytes) -> str:
    return PublicKey(raw, KeyKind.BOT).text
