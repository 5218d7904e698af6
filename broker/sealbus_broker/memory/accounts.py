"""The accounts of the bus, and the paths of messages between them.

:mod:`sealbus_broker.nats.config` describes them.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from sealbus_broker.memory.interest import Interest, covers
from sealbus_broker.memory.wire import Message
from sealbus_broker.nats.config import BOTS_ACCOUNT, BUS_ACCOUNT, FULL_ACCOUNT

_IMPORTS: Final = {
    BOTS_ACCOUNT: (BUS_ACCOUNT, ("send.*", "call.*")),
    BUS_ACCOUNT: (BOTS_ACCOUNT, ("bus.>", "inbox.>")),
}
"""By account: who else sees its messages, on which subjects."""

_SERVICES: Final = (
    "$JS.API.CONSUMER.MSG.NEXT.ACCEPTED.*",
    "$JS.ACK.ACCEPTED.>",
    "$JS.API.DIRECT.GET.RECORDS.>",
    "$JS.API.DIRECT.GET.KEYRING.keyring",
)
"""The subjects of JetStream on which bots may ask."""


class Target(NamedTuple):
    """Where an answer goes."""

    account: str
    subject: str


class Service(Protocol):
    """A part of the server that answers requests."""

    def ask(self, message: Message, answer_to: Target) -> bool:
        """Serve a request; whether anything serves its subject."""


class Engine(Service, Protocol):
    """JetStream, as far as messages reach it."""

    def store(self, message: Message, answer_to: Target) -> bool:
        """Store a message in the stream that takes its subject; whether there is one."""


class Accounts:
    """Gives each message to whoever wants it."""

    def __init__(self) -> None:
        self._interest = {name: Interest() for name in (BUS_ACCOUNT, BOTS_ACCOUNT, FULL_ACCOUNT)}
        """By account: its subscriptions."""
        self.engine: Engine | None = None
        """JetStream, in the account BUS. ``None`` before it has started."""
        self.system: Service | None = None
        """The server's services for the account BUS. ``None`` before it has started."""

    def interest(self, account: str) -> Interest:
        """The subscriptions of ``account``."""
        return self._interest[account]

    def publish(self, account: str, message: Message) -> bool:
        """Route a message that was published in ``account``; whether anybody takes it."""
        answer_to = Target(account, message.reply)
        taken = self._ask(account, message, answer_to)
        reached = self._reached(account, message.subject)
        if BUS_ACCOUNT in reached and self.engine is not None:
            taken = self.engine.store(message, answer_to) or taken
        return self._deliver(reached, message.subject, message) or taken

    def answer(self, target: Target, message: Message) -> None:
        """Give ``message``, whatever its own subject, to whoever listens at ``target``."""
        if target.subject:
            self._deliver(self._reached(target.account, target.subject), target.subject, message)

    def listens(self, target: Target) -> bool:
        """Whether anybody would be given an answer at ``target``."""
        reached = self._reached(target.account, target.subject)
        return any(self._interest[account].find(target.subject) for account in reached)

    def _reached(self, account: str, subject: str) -> tuple[str, ...]:
        other, patterns = _IMPORTS.get(account, ("", ()))
        is_shared = any(covers(pattern, subject) for pattern in patterns)
        return (account, other) if is_shared else (account,)

    def _deliver(self, accounts: tuple[str, ...], subject: str, message: Message) -> bool:
        # All are chosen before any is served: a delivery may end a subscription.
        takers = [one for name in accounts for one in self._interest[name].takers(subject)]
        for one in takers:
            one.deliver(message)
        return bool(takers)

    def _ask(self, account: str, message: Message, answer_to: Target) -> bool:
        subject = message.subject
        is_relay = account == BUS_ACCOUNT
        if subject.startswith("$SYS."):
            return is_relay and self.system is not None and self.system.ask(message, answer_to)
        is_service = account == BOTS_ACCOUNT and any(covers(one, subject) for one in _SERVICES)
        if self.engine is None or not (is_service or is_relay):
            return False
        return subject.startswith("$JS.") and self.engine.ask(message, answer_to)
