"""The gate, check by check.

Each attack meets its reason, and does not meet it when its check is taken out.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Verifier
from sealbus.protocol.stamp import open_stamp
from sealbus_broker.gate import judge as gate
from sealbus_broker.gate.policy import Disposition
from tests.attacks.corpus import Attack
from tests.attacks.families import MESSAGES
from tests.attacks.families import SCENARIOS as ATTACKS
from tests.gate.bus import ACCEPTED, PureBus, Step, stamp_of
from tests.gate.honest import HONEST
from tests.gate.honest import RUNNING as HONEST_RUNNING
from tests.gate.scenarios import BREAKS, Scenario, live
from tests.gate.world import (
    ASK,
    BUS_KEYS,
    HOUR,
    KEYS,
    NOW,
    POLICY,
    POLICY_DOCUMENT,
    PULSE,
    answer,
    by_session,
    certificate,
    compile_policy,
    envelope,
    flip,
    nonce,
    told_at,
)

STOPPED_BY_A_CHECK = [attack for attack in ATTACKS if attack.check]


def each(scenarios: tuple[Scenario, ...] | list[Scenario]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario.name)


@each(HONEST)
def test_honest_trade_passes(scenario: Scenario) -> None:
    bus = PureBus()
    assert [bus.take(step)[0] for step in scenario.steps] == [
        step.expect for step in scenario.steps
    ]
    assert scenario.steps[-1].expect == scenario.expect


@each(ATTACKS)
def test_the_attack_meets_its_reason(scenario: Scenario) -> None:
    bus = PureBus()
    assert [bus.take(step)[0] for step in scenario.steps] == [
        step.expect for step in scenario.steps
    ]
    assert scenario.steps[-1].expect == scenario.expect


@each(STOPPED_BY_A_CHECK)
def test_without_its_check_the_attack_is_not_stopped_there(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tuple(check for check in gate.CHECKS if check.__name__ != scenario.check)
    assert len(kept) == len(gate.CHECKS) - 1
    monkeypatch.setattr(gate, "CHECKS", kept)
    assert scenario.without != scenario.expect
    try:
        result = PureBus().run(scenario.steps)
    except AssertionError:
        result = BREAKS
    assert result == scenario.without


def test_every_check_has_an_attack() -> None:
    assert {attack.check for attack in STOPPED_BY_A_CHECK} == {
        check.__name__ for check in gate.CHECKS
    }


def test_every_reason_is_met_by_an_attack() -> None:
    met = {attack.expect for attack in ATTACKS}
    assert met == {reason.value for reason in Reason}, "add an attack to tests/attacks"


def test_checks_have_the_documented_order() -> None:
    assert [check.__name__.removeprefix("check_") for check in gate.CHECKS] == [
        "size", "encoding", "key_known", "key_valid", "key_revoked", "certificate_there",
        "certificate_valid", "seal", "bus", "bot", "birth", "wait", "ledger_age", "not_in_future",
        "not_expired", "declared", "granted", "delivery", "ttl", "parent", "together", "budget",
        "rate", "payload", "schema_known", "schema", "what_came_before", "share",
    ]  # fmt: skip


def test_an_answer_about_an_error_may_have_values_for_its_bytes() -> None:
    """Its request's subject allows 100 bytes, and so 64 values."""
    payload = {"error": "e", "message": "m", "more": [0] * 100}
    said = answer(payload=payload, schema="sealbus.error", schema_version=1)
    assert PureBus().run([live(said, session="inventory")]) == Reason.SCHEMA


# ---- made for another time, as a running bus gets them -------------------------------------------

LATER = NOW + 30 * 24 * HOUR
ON_A_RUNNING_BUS = [pytest.param(attack, id=attack.name) for attack in MESSAGES if not attack.alone]


def made_later(scenario: Scenario, lead_ms: int = 0) -> list[Step]:
    """The scenario's steps for :data:`LATER`, when a relay gets and judges them at once."""
    with told_at(LATER + lead_ms, b"a salt"):
        steps = scenario.tell()
    return [replace(step, arrived_at_ms=LATER, now_ms=LATER) for step in steps]


def later_bus() -> PureBus:
    """A bus whose keys have their times by :data:`LATER`."""

    def moved(at: object) -> object:
        return at + LATER - NOW if isinstance(at, int) and at else at

    bots = {
        name: {
            **rule,
            "keys": [{name: moved(at) for name, at in key.items()} for key in rule["keys"]],
        }
        for name, rule in POLICY_DOCUMENT["bots"].items()
    }
    return PureBus(compile_policy({**POLICY_DOCUMENT, "bots": bots}))


@pytest.mark.parametrize("attack", ON_A_RUNNING_BUS)
def test_attack_at_another_time_needs_its_own_check(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack whose times do not move would be stopped for them, and prove nothing."""
    assert isinstance(attack.case, Scenario)
    steps = made_later(attack.case, attack.lead_ms)
    assert later_bus().run(steps) == attack.reason
    if attack.case.check is None or attack.case.without == BREAKS:
        return
    kept = tuple(check for check in gate.CHECKS if check.__name__ != attack.case.check)
    monkeypatch.setattr(gate, "CHECKS", kept)
    assert later_bus().run(steps) == attack.case.without


@each(HONEST_RUNNING)
def test_honest_message_passes_at_another_time(scenario: Scenario) -> None:
    bus = later_bus()
    assert [bus.take(step)[0] for step in made_later(scenario)] == [
        step.expect for step in scenario.steps
    ]


# ---- two violations at once: the earlier is the verdict ------------------------------------------

STALE = NOW - 400_000
PAIRS = {
    "size before encoding": (Step(bytes(512 * 1024 + 1)), Reason.SIZE),
    "encoding before the key": (Step(envelope(key=KEYS["stranger"]) + b"\0"), Reason.ENCODING),
    "unknown key before the seal": (
        Step(flip(envelope(key=KEYS["stranger"]), -40)),
        Reason.UNKNOWN_KEY,
    ),
    "key not valid before the seal": (
        Step(flip(envelope(key=KEYS["order-old"]), -40)),
        Reason.KEY_NOT_VALID,
    ),
    "key revoked before the seal": (
        Step(flip(envelope(key=KEYS["order-leaked"]), -40)),
        Reason.KEY_REVOKED,
    ),
    "key revoked before the certificate": (
        Step(
            envelope(
                bot="courier",
                key=KEYS["courier-session"],
                certificate=certificate("courier-leaked", not_before_ms=NOW - HOUR),
            ),
            session="courier",
        ),
        Reason.KEY_REVOKED,
    ),
    "missing certificate before the seal": (
        Step(flip(envelope(bot="courier"), -40), session="courier"),
        Reason.CERTIFICATE_MISSING,
    ),
    "certificate before the seal": (
        Step(flip(by_session(certificate(not_before_ms=NOW - HOUR)), -40), session="courier"),
        Reason.CERTIFICATE_NOT_VALID,
    ),
    "seal before the bus": (Step(flip(envelope(bus="shop-test"), -40)), Reason.BAD_SEAL),
    "bus before the bot": (
        Step(envelope(bus="shop-test", bot="rival", key=KEYS["order"])),
        Reason.WRONG_BUS,
    ),
    "bot before staleness": (
        Step(envelope(bot="rival", key=KEYS["order"]), arrived_at_ms=STALE),
        Reason.WRONG_BOT,
    ),
    "staleness before the future": (Step(envelope(), arrived_at_ms=STALE), Reason.STALE),
    "ledger's age before the future": (
        Step(envelope(issued_at_ms=NOW + 3_000), ledger_since_ms=NOW + 2_000),
        Reason.STALE,
    ),
    "future before the subject": (
        Step(envelope(issued_at_ms=NOW + 3_000, subject="nobody.knows", payload=1)),
        Reason.ISSUED_IN_FUTURE,
    ),
    "expiry before the time-to-live": (
        Step(envelope(issued_at_ms=NOW - 70_000, ttl_ms=60_001)),
        Reason.EXPIRED,
    ),
    "expiry before the subject": (
        Step(envelope(issued_at_ms=NOW - 70_000, subject="nobody.knows", payload=1)),
        Reason.EXPIRED,
    ),
    "subject before the grant": (
        Step(envelope(bot="shipping", subject="nobody.knows"), session="shipping"),
        Reason.UNDECLARED_SUBJECT,
    ),
    "grant before the delivery": (
        Step(envelope(bot="rival", subject="pulse.order", payload=1, ttl_ms=1), session="rival"),
        Reason.NOT_GRANTED,
    ),
    "delivery before the time-to-live, live": (
        live(envelope(ttl_ms=30_000)),
        Reason.WRONG_DELIVERY,
    ),
    "delivery before the time-to-live, stream": (
        Step(envelope(PULSE, ttl_ms=60_001)),
        Reason.WRONG_DELIVERY,
    ),
    "time-to-live before the parent": (
        Step(envelope(parent=b"", ttl_ms=60_001)),
        Reason.TTL_TOO_LONG,
    ),
    "parent before the budget": (live(envelope(ASK, {"sku": "x" * 94}, parent=b"")), Reason.CAUSE),
    "budget before the payload": (live(envelope(ASK, packed=b"\xc1" * 101)), Reason.SIZE),
    "time-to-live before the payload": (
        Step(envelope(packed=b"\xc1", ttl_ms=60_001)),
        Reason.TTL_TOO_LONG,
    ),
    "payload before the schema's name": (
        Step(envelope(packed=b"\xc1", schema="x", schema_version=1)),
        Reason.PAYLOAD,
    ),
    "schema's name before the schema": (
        Step(envelope(payload=1, schema="x", schema_version=1)),
        Reason.UNKNOWN_SCHEMA,
    ),
    "schema before the cause": (
        Step(envelope(bot="shipping", subject="orders.shipped", payload=1), session="shipping"),
        Reason.SCHEMA,
    ),
}


@pytest.mark.parametrize(("step", "reason"), PAIRS.values(), ids=PAIRS.keys())
def test_of_two_violations_the_earlier_is_the_verdict(step: Step, reason: Reason) -> None:
    assert PureBus().judge(step).reason is reason


def test_rate_before_the_payload() -> None:
    bus = PureBus()
    pulses = [envelope(PULSE, packed=b"\xc1", nonce=nonce(str(number))) for number in range(3)]
    assert [bus.judge(live(data)).reason for data in pulses] == [
        Reason.PAYLOAD,
        Reason.PAYLOAD,
        Reason.RATE,
    ]


def test_budget_before_the_rate() -> None:
    bus = PureBus(
        replace(POLICY, subjects=tuple(replace(rule, max_bytes=9) for rule in POLICY.subjects))
    )
    pulses = [envelope(PULSE, "x" * 20, nonce=nonce(str(number))) for number in range(3)]
    assert [bus.judge(live(data)).reason for data in pulses] == [Reason.SIZE] * 3


def test_the_ledger_comes_last() -> None:
    bus = PureBus()
    assert bus.run([Step(envelope())]) == ACCEPTED
    late = NOW + 40_000
    assert bus.run([Step(envelope(), arrived_at_ms=late, now_ms=late)]) == Reason.EXPIRED
    assert len(bus.ledger) == 1


# ---- the content of a judgment -------------------------------------------------------------------


def test_before_the_seal_holds_nobody_is_proven() -> None:
    assert not PureBus().judge(Step(flip(envelope(), -40))).proven
    assert PureBus().judge(Step(envelope(bus="shop-test"))).proven


@each(ATTACKS)
def test_every_refusal_makes_a_stamp_that_its_sender_can_open(scenario: Scenario) -> None:
    bus = PureBus()
    for step in scenario.steps[:-1]:
        bus.take(step)
    judgment = bus.judge(scenario.steps[-1])
    made = stamp_of(judgment, bus.policy)
    if judgment.envelope is None:
        assert made is None
        return
    assert made is not None
    assert type(made).decode(made.encode()) == made


def test_the_subjects_own_disposition_goes_before_the_policys() -> None:
    wrong = Step(
        envelope(bot="inventory", subject="stock.reserved", payload=1), session="inventory"
    )
    assert PureBus().judge(wrong).disposition is Disposition.DROP
    assert PureBus().judge(Step(envelope(payload=1))).disposition is Disposition.QUARANTINE
    assert PureBus().judge(Step(b"")).disposition is Disposition.DROP


def test_an_accepted_message_is_stamped_with_where_and_when() -> None:
    result, sealed = PureBus().take(Step(envelope(), position=41, now_ms=NOW + 9))
    assert result == ACCEPTED
    assert sealed is not None
    opened = open_stamp(sealed, BUS_KEYS, Verifier())
    assert (opened.bot, opened.subject, opened.position, opened.judged_at_ms) == (
        "order",
        "orders.placed",
        41,
        NOW + 9,
    )
