"""An attack is a small case. It names the part that must stop it, and the reason.

Each family of attacks has a file beside this one.

Attacks by a message go to the gate alone, with one check after the other taken out, and to a
running bus. All other attacks are tried at the part that :class:`Where` names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sealbus.protocol.reason import Reason
from tests.gate.bus import ACCEPTED, Step
from tests.gate.scenarios import Scenario, Teller, scenario

if TYPE_CHECKING:
    from tests.attacks.line import Line
    from tests.policy.folder import Folder

ESCAPED: Final = "escaped"
KNOWN: Final = "known by its nonce"
NOTHING: Final = "nothing came of it"
LESSER: Final = "rival"
"""The bot with few rights, which attacks. In the demo it has another name."""

Said = tuple[str | None, bytes | str | None]
"""A login: the admission text, and the signature or a replacement for it."""


class Where(StrEnum):
    """The part that stops an attack."""

    TLS = "TLS"
    """nats-server says nothing before TLS. No case of the corpus is stopped here, because its bus
    has no TLS: the demo has such attacks."""
    DOOR = "admission"
    GATE = "relay: gate"
    LEDGER = "relay: ledger"
    SERVICE = "relay: service"
    """The request is valid, but the bot has no right to it.

    The answer says so, and nothing was made.
    """
    NATS = "NATS permissions"
    LIMIT = "NATS limits"
    """nats-server refuses the frame because of its size, and closes the connection."""
    STREAMS = "NATS streams"
    """nats-server takes the frame, and stores no part of it."""
    ACCOUNTS = "NATS accounts"
    """nats-server sends its answer to an account in which nobody listens."""
    JETSTREAM = "JetStream limits"
    BOT = "the bot itself"
    LOADER = "policy loader"
    OUTPUT = "command's output"


@dataclass(frozen=True, slots=True)
class Login:
    """An attempt to get a session. ``make`` gets the server's challenge."""

    make: Callable[[bytes], Said]
    client_tls: Callable[[], object] | None = None
    """Gives nats-server's data about the connection's TLS. ``None``: there is no TLS."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame in the session of a bot with few rights.

    No client library of NATS checks it first.
    """

    make: Callable[[bytes, str], bytes]
    """Gets a body that nobody has sent before, and the name of the bot."""


@dataclass(frozen=True, slots=True)
class Vain:
    """Frames that nats-server takes, and that must have no effect.

    ``make`` gets a body, the bot, and one of the bot's own consumers.
    """

    make: Callable[[bytes, str, str], bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the bus's own services."""

    tell: Callable[[], tuple[Step, ...]]


@dataclass(frozen=True, slots=True)
class Favour:
    """A valid request for a thing that the bot has no right to. ``tell`` makes the step."""

    tell: Callable[[], tuple[Step, ...]]


@dataclass(frozen=True, slots=True)
class Pull:
    """Equal requests to JetStream for the messages of a durable subscription.

    They name another bot's address for the answer.
    """

    body: bytes
    times: int = 1


@dataclass(frozen=True, slots=True)
class Greeting:
    """A false greeting.

    The owner of a bot's line sends it in the server's place when the bot connects for the first
    time.
    """

    says: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """An act of the owner of a bot's line while the bot has a session."""

    act: Callable[[Line], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Written:
    """A change in the bus's folder. ``write`` gets a small valid folder."""

    write: Callable[[Folder], None]


@dataclass(frozen=True, slots=True)
class Shown:
    """A text that a command shows."""

    text: str


Case = Scenario | Login | Frame | Vain | Request | Favour | Pull | Greeting | Told | Written | Shown


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the table."""

    family: str
    name: str
    about: str
    where: Where
    reason: str
    case: Case
    alone: str = ""
    """The reason why only the gate is tried, and not a running bus."""
    lead_ms: int = 0
    """How much later than now the message is dated, in milliseconds.

    A millisecond beyond a limit is within it again when the message arrives.
    """
    one_by_one: bool = False
    """Whether each step waits for the verdict on the one before.

    Messages that are judged together are charged together.
    """


class Family:
    """Attacks of one family, gathered by decorating the functions that make them.

    The docstring of such a function describes its attack.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.attacks: list[Attack] = []

    def attack(
        self,
        check: str,
        reason: Reason,
        *,
        without: str = ACCEPTED,
        alone: str = "",
        lead_ms: int = 0,
        one_by_one: bool = False,
    ) -> Callable[[Teller], Teller]:
        """A message (or the last of several) that ``check`` of the gate must stop, with ``reason``.

        ``without`` is the outcome where that check is missing.
        """

        def keep(tell: Teller) -> Teller:
            made = scenario(tell, reason.value, check, without)
            attack = self._by_message(made, Where.GATE)
            self._add(replace(attack, alone=alone, lead_ms=lead_ms, one_by_one=one_by_one))
            return tell

        return keep

    def ledger(self, reason: Reason) -> Callable[[Teller], Teller]:
        """A message that passes the gate itself, and that the ledger stops."""

        def keep(tell: Teller) -> Teller:
            self._add(self._by_message(scenario(tell, reason.value), Where.LEDGER))
            return tell

        return keep

    def _by_message(self, made: Scenario, where: Where) -> Attack:
        return Attack(self.name, made.name, made.about, where, made.expect, made)

    def login(
        self, reason: str, client_tls: Callable[[], object] | None = None
    ) -> Callable[[Callable[[bytes], Said]], None]:
        """A login that the door must refuse, with ``reason``. ``client_tls``: see
        :class:`Login`."""

        def keep(make: Callable[[bytes], Said]) -> None:
            case = Login(make, client_tls)
            self._add(Attack(self.name, make.__name__, _about(make), Where.DOOR, reason, case))

        return keep

    def folder(self, reason: str) -> Callable[[Callable[[Folder], None]], None]:
        """A change of the folder that the loader must refuse, in these words."""

        def keep(write: Callable[[Folder], None]) -> None:
            self._add(
                Attack(
                    self.name, write.__name__, _about(write), Where.LOADER, reason, Written(write)
                )
            )

        return keep

    def line(self, reason: str) -> Callable[[Callable[[Line], Awaitable[None]]], None]:
        """An act on a bot's line that the bot must ignore, with ``reason``."""

        def keep(act: Callable[[Line], Awaitable[None]]) -> None:
            self._add(Attack(self.name, act.__name__, _about(act), Where.BOT, reason, Told(act)))

        return keep

    def greeting(self, name: str, says: bytes, about: str, reason: str) -> None:
        """A server's first line to which a bot must send nothing.

        Afterwards the bot connects again.
        """
        self._add(Attack(self.name, name, about, Where.BOT, reason, Greeting(says)))

    def pull(self, name: str, body: bytes, about: str, reason: str, *, times: int = 1) -> None:
        """A request that JetStream must refuse, in these words."""
        self._add(Attack(self.name, name, about, Where.JETSTREAM, reason, Pull(body, times)))

    def shown(self, name: str, about: str, text: str) -> None:
        """A text of which nothing may reach the terminal unchanged."""
        self._add(Attack(self.name, name, about, Where.OUTPUT, ESCAPED, Shown(text)))

    def request(
        self, name: str, about: str, tell: Callable[[], tuple[Step, ...]], reason: Reason
    ) -> None:
        """A message to the relay's own services, which the gate of a running bus must refuse."""
        self._add(Attack(self.name, name, about, Where.GATE, reason.value, Request(tell)))

    def favour(
        self, name: str, about: str, tell: Callable[[], tuple[Step, ...]], error: str
    ) -> None:
        """A request that passes the gate, and to which the relay must answer with this error."""
        self._add(Attack(self.name, name, about, Where.SERVICE, error, Favour(tell)))

    def vain(
        self, name: str, about: str, where: Where, make: Callable[[bytes, str, str], bytes]
    ) -> None:
        """Frames without an effect."""
        self._add(Attack(self.name, name, about, where, NOTHING, Vain(make)))

    def too_large(self, name: str, about: str, make: Callable[[bytes, str], bytes]) -> None:
        """A frame after which nats-server ends the connection."""
        self._add(
            Attack(self.name, name, about, Where.LIMIT, "Maximum Payload Violation", Frame(make))
        )

    def forbidden(self, verb: str, subjects: Mapping[str, str]) -> None:
        """Subjects that a bot with few rights may not publish to (``PUB``) or subscribe to
        (``SUB``).

        Each has a description.
        """
        kind = "Publish" if verb == "PUB" else "Subscription"
        for subject, about in subjects.items():
            said = subject.partition(" ")[0]
            reason = f'Permissions Violation for {kind} to "{said}"'
            if verb == "PUB" and {"*", ">"} & set(said.split(".")):
                reason = "Invalid Publish Subject"  # nobody may publish to a pattern
            case = Frame(_publishing(subject) if verb == "PUB" else _subscribing(subject))
            self._add(
                Attack(self.name, f"{verb.lower()} {subject}", about, Where.NATS, reason, case)
            )

    def frame(
        self, name: str, about: str, make: Callable[[bytes, str], bytes], reason: Reason
    ) -> None:
        """A frame that NATS takes, and whose body the gate must refuse."""
        self._add(Attack(self.name, name, about, Where.GATE, reason.value, Frame(make)))

    def _add(self, attack: Attack) -> None:
        assert attack.about, f"{attack.name} has no description"
        assert attack.name not in {known.name for known in self.attacks}, attack.name
        self.attacks.append(attack)


def _about(function: Callable[..., object]) -> str:
    return " ".join((function.__doc__ or "").split())


def _publishing(subject: str) -> Callable[[bytes, str], bytes]:
    return lambda body, bot: (
        f"PUB {subject.replace(LESSER, bot)} {len(body)}\r\n".encode() + body + b"\r\n"
    )


def _subscribing(subject: str) -> Callable[[bytes, str], bytes]:
    return lambda _, bot: f"SUB {subject.replace(LESSER, bot)} 7\r\n".encode()
