"""Subjects that no policy declares, or that are not valid."""

from __future__ import annotations

from sealbus.protocol.codec import pack_fields
from sealbus.protocol.reason import Reason
from tests.attacks.corpus import Family
from tests.gate.bus import Step
from tests.gate.scenarios import BREAKS
from tests.gate.world import (
    ORDER,
    envelope,
    fields,
    odd,
)

FAMILY = Family("subjects")
attack = FAMILY.attack


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def subject_with_a_wildcard() -> Step:
    """The subject is a pattern."""
    return Step(odd(pack_fields([*fields()[:2], "orders.*", *fields()[3:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def subject_with_a_line_feed() -> Step:
    """The subject ends in a line feed, which a careless regular expression lets pass."""
    return Step(odd(pack_fields([*fields()[:2], "orders.placed\n", *fields()[3:]])))


@attack("check_declared", Reason.UNDECLARED_SUBJECT, without="not-granted")
def a_subject_of_nobody() -> Step:
    """A subject that no policy declares."""
    return Step(envelope(subject="orders.cancelled", payload=ORDER))


def _spelled(subject: str) -> Step:
    return Step(odd(pack_fields([*fields()[:2], subject, *fields()[3:]])))


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_subject_with_an_empty_token() -> Step:
    """Two dots in a row, which some readers take for one."""
    return _spelled("orders..placed")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_subject_with_a_space() -> Step:
    """A space, after which NATS's own protocol would read a reply address."""
    return _spelled("orders.placed inbox.order.00")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_subject_of_jetstream() -> Step:
    """A subject on which JetStream takes commands: ``$`` is not allowed in a subject of the bus."""
    return _spelled("$JS.API.STREAM.DELETE.ACCEPTED")


@attack("check_encoding", Reason.ENCODING, without=BREAKS)
def a_subject_in_other_letters() -> Step:
    """A Cyrillic letter that looks like its Latin neighbour."""
    return _spelled("\u043erders.placed")


@attack("check_declared", Reason.UNDECLARED_SUBJECT, without="not-granted")
def a_subject_below_a_declared_one() -> Step:
    """One token more than the policy declares.

    A rule does not apply to the subjects below its own.
    """
    return Step(envelope(subject="orders.placed.again", payload=ORDER))


@attack("check_declared", Reason.UNDECLARED_SUBJECT, without="not-granted")
def a_subject_of_the_bus_that_is_not_there() -> Step:
    """A subject that begins like the bus's own subjects."""
    return Step(envelope(subject="sealbus.everything", payload=ORDER))
