"""The parts of a bot, and how they are wired to each other.

How it works. :class:`BotParts` makes each part once. None of them knows the bot. Each reports to a
function that it was given, which is a method here:

* **session**: ``_attach`` for every new connection, ``_on_lost``, ``_on_back``, and the listener's
  ``deny`` for a refused subscription. It is told the bus's notices.
* **grants**: tell the session over how long to spread its return, and the publisher the rates.
* **publisher**: the policy in each stamp goes to the grants
  (:class:`~sealbus.grants.KnownGrants`), which are asked for again when it is another. The times of
  each verdict go to the clock (:class:`~sealbus.life.clock.Clock`).
* **opener**: a live message that comes too late has the grants asked for again, because the verdict
  on that question tells whether this machine's clock is wrong.
* **publisher** and **opener**: a stamp by an unknown key of the bus has the keyring looked at
  (:class:`~sealbus.life.keyring.KeyringReader`). The keys that it brings are in the trust
  (:class:`~sealbus.trust.Trust`), which each part asks.
* **listener**: ``_on_denied`` for a subscription whose grant is gone.
* **supervisor**: ``_on_failure`` when the bot cannot go on.

:mod:`sealbus.presence` acts on each report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from sealbus.arguments import RENEW_LEAST_S, check_seconds
from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, SealbusError, SubscriptionDenied
from sealbus.grants import GRANTS, Grants, KnownGrants
from sealbus.life.clock import Clock
from sealbus.life.keyring import KeyringReader
from sealbus.life.session import RENEW_S, Session, Watchers
from sealbus.life.states import BotState, Life
from sealbus.nats.client import HardenedClient
from sealbus.protocol.delivery import Message
from sealbus.protocol.seal import Verifier
from sealbus.protocol.subjects import (
    BUS,
    INBOX,
    REPLY,
    nonce_in,
    notice_subject,
    receipts_subject,
)
from sealbus.receiving.listener import Listener
from sealbus.receiving.verifier import DeliveryVerifier
from sealbus.sending.publisher import Publisher
from sealbus.sending.requester import REQUEST_TIMEOUT_S, Requester
from sealbus.sending.sender import Sender
from sealbus.sending.speaking import Speaker
from sealbus.supervision import Supervisor
from sealbus.trust import Trust


class BotParts(ABC):
    """Makes a bot's parts, and hands on messages to them."""

    def __init__(self, credentials: Credentials, *, renew_s: float | None = None) -> None:
        """``renew_s``: seconds between two renewals of the session; ``None``: the default."""
        if not isinstance(credentials, Credentials):
            raise InvalidInput(
                f"Bot() takes Credentials, got {type(credentials).__name__}",
                hint="use Bot.from_file(path)",
            )
        self.credentials = credentials
        self._life = Life(credentials.bot)
        self._supervisor = Supervisor(credentials.bot, self._on_failure)
        # One for all parts, because a stamp that came as a receipt comes again in answers.
        verifier = Verifier()
        renew_s = (
            RENEW_S if renew_s is None else check_seconds("renew_s", renew_s, least=RENEW_LEAST_S)
        )
        trust = Trust.of(credentials)
        self._session = Session(
            credentials,
            self._attach,
            supervisor=self._supervisor,
            renew_s=renew_s,
            watchers=Watchers(
                on_lost=self._on_lost,
                on_back=self._on_back,
                on_rekeyed=self._resend,
                on_denied=self._on_pattern_denied,
            ),
            trust=trust,
        )
        self._keyring = KeyringReader(
            trust,
            self._session.client,
            supervisor=self._supervisor,
            on_change=self._resend,
        )
        self._clock = Clock(credentials.bot)
        self._known = KnownGrants(
            self._ask_grants,
            self._supervisor,
            self._on_grants,
        )
        self._publisher = Publisher(
            sender=Sender(
                credentials=credentials,
                session=self._session,
                verifier=verifier,
                supervisor=self._supervisor,
                on_policy=self._known.notice,
                clock=self._clock,
                trust=trust,
                on_unknown=self._keyring.look,
            ),
            supervisor=self._supervisor,
        )
        self._receipts = receipts_subject(credentials.bot).encode()
        """Bundles of receipts come here. Single ones come on subjects that end with a nonce."""
        self._notices = notice_subject(credentials.bot).encode()
        """The bus says here why it ends the session."""
        self._opener = DeliveryVerifier(
            credentials,
            verifier,
            clock=self._clock,
            on_late=self._known.notice_late,
            trust=trust,
            on_unknown=self._keyring.look,
        )
        self._requester = Requester(
            credentials=credentials,
            publisher=self._publisher,
            opener=self._opener,
            verifier=verifier,
            trust=trust,
        )
        self._speaker = Speaker(
            credentials,
            self._life,
            publisher=self._publisher,
            requester=self._requester,
            known=self._known,
        )
        self._listener = Listener(
            credentials.bot,
            self._life,
            session=self._session,
            opener=self._opener,
            requester=self._requester,
            draft=self._speaker.draft,
            known=self._known,
            supervisor=self._supervisor,
            on_denied=self._on_denied,
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """A bot with the credentials in ``path``. Raises :class:`CredentialsError`."""
        return cls(Credentials.load(path))

    @classmethod
    def from_environment(cls) -> Self:
        """A bot with the credentials that the environment names. Raises
        :class:`CredentialsError`."""
        return cls(Credentials.from_environment())

    @property
    def name(self) -> str:
        """The bot's name."""
        return self.credentials.bot

    @property
    def state(self) -> BotState:
        """Where the bot is in its life."""
        return self._life.state

    @property
    def denied_subscriptions(self) -> dict[str, int]:
        """How often a subscription of this bot was denied, by its pattern."""
        return dict(self._listener.denied)

    @property
    def refused_deliveries(self) -> dict[str, int]:
        """How many deliveries this bot did not believe, by the check that failed."""
        return dict(self._opener.refused)

    # ---- arrivals --------------------------------------------------------------------------------

    async def _attach(self, client: HardenedClient) -> None:
        """Learn the bus's keys, and subscribe everything, on a new connection."""
        # First, so that no stamp on this connection meets old keys.
        await self._keyring.read(client)
        await client.subscribe_direct(f"{INBOX}.{self.name}.*", self._on_inbox)
        await client.subscribe_direct(f"{BUS}.{REPLY}.{self.name}.*", self._requester.receive)
        await self._listener.attach(client)
        # The question leaves once a connection is in use. Its answer comes to this one too.
        self._known.renew()

    async def _ask_grants(self) -> Message:
        header, data = self._speaker.draft(GRANTS, {})
        return await self._requester.request(header, data, timeout_s=REQUEST_TIMEOUT_S)

    def _on_inbox(self, subject: bytes, _: bytes, __: bytes, data: bytes) -> None:
        if subject == self._receipts:
            self._publisher.receive(data)
        elif subject == self._notices:
            self._session.take_notice(data)
        elif (nonce := nonce_in(subject)) is not None:
            self._publisher.receive(data, nonce)

    def _resend(self) -> None:
        # There is a new key. If it is the bus's, receipts under it were not believed until now, and
        # the relay gives them again. If it is this session's, the relay refused the one before.
        self._publisher.resend()

    # ---- reports ---------------------------------------------------------------------------------

    def _on_grants(self, grants: Grants) -> None:
        self._session.spread(grants.spread_ms / 1000)
        self._publisher.follow(grants)

    @abstractmethod
    def _on_lost(self, why: str) -> None:
        """The session is down."""

    @abstractmethod
    def _on_back(self, after_s: float) -> None:
        """The session is up again, after ``after_s`` seconds."""

    @abstractmethod
    def _on_denied(self, error: SubscriptionDenied) -> bool:
        """A subscription's grant is gone. Returns whether a hook was told."""

    @abstractmethod
    def _on_failure(self, error: SealbusError) -> None:
        """A part ended that the bot cannot do without."""

    def _on_pattern_denied(self, pattern: str) -> None:
        self._listener.deny(pattern)
