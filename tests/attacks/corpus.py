"""What an attack is: a small case, who must stop it, and for which reason. Each file beside this one is a family of them.

Attacks by a message are the gate's (``tests/gate/attacks_*.py``): they are judged there, one check after the other taken out, and tried
here again on a bus that runs. Attacks on what stands before the gate are told here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sealbus.reason import Reason
from tests.gate.attacks import ATTACKS as BY_MESSAGE
from tests.gate.bus import Step
from tests.gate.scenarios import Scenario
from tests.policy.folder import Folder

ESCAPED: Final = "escaped"


class Where(StrEnum):
    """What stops an attack."""

    GATE = "relay: gate"
    LEDGER = "relay: ledger"
    DOOR = "admission"
    NATS = "NATS permissions"
    LOADER = "policy loader"
    OUTPUT = "command's output"


@dataclass(frozen=True, slots=True)
class Login:
    """An attempt to get a session. ``make`` is given the server's challenge; it returns the admission text and the signature."""

    make: Callable[[bytes], tuple[str | None, bytes | str | None]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame in the session of a lesser bot, whatever NATS's client libraries think of it."""

    make: Callable[[bytes], bytes]
    """Is given a body that nobody has sent before."""
    body: bytes | None = None
    """What the quarantine must then hold; ``None``: the frame is refused whole."""


@dataclass(frozen=True, slots=True)
class Written:
    """Something written into the bus's folder. ``write`` is given a small sound one."""

    write: Callable[[Folder], None]


@dataclass(frozen=True, slots=True)
class Shown:
    """A text that a command shows."""

    text: str


Case = Scenario | Login | Frame | Written | Shown


@dataclass(frozen=True, slots=True)
class Attack:
    """One row of the table."""

    family: str
    name: str
    about: str
    where: Where
    reason: str
    case: Case


_FAMILIES: Final = {
    "check_size": "exhaustion",
    "check_encoding": "encoding",
    "check_key_known": "identity",
    "check_key_valid": "identity",
    "check_key_revoked": "identity",
    "check_seal": "seal",
    "check_bus": "binding",
    "check_bot": "identity",
    "check_wait": "time of check",
    "check_ledger_age": "freshness and replay",
    "check_not_in_future": "freshness and replay",
    "check_not_expired": "freshness and replay",
    "check_declared": "subjects",
    "check_granted": "grants",
    "check_delivery": "binding",
    "check_ttl": "freshness and replay",
    "check_rate": "exhaustion",
    "check_payload": "encoding",
    "check_schema_known": "schemas",
    "check_schema": "schemas",
    "check_what_came_before": "causes",
    None: "freshness and replay",
}


def _by_message(scenario: Scenario) -> Attack:
    causes = scenario.expect in (Reason.CAUSE, Reason.ALREADY_ANSWERED)
    family = "causes" if causes else _FAMILIES.get(scenario.check, "exhaustion")
    where = Where.GATE if scenario.check else Where.LEDGER
    return Attack(family, scenario.name, scenario.about, where, scenario.expect, scenario)


MESSAGES: Final = tuple(_by_message(scenario) for scenario in BY_MESSAGE)

GATE_ALONE: Final = {
    "a_session_of_nobody": "NATS gives no such session: see admission",
    "a_key_a_millisecond_too_early": "a running bus has no such millisecond",
    "a_key_a_millisecond_too_late": "a running bus has no such millisecond",
    "a_key_at_the_moment_of_its_revocation": "a running bus has no such millisecond",
    "revoked_while_it_waited": "the relay would have to be stopped meanwhile",
    "a_live_message_that_waited": "the relay would have to be stopped meanwhile",
    "waited_too_long": "the relay would have to be stopped for five minutes",
    "from_before_the_ledger": "the ledger would have to be lost",
    "kept_for_later": "the bus would have to be older than what it kept: the demo tries it",
    "issued_ahead_and_judged_later": "the relay would have to be stopped meanwhile",
}
"""Attacks by a message that only the gate itself is tried with, and why."""

ONE_BY_ONE: Final = {"more_than_a_bots_share_of_the_store"}
"""Attacks whose steps wait for the verdict of the one before: what is judged together is charged together."""

LEAD_MS: Final = {
    "issued_ahead_of_time": 30_000,
}
"""How much earlier or later than now an attack is told: a millisecond past a limit is not past it any more when it arrives."""


class Family:
    """Attacks of one family, gathered by decorating the functions that make them. The docstring says what each is about."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attacks: list[Attack] = []

    def login(self, reason: str) -> Callable[[Callable[[bytes], tuple[str | None, bytes | str | None]]], None]:
        """A login that the door must refuse, for ``reason``."""

        def keep(make: Callable[[bytes], tuple[str | None, bytes | str | None]]) -> None:
            about = " ".join((make.__doc__ or "").split())
            self._add(Attack(self.name, make.__name__, about, Where.DOOR, reason, Login(make)))

        return keep

    def folder(self, reason: str) -> Callable[[Callable[[Folder], None]], None]:
        """A change of the folder that the loader must refuse, in these words."""

        def keep(write: Callable[[Folder], None]) -> None:
            about = " ".join((write.__doc__ or "").split())
            self._add(Attack(self.name, write.__name__, about, Where.LOADER, reason, Written(write)))

        return keep

    def shown(self, name: str, about: str, text: str) -> None:
        """A text of which nothing may reach the terminal as it is."""
        self._add(Attack(self.name, name, about, Where.OUTPUT, ESCAPED, Shown(text)))

    def message(self, name: str, about: str, tell: Callable[[], tuple[Step, ...]], reason: Reason) -> None:
        """A message for what the relay itself offers, which the gate of a running bus must refuse."""
        scenario = Scenario(name, about, tell(), reason.value, tell=tell)
        self._add(Attack(self.name, name, about, Where.GATE, reason.value, scenario))

    def forbidden(self, verb: str, subject: str, about: str) -> None:
        """A subject that a lesser bot may not publish to (``PUB``) or subscribe to (``SUB``)."""
        name = f"{verb.lower()} {subject}"
        kind = "Publish" if verb == "PUB" else "Subscription"

        def make(body: bytes) -> bytes:
            if verb == "SUB":
                return f"SUB {subject} 7\r\n".encode()
            return f"PUB {subject} {len(body)}\r\n".encode() + body + b"\r\n"

        said = subject.split(" ", maxsplit=1)[0]
        reason = f'Permissions Violation for {kind} to "{said}"'
        if verb == "PUB" and {"*", ">"} & set(subject.split(".")):
            reason = "Invalid Publish Subject"  # a pattern is none, whoever sends it
        self._add(Attack(self.name, name, about, Where.NATS, reason, Frame(make)))

    def frame(self, name: str, about: str, make: Callable[[bytes], bytes], reason: Reason) -> None:
        """A frame that NATS takes, and whose body the gate must refuse."""
        self._add(Attack(self.name, name, about, Where.GATE, reason.value, Frame(make, b"")))

    def _add(self, attack: Attack) -> None:
        assert attack.about, f"{attack.name} does not say what it is about"
        assert attack.name not in {known.name for known in self.attacks}, attack.name
        self.attacks.append(attack)
