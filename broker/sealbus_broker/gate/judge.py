"""The gate: one pure function through which every message must go.

Nothing here reads a clock, a file or the network, and no bytes make it raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import is_bundle, split_bundle, unpack_json
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.limits import (
    LIVE_WAIT_MS,
    MAX_DETAIL_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_FAULTS,
    MAX_LISTED_DETAIL_BYTES,
    most_values,
)
from sealbus.protocol.nonces import life_ms
from sealbus.protocol.reason import OLDER_THAN_LEDGER, Reason
from sealbus.protocol.seal import Context, Verifier
from sealbus.protocol.stamp import RefusedPayload
from sealbus.protocol.subjects import RELAY, REPLY
from sealbus.protocol.value import value
from sealbus_broker.gate.cause import Cause, check_cause, check_reply, prove_parent, unwanted_parent
from sealbus_broker.gate.certificates import objection
from sealbus_broker.gate.policy import (
    BotKey,
    BotRule,
    DeliveryClass,
    Disposition,
    Policy,
    Rate,
    Store,
    SubjectRule,
)
from sealbus_broker.gate.rate import RateMeters
from sealbus_broker.gate.schemas import ERROR, Schema
from sealbus_broker.gate.verdict import Arrival, JudgedAt, Judgment, stored_bytes

ERROR_BYTES: Final = 2048
"""The budget of an answer that a request failed. The longest answer of schema ``sealbus.error.v1``
has 1,100 bytes."""

EXPLAINED: Final = Rate(per_second=2, burst=8)
"""How often one bot's payloads are searched for more than the first fault: as often as a person
looks at the result."""

KEPT: Final = Rate(per_second=10, burst=1_000)
"""How many records of one bot are kept: all mistakes of a program that is wrong about something.
Each record is written to disk, as an accepted message is, and the messages of its batch wait
meanwhile. A flood is known by its first thousand."""

_EXPLAINED: Final = ""
"""The key under which the meters count for :data:`EXPLAINED`: no pattern is empty."""

_KEPT: Final = "!"
"""The key under which they count for :data:`KEPT`: no pattern has this character."""

_REPLIES: Final = f"{REPLY}."
_NO_HEADER: Final = Header("", "", "", b"", 0, 0)


def judge(
    arrival: Arrival, policy: Policy, moment: JudgedAt, verifier: Verifier, meters: RateMeters
) -> Judgment:
    """Judge one message: run :data:`CHECKS` in order. The first one that objects decides.

    Cheap checks that need no key come first. Nothing is believed before the seal holds. The payload
    is decoded only when everything about its header is in order. The last check of all, the nonce
    ledger, is made where an accepted message is stored (:mod:`sealbus_broker.gate.ledger`). So only
    a message that passed all others burns its nonce.

    Args:
        arrival: The message.
        policy: The policy in force.
        moment: The time, and the age of the ledger.
        verifier: Remembers the seals that hold. Losing it changes no verdict.
        meters: Remember rates and shares. Losing them changes no other verdict.
    """
    case = CheckContext(
        arrival=arrival, policy=policy, moment=moment, verifier=verifier, meters=meters
    )
    for check in CHECKS:
        violation = check(case)
        if violation is not None:
            return Judgment(
                arrival=arrival,
                envelope=case.envelope,
                proven=case.proven,
                reason=violation.reason,
                detail=_clip(violation.detail),
                disposition=disposition(
                    violation.reason, case.named_rule(), arrival, policy, moment.now_ms, meters
                ),
                judged_at_ms=moment.now_ms,
                ledger_id=case.ledger_id() if case.may_be_stored() else None,
                refused=case.refused_payloads(),
            )
    assert case.rule is not None
    cause = case.rule.cause
    return Judgment(
        arrival=arrival,
        envelope=case.envelope,
        proven=case.proven,
        reason=None,
        detail=None,
        disposition=policy.default_disposition,
        judged_at_ms=moment.now_ms,
        ledger_id=case.ledger_id(),
        rule=case.rule,
        refused=case.refused_payloads(),
        shows_parent=case.is_reply or (cause is not None and cause.show),
    )


def disposition(
    reason: Reason,
    rule: SubjectRule | None,
    arrival: Arrival,
    policy: Policy,
    now_ms: int,
    meters: RateMeters,
) -> Disposition:
    """Return whether a refused message is kept: as the policy says, within its bot's share.

    Beyond its share it is dropped. Otherwise one bot's messages would push out the records of
    others. Records beyond :data:`KEPT` are dropped too, because other messages wait while a record
    is written.
    """
    wanted = policy.disposition(reason, rule)
    share = policy.share(Store.QUARANTINE)
    bot = arrival.session
    if wanted is not Disposition.QUARANTINE:
        return wanted
    has_room = meters.shares.has_room(bot, Store.QUARANTINE, share, len(arrival.data), now_ms)
    if has_room and meters.allow(bot, _KEPT, KEPT, arrival.arrived_at_ms):
        return wanted
    return Disposition.DROP


def _clip(detail: str | None) -> str | None:
    """Return ``detail`` as a stamp can carry it.

    A longer one would make a stamp that nobody can open, and its sender would never learn the
    reason.
    """
    if detail is None:
        return None
    # UTF-8 has no surrogates, so one becomes an escape. A character that the limit splits is left
    # out.
    clipped = detail.encode("utf-8", "backslashreplace")[:MAX_DETAIL_BYTES]
    lines = clipped.decode("utf-8", "ignore").split("\n")
    return "\n".join(lines[:MAX_FAULTS])


@value
class Violation:
    """A check's objection. ``detail`` names places, rules and limits, and never a payload's
    value."""

    reason: Reason
    detail: str | None = None


class CheckContext:
    """One message under judgment: the arguments, and the findings of the checks so far."""

    __slots__ = (
        "arrival",
        "bot",
        "cause",
        "certificate",
        "envelope",
        "header",
        "is_reply",
        "key",
        "meters",
        "moment",
        "policy",
        "proven",
        "refused",
        "rule",
        "schema",
        "values",
        "verifier",
    )

    def __init__(
        self,
        *,
        arrival: Arrival,
        policy: Policy,
        moment: JudgedAt,
        verifier: Verifier,
        meters: RateMeters,
    ) -> None:
        self.arrival = arrival
        self.policy = policy
        self.moment = moment
        self.verifier = verifier
        self.meters = meters
        self.envelope: Envelope | None = None
        self.header: Header = _NO_HEADER
        """The envelope's header. ``check_encoding`` sets it before any other check reads it."""
        self.is_reply = False
        self.bot: BotRule | None = None
        self.key: BotKey | None = None
        """The enrolled key that answers for the envelope."""
        self.certificate: Certificate | None = None
        """The certificate of the sealing key. ``None``: it is the enrolled key."""
        self.proven = False
        self.rule: SubjectRule | None = None
        self.schema: Schema | None = None
        self.cause: Cause | None = None
        self.values: dict[int, object] = {}
        """The decoded payloads, by index."""
        self.refused: dict[int, Violation] = {}
        """The payloads that are refused for a reason of their own, by index."""

    def named_rule(self) -> SubjectRule | None:
        """Return the rule that disposes of the message, also where no check has come to its
        subject.

        It is asked only behind the seal. A stranger who names a subject has no say in it.
        """
        return (
            self.policy.rule(self.header.subject)
            if self.rule is None and self.proven
            else self.rule
        )

    def refuse_each(self, look: Callable[[int, bytes], Violation | None]) -> Violation | None:
        """Refuse each payload that ``look`` objects to. Each has a verdict of its own.

        Returns:
            The objection to the first payload, if none is left: it is the envelope's then.
        """
        assert self.envelope is not None
        payloads = self.envelope.payloads
        for index, payload in enumerate(payloads):
            if payload is not None and index not in self.refused:
                violation = look(index, payload)
                if violation is not None:
                    self.refused[index] = violation
        return self.refused[0] if len(self.refused) == len(payloads) else None

    def refused_payloads(self) -> tuple[RefusedPayload, ...]:
        """Return the stamp's list of refused payloads. A stamp on one payload has none."""
        if self.envelope is None or len(self.envelope.payloads) == 1:
            return ()
        room = MAX_LISTED_DETAIL_BYTES
        listed = []
        for index, violation in sorted(self.refused.items()):
            detail = _clip(violation.detail)
            room -= len((detail or "").encode())
            listed.append(RefusedPayload(index, violation.reason, detail if room >= 0 else None))
        return tuple(listed)

    def may_be_stored(self) -> bool:
        """Whether a relay that died may have accepted it. It is then refused only once its id is
        closed.

        That relay may have had another policy. So only the seal counts, also where its key was
        revoked or removed.
        """
        if not self.arrival.redelivered or self.envelope is None:
            return False
        return self.proven or self.is_sealed()

    def is_sealed(self) -> bool:
        """Whether the seal of the envelope holds, and its certificate if it has one."""
        assert self.envelope is not None
        seal = self.envelope.seal
        # First, because it is remembered and costs nothing.
        certified = self.certificate is None or self.certificate.holds(
            self.verifier, bus=self.header.bus, bot=self.header.bot, key=seal.key
        )
        return certified and self.verifier.verify(Context.ENVELOPE, seal, self.envelope.outline)

    def ledger_id(self) -> str:
        """Return the id under which the message is stored.

        A bot can collide only with its own nonces. All bots share the id of the one consequence of
        a cause.
        """
        rule = self.policy.rule(self.header.subject)
        once = self.is_reply or (rule is not None and rule.cause is not None and rule.cause.once)
        if once and self.cause is None:  # it was refused before its cause was read
            assert self.envelope is not None
            proven = prove_parent(self.envelope.parent, self.policy, self.verifier)
            self.cause = None if isinstance(proven, str) else proven
        if self.cause is not None and once:
            cause = self.cause.stamp
            if self.is_reply:
                return f"{cause.nonce.hex()}>{self.header.subject}"
            # A reply's subject names the bot that asked. Elsewhere the id must name it. Otherwise a
            # bot that sends a message under another bot's nonce could use up the consequence of the
            # other's message.
            return f"{cause.bot}.{cause.nonce.hex()}.{self.cause.index}>{self.header.subject}"
        return f"{self.arrival.session}.{self.header.nonce.hex()}"


def check_size(case: CheckContext) -> Violation | None:
    """*size*: the message has at most the bytes of the largest envelope."""
    size = len(case.arrival.data)
    if size > MAX_ENVELOPE_BYTES:
        return Violation(Reason.SIZE, f"{size} bytes; at most {MAX_ENVELOPE_BYTES}")
    return None


def check_encoding(case: CheckContext) -> Violation | None:
    """*encoding*: the bytes are exactly one envelope, in the one exact encoding."""
    try:
        if is_bundle(case.arrival.data):
            split_bundle(case.arrival.data)
            return Violation(Reason.ENCODING, "a bundle where one envelope was expected")
        case.envelope = Envelope.decode(case.arrival.data)
    except Malformed as error:
        return Violation(Reason.ENCODING, error.what)
    case.header = case.envelope.header
    case.is_reply = case.header.subject.startswith(_REPLIES)
    return None


def check_key_known(case: CheckContext) -> Violation | None:
    """*unknown-key*: the key that answers for the envelope is a key of the bot whose session sent
    it.

    That is the key which has certified the session key, or else the sealing key itself.
    """
    assert case.envelope is not None
    if case.header.certificate is not None:
        case.certificate = Certificate.decode(case.header.certificate)
    enrolled = case.certificate.enrolled if case.certificate else case.envelope.seal.key
    case.bot = case.policy.sender(case.arrival.session)
    case.key = case.bot.keys.get(enrolled) if case.bot else None
    return Violation(Reason.UNKNOWN_KEY) if case.key is None else None


def check_key_valid(case: CheckContext) -> Violation | None:
    """*key-not-valid*: the key was valid when the message arrived: neither too early nor too
    late."""
    assert case.key is not None
    key = case.key
    at = case.arrival.arrived_at_ms
    if at < key.not_before_ms:
        return Violation(Reason.KEY_NOT_VALID, "not yet")
    if key.not_after_ms is not None and at > key.not_after_ms:
        return Violation(Reason.KEY_NOT_VALID, "no longer")
    return None


def check_key_revoked(case: CheckContext) -> Violation | None:
    """*key-revoked*: the key is not revoked now.

    The clock counts, and not the arrival. Once a key has leaked, no waiting message under it is
    believed. The operator's clock may be ahead, so the revocation counts ``clock_skew`` earlier.
    """
    assert case.key is not None
    revoked_ms = case.key.revoked_for(case.policy.limits.clock_skew_ms)
    if revoked_ms <= case.moment.now_ms:
        return Violation(Reason.KEY_REVOKED)
    return None


def check_certificate_there(case: CheckContext) -> Violation | None:
    """*certificate-missing*: a session key has sealed the envelope, unless the policy lets the bot
    do without."""
    assert case.bot is not None
    if case.certificate is None and not case.bot.seals_directly:
        return Violation(Reason.CERTIFICATE_MISSING)
    return None


def check_certificate_valid(case: CheckContext) -> Violation | None:
    """*certificate-not-valid*: the certificate was valid when the message arrived.

    Where the policy says from when on certificates count, it says so for waiting messages too.
    """
    assert case.key is not None
    if case.certificate is None:
        return None
    at = case.arrival.arrived_at_ms
    why = objection(case.certificate, case.key, case.policy.limits, at)
    return Violation(Reason.CERTIFICATE_NOT_VALID, why) if why else None


def check_seal(case: CheckContext) -> Violation | None:
    """*bad-seal*: the signature holds over the parts as they came, and so does that of the
    certificate.

    From here on the sender is proven.
    """
    if not case.is_sealed():
        return Violation(Reason.BAD_SEAL)
    case.proven = True
    return None


def check_bus(case: CheckContext) -> Violation | None:
    """*wrong-bus*: the message is sealed for this bus.

    This stops a message that was captured on a test bus, where the same key speaks.
    """
    if case.header.bus != case.policy.bus:
        return Violation(
            Reason.WRONG_BUS, f"sealed for {case.header.bus}; this is {case.policy.bus}"
        )
    return None


def check_bot(case: CheckContext) -> Violation | None:
    """*wrong-bot*: the envelope names the same sender as the session and the key."""
    if case.header.bot != case.arrival.session:
        return Violation(
            Reason.WRONG_BOT, f"sealed as {case.header.bot}; sent by {case.arrival.session}"
        )
    return None


def check_birth(case: CheckContext) -> Violation | None:
    """*stale*: the message was sealed within the life of its nonce.

    The ledger remembers a nonce for as long as there may be attempts under it, and no longer.
    """
    age = case.header.issued_at_ms - case.header.birth_ms
    longest = life_ms(live=case.arrival.delivery is DeliveryClass.LIVE)
    if age < 0:
        return Violation(Reason.STALE, f"issued {-age} ms before its nonce was born")
    if age > longest:
        return Violation(
            Reason.STALE, f"issued {age} ms after its nonce was born; at most {longest}"
        )
    return None


def check_wait(case: CheckContext) -> Violation | None:
    """*stale*: the message waited for a relay no longer than the ledger's window allows.

    A live message waits for two seconds at most.
    """
    waited = case.moment.now_ms - case.arrival.arrived_at_ms
    is_live = case.arrival.delivery is DeliveryClass.LIVE
    longest = LIVE_WAIT_MS if is_live else case.policy.limits.ingress_wait_ms
    if waited > longest:
        return Violation(Reason.STALE, f"waited {waited} ms; at most {longest}")
    return None


def check_ledger_age(case: CheckContext) -> Violation | None:
    """*stale*: the nonce was born after the ledger began.

    A ledger that began anew knows of no attempt that was accepted before. So the relay
    accepts neither a captured attempt nor a new one of the sender.
    """
    since = case.moment.ledger_since_ms
    if since is not None and case.header.birth_ms <= since + case.policy.limits.clock_skew_ms:
        return Violation(Reason.STALE, OLDER_THAN_LEDGER)
    return None


def check_not_in_future(case: CheckContext) -> Violation | None:
    """*issued-in-future*: the envelope was not issued ahead of time.

    Such an envelope would outlive the ledger's memory.
    """
    ahead = case.header.issued_at_ms - case.arrival.arrived_at_ms
    if ahead > case.policy.limits.clock_skew_ms:
        return Violation(Reason.ISSUED_IN_FUTURE, f"{ahead} ms ahead")
    return None


def check_not_expired(case: CheckContext) -> Violation | None:
    """*expired*: the time-to-live was not over when the server stored the message."""
    ends = case.header.issued_at_ms + case.header.ttl_ms + case.policy.limits.clock_skew_ms
    if case.arrival.arrived_at_ms > ends:
        return Violation(Reason.EXPIRED, f"{case.arrival.arrived_at_ms - ends} ms late")
    return None


def check_declared(case: CheckContext) -> Violation | None:
    """*undeclared-subject*, or *cause* for an answer: there is a rule for such a message.

    An answer has the rule of its request, which the request's stamp proves. So the cause of a reply
    is judged here.
    """
    if case.is_reply:
        assert case.bot is not None and case.envelope is not None
        proven = check_reply(
            case.header.subject,
            case.envelope.parent,
            case.bot,
            case.moment.now_ms,
            case.policy,
            case.verifier,
        )
        if isinstance(proven, str):
            return Violation(Reason.CAUSE, proven)
        case.cause = proven
        case.rule = case.policy.rule(proven.stamp.subject)
        if case.rule is None or case.rule.reply is None:
            return Violation(Reason.CAUSE, "the request's subject takes no replies")
        return None
    case.rule = case.policy.rule(case.header.subject)
    return Violation(Reason.UNDECLARED_SUBJECT) if case.rule is None else None


def check_granted(case: CheckContext) -> Violation | None:
    """*not-granted*: the policy lets this bot publish here.

    The grant of an answer is the request's stamp.
    """
    assert case.bot is not None
    if not case.is_reply and not case.bot.may_publish(case.header.subject):
        return Violation(Reason.NOT_GRANTED)
    return None


def check_delivery(case: CheckContext) -> Violation | None:
    """*wrong-delivery*: the message came by the delivery class of its subject."""
    assert case.rule is not None
    expected = DeliveryClass.LIVE if case.is_reply else case.rule.delivery
    if case.arrival.delivery is not expected:
        return Violation(
            Reason.WRONG_DELIVERY,
            f"sent as {case.arrival.delivery.value}; expected {expected.value}",
        )
    return None


def check_ttl(case: CheckContext) -> Violation | None:
    """*ttl-too-long*: the time-to-live is at most the one that the policy allows.

    A longer one would outlive the ledger's memory. Stream and live messages have limits of their
    own, so the delivery class is judged first. A stream message that was sent live is refused for
    that, and not for its time-to-live.
    """
    limits = case.policy.limits
    longest = limits.ttl_ms if case.arrival.delivery is DeliveryClass.STREAM else limits.live_ttl_ms
    if case.header.ttl_ms > longest:
        return Violation(Reason.TTL_TOO_LONG, f"{case.header.ttl_ms} ms; at most {longest}")
    return None


def check_parent(case: CheckContext) -> Violation | None:
    """*cause*: the message carries a parent only where the rule asks for one, and no more of it
    than the rule needs.

    Nothing of the parent has been read by then. The parent is outside every schema, and is stored
    in INGRESS with the message. Otherwise a bot that may send 60 bytes could fill it with 256 KiB
    each time.
    """
    assert case.rule is not None and case.envelope is not None
    parent = case.envelope.parent
    if case.is_reply or parent is None:
        return None
    problem = unwanted_parent(case.rule.cause, parent)
    return None if problem is None else Violation(Reason.CAUSE, problem)


def check_together(case: CheckContext) -> Violation | None:
    """*size*: several payloads are together no more than the judging of one envelope may take.

    A request is alone in its envelope, because its answers name it by the nonce.
    """
    assert case.rule is not None and case.envelope is not None
    payloads = case.envelope.payloads
    count = len(payloads)
    if count == 1:
        return None
    if case.rule.reply is not None:
        return Violation(Reason.SIZE, f"{count} payloads; a request has one")
    most = case.rule.together
    if count > most.payloads:
        return Violation(Reason.SIZE, f"{count} payloads; at most {most.payloads} together here")
    size = sum(len(payload) for payload in payloads if payload is not None)
    if size > most.size:
        return Violation(Reason.SIZE, f"{size} bytes of payloads; at most {most.size} together")
    return None


def check_budget(case: CheckContext) -> Violation | None:
    """*size*: each payload has at most the bytes that its subject allows.

    For an answer, it is the subject of the request. The payload is not decoded yet.
    """
    assert case.rule is not None
    most = case.rule.max_bytes
    if case.is_reply and case.header.schema_name == ERROR.name:
        # That a request failed can be said however little its subject allows.
        most = max(most, ERROR_BYTES)

    def look(_: int, payload: bytes) -> Violation | None:
        if len(payload) <= most:
            return None
        return Violation(Reason.SIZE, f"a payload of {len(payload)} bytes; at most {most} here")

    return case.refuse_each(look)


def check_rate(case: CheckContext) -> Violation | None:
    """*rate*: the bot sends no faster than the subject allows one bot.

    Each payload counts. The seal is verified before, and copies have an allowance of their own. So
    nobody can use up the rate of another bot. A message that is delivered again after a relay died
    is counted again. Otherwise a message that was refused for its rate would be accepted then.
    """
    assert case.rule is not None
    rate = None if case.is_reply else case.rule.rate
    session = case.arrival.session
    at_ms = case.arrival.arrived_at_ms
    assert case.envelope is not None
    count = len(case.envelope.payloads)
    if rate is None:
        return None
    if count > rate.burst:
        return Violation(Reason.RATE, f"{count} payloads; at most {rate.burst} at once")
    if not case.meters.allow(session, case.rule.pattern, rate, at_ms, case.envelope.digest, count):
        return Violation(Reason.RATE, f"more than {rate.per_second:g}/s")
    return None


def check_payload(case: CheckContext) -> Violation | None:
    """*payload*: each payload is exactly one value of the JSON data model.

    It has no more values in it than its subject allows. It is decoded only now.
    """
    assert case.rule is not None
    most = case.rule.max_values
    if case.is_reply and case.header.schema_name == ERROR.name:
        most = max(most, most_values(ERROR_BYTES))

    def look(index: int, payload: bytes) -> Violation | None:
        try:
            case.values[index] = unpack_json(payload, most)
        except Malformed as error:
            return Violation(Reason.PAYLOAD, error.what)
        return None

    return case.refuse_each(look)


def check_schema_known(case: CheckContext) -> Violation | None:
    """*unknown-schema*: the subject accepts the schema that the envelope names.

    An envelope that names none means the first schema. An answer may also say that the request
    failed, and then names ``sealbus.error.v1``.
    """
    rule = case.rule
    name = case.header.schema_name
    assert rule is not None
    accepted = rule.schemas
    if case.is_reply and rule.reply is not None:
        accepted = {rule.reply.name: rule.reply, ERROR.name: ERROR}
    case.schema = next(iter(accepted.values())) if name is None else accepted.get(name)
    if case.schema is None:
        return Violation(Reason.UNKNOWN_SCHEMA, f"expected {' or '.join(accepted)}")
    return None


def check_schema(case: CheckContext) -> Violation | None:
    """*schema*: each payload meets that schema."""
    schema = case.schema
    assert schema is not None
    session = case.arrival.session
    at_ms = case.arrival.arrived_at_ms

    def look(index: int, payload: bytes) -> Violation | None:
        value = case.values.get(index)
        if schema.is_valid(value):
            return None
        # The search for every fault costs a hundred times as much as the search for the first, so a
        # bot that sends bad messages gets little of it.
        most = MAX_FAULTS if case.meters.allow(session, _EXPLAINED, EXPLAINED, at_ms) else 1
        faults = schema.explain(value, most=most, size=len(payload))
        return Violation(Reason.SCHEMA, "\n".join(faults))

    return case.refuse_each(look)


def check_what_came_before(case: CheckContext) -> Violation | None:
    """*cause*: the message has the cause that the subject's rule demands."""
    assert case.rule is not None and case.bot is not None and case.envelope is not None
    if case.is_reply or case.rule.cause is None:
        return None
    proven = check_cause(
        case.rule.cause,
        case.bot,
        case.envelope.parent,
        case.values.get(0),
        case.moment.now_ms,
        case.policy,
        case.verifier,
    )
    if isinstance(proven, str):
        return Violation(Reason.CAUSE, proven)
    case.cause = proven
    return None


def check_share(case: CheckContext) -> Violation | None:
    """*quota*: the bot has room in its share of the store that would keep the message.

    This check is the last, so that only stored messages count. A store that one bot fills is full
    for all bots.
    """
    session = case.arrival.session
    if session == RELAY:
        return None  # probes are stored apart
    store = Store.ACCEPTED if case.arrival.delivery is DeliveryClass.STREAM else Store.LIVE
    share = case.policy.share(store)
    size = stored_bytes(case.arrival.data, case.refused_payloads())
    shares = case.meters.shares
    if shares.has_room(session, store, share, size, case.moment.now_ms):
        return None
    most_bytes = shares.most_bytes(store, share)
    return Violation(
        Reason.QUOTA, f"more than {most_bytes} bytes of {store.value} in {share.window_ms} ms"
    )


CHECKS: Final[tuple[Callable[[CheckContext], Violation | None], ...]] = (
    check_size,
    check_encoding,
    check_key_known,
    check_key_valid,
    check_key_revoked,
    check_certificate_there,
    check_certificate_valid,
    check_seal,
    check_bus,
    check_bot,
    check_birth,
    check_wait,
    check_ledger_age,
    check_not_in_future,
    check_not_expired,
    check_declared,
    check_granted,
    check_delivery,
    check_ttl,
    check_parent,
    check_together,
    check_budget,
    check_rate,
    check_payload,
    check_schema_known,
    check_schema,
    check_what_came_before,
    check_share,
)
"""Every check, in its order. Later checks use the findings of earlier ones."""
