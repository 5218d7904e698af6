"""Whether the message that must come before another one did come before.

The relay's own stamp of the earlier message proves it, so nothing is looked up.
"""

from __future__ import annotations

import re
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.envelope import Envelope, Parent
from sealbus.protocol.limits import MAX_BARE_PARENT_BYTES
from sealbus.protocol.nonces import birth_ms
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import Stamp, open_stamp
from sealbus.protocol.subjects import REPLY, is_own, matches
from sealbus.protocol.value import value
from sealbus_broker.gate.policy import BotRule, CauseRule, DeliveryClass, Policy

_MOST_BARE: Final = f"at most {MAX_BARE_PARENT_BYTES} where the rule compares nothing"
_QUOTED: Final = "the parent quotes an envelope, and nothing is compared here"
_MISSING: Final = object()
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


@value
class Cause:
    """The message from which another one follows: proven, and accepted."""

    stamp: Stamp
    """The verdict on its envelope."""
    index: int
    """The place of its payload there."""
    quote: bytes | None
    """Its envelope with all other payloads withheld, where it is quoted. Not decoded yet."""


def prove_parent(encoded: bytes | None, policy: Policy, verifier: Verifier) -> Cause | str:
    """Return the accepted message that a parent names, or an objection."""
    if encoded is None:
        return "a parent is required"
    try:
        parent = Parent.decode(encoded)
        stamp = open_stamp(parent.stamp, policy.bus_keys, verifier)
    except Malformed as error:
        return f"parent: {error.what}"
    if stamp.bus != policy.bus:
        return "the parent was judged on another bus"
    # Without the count of payloads, one accepted message would be 256 causes.
    if not stamp.accepts(parent.index):
        return "the parent was not accepted"
    return Cause(stamp, parent.index, parent.quote)


def unwanted_parent(rule: CauseRule | None, parent: bytes) -> str | None:
    """Return why ``parent`` is more than ``rule`` asks for, if it is. Nothing of it is decoded."""
    if rule is None:
        return "this subject takes no parent"
    if not rule.match and len(parent) > MAX_BARE_PARENT_BYTES:
        return f"a parent of {len(parent)} bytes; {_MOST_BARE}"
    return None


def check_cause(
    rule: CauseRule,
    bot: BotRule,
    parent: bytes | None,
    payload: object,
    now_ms: int,
    policy: Policy,
    verifier: Verifier,
) -> Cause | str:
    """Return the cause that ``parent`` proves if it satisfies ``rule``, else an objection without
    its values."""
    cause = prove_parent(parent, policy, verifier)
    if isinstance(cause, str):
        return cause
    stamp = cause.stamp
    if not matches(rule.subject, stamp.subject):
        return f"the parent is on {stamp.subject}; expected {rule.subject}"
    if stamp.bot != bot.name and not bot.may_subscribe(stamp.subject):
        # A stamp proves that a message was accepted. It does not prove that its bearer may know it.
        # So a stolen stamp is of no use.
        return "the parent is a message that this bot may not receive"
    is_old = now_ms - stamp.judged_at_ms > rule.within_ms
    if is_old or _is_past(stamp, rule.within_ms, now_ms, policy):
        return f"the parent is older than {rule.within_ms} ms"
    if rule.match:
        difference = _compare(rule.match, cause, payload)
        if difference:
            return difference
    elif cause.quote is not None:
        return _QUOTED
    return cause


def check_reply(
    subject: str,
    parent: bytes | None,
    bot: BotRule,
    now_ms: int,
    policy: Policy,
    verifier: Verifier,
) -> Cause | str:
    """Return the request that a message on ``subject`` answers, or why it is no answer.

    ``reply.<requester>.<nonce>`` needs no grant. The request's stamp proves that the requester
    asked, once, on a subject whose requests this bot may receive. Only the relay answers on the
    bus's own subjects, and it does not judge its own answers. A bot that may watch the requests of
    operators must not be believed in its place.
    """
    if parent is not None and len(parent) > MAX_BARE_PARENT_BYTES:
        return f"a parent of {len(parent)} bytes; at most {MAX_BARE_PARENT_BYTES} in an answer"
    cause = prove_parent(parent, policy, verifier)
    if isinstance(cause, str):
        return cause
    stamp = cause.stamp
    if subject != f"{REPLY}.{stamp.bot}.{stamp.nonce.hex()}":
        return "the parent is another request than the subject names"
    if is_own(stamp.subject):
        return "the request is to the bus itself, and the relay alone answers it"
    if not bot.may_subscribe(stamp.subject):
        return "the request is a message that this bot may not receive"
    if cause.quote is not None:
        return _QUOTED
    within_ms = policy.limits.live_ttl_ms
    if now_ms - stamp.judged_at_ms > within_ms or _is_past(stamp, within_ms, now_ms, policy):
        return f"the request is older than {policy.limits.live_ttl_ms} ms"
    return cause


def _is_past(stamp: Stamp, within_ms: int, now_ms: int, policy: Policy) -> bool:
    """Whether no message may follow from the message of ``stamp`` any more, whichever of its stamps
    is shown.

    A message may have several stamps, also those of copies that were stored too late. Without this
    bound the last one would allow a consequence after the ledger has forgotten the one that
    followed from the first.
    """
    delivery = DeliveryClass.LIVE if stamp.position is None else DeliveryClass.STREAM
    return now_ms > birth_ms(stamp.nonce) + policy.span_ms(delivery) + within_ms


def _compare(pointers: tuple[str, ...], cause: Cause, payload: object) -> str | None:
    if cause.quote is None:
        return "the parent's envelope is required"
    try:
        envelope = Envelope.decode_shown(cause.quote)
        # The digest binds every part, shown or withheld. So nothing else of it need be judged.
        if envelope.digest != cause.stamp.envelope:
            return "the parent's stamp is about another envelope"
        quoted = envelope.payloads[cause.index]
        if quoted is None or envelope.payloads.count(None) != len(envelope.payloads) - 1:
            return "the parent's envelope shows another payload than the parent names"
        earlier = unpack_json(quoted)
    except Malformed as error:
        return f"the parent's envelope: {error.what}"
    for pointer in pointers:
        mine = _at(payload, pointer)
        theirs = _at(earlier, pointer)
        if mine is _MISSING or theirs is _MISSING:
            return f"{pointer} is missing here or in the parent"
        if not _same(mine, theirs):
            return f"{pointer} differs from the parent's"
    return None


def _same(one: object, other: object) -> bool:
    """Whether two JSON values are equal, as JSON says: for Python's ``==``, ``[true]`` is ``[1]``.

    A payload bounds how deep they are.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _at(document: object, pointer: str) -> object:
    """Return the value to which an RFC 6901 pointer leads, or ``_MISSING``."""
    for escaped in pointer.split("/")[1:]:
        token = escaped.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list) and _INDEX.fullmatch(token) and int(token) < len(document):
            document = document[int(token)]
        else:
            return _MISSING
    return document
