"""The answer that a bot gets about its own grants."""

from __future__ import annotations

from dataclasses import replace

import msgpack

from sealbus.protocol.codec import pack_json, unpack_json
from sealbus.protocol.limits import MAX_ENVELOPE_BYTES
from sealbus_broker.gate.policy import DeliveryClass, SubjectRule
from sealbus_broker.policy.builtin import builtin_subjects
from sealbus_broker.relay.services.grants import GrantAnswers
from tests.gate.world import NOW, POLICY

GRANTS = next(rule for rule in builtin_subjects() if rule.pattern == "sealbus.grants")


def test_an_answer_meets_its_schema_for_every_bot() -> None:
    grants = GrantAnswers("relay-1")
    for bot in POLICY.bots:
        answer = grants.answer(bot, POLICY, NOW, 0)
        assert GRANTS.reply is not None
        assert GRANTS.reply.faults(unpack_json(pack_json(answer))) == ()
        assert answer["policy"] == POLICY.digest.hex()
        assert answer["complete"]


def test_a_bot_learns_its_own_grants_and_no_more() -> None:
    answer = GrantAnswers("relay-1").answer("rival", POLICY, NOW, 0)
    rule = POLICY.bots["rival"]
    assert (answer["publish"], answer["subscribe"]) == (list(rule.publish), list(rule.subscribe))
    told = {subject["pattern"] for subject in answer["subjects"]}
    assert told == {*rule.publish, "stock.ask"}
    assert "pulse.*" in {subject.pattern for subject in POLICY.subjects}


def test_a_subject_comes_with_class_schemas_rate_and_reply() -> None:
    policy = replace(
        POLICY,
        bots={
            "order": replace(POLICY.bots["order"], publish=("pulse.a", "stock.ask"), subscribe=())
        },
    )
    subjects = {
        subject["pattern"]: subject
        for subject in GrantAnswers("relay-1").answer("order", policy, NOW, 0)["subjects"]
    }
    assert subjects == {
        "pulse.*": {
            "pattern": "pulse.*",
            "delivery": "live",
            "schemas": ["pulse.v1"],
            "rate": {"per_second": 2, "burst": 2},
            "reply": False,
            "max_bytes": 65_536,
            "together": {"payloads": 256, "bytes": 122_880},
            "parent": None,
        },
        "stock.ask": {
            "pattern": "stock.ask",
            "delivery": "live",
            "schemas": ["stock.ask.v1"],
            "rate": None,
            "reply": True,
            "max_bytes": 100,
            "together": {"payloads": 256, "bytes": 122_880},
            "parent": None,
        },
    }


def test_another_policy_gives_another_answer() -> None:
    grants = GrantAnswers("relay-1")
    before = grants.answer("order", POLICY, NOW, 0)
    bots = {"order": replace(POLICY.bots["order"], publish=())}
    after = grants.answer("order", replace(POLICY, digest=bytes(32), bots=bots), NOW, 0)
    assert (bool(before["publish"]), after["publish"]) == (True, [])


def test_a_bot_with_very_many_grants_is_told_the_first() -> None:
    names = [f"{'x' * 60}.{'y' * 60}.{'z' * 60}.n{number}" for number in range(3000)]
    schema = POLICY.subjects[0].schemas
    policy = replace(
        POLICY,
        bots={"order": replace(POLICY.bots["order"], publish=(), subscribe=(">",))},
        subjects=tuple(SubjectRule(name, DeliveryClass.STREAM, schema) for name in names),
    )
    answer = GrantAnswers("relay-1").answer("order", policy, NOW, 0)
    assert not answer["complete"]
    assert [subject["pattern"] for subject in answer["subjects"]] == names[
        : len(answer["subjects"])
    ]
    assert len(pack_json(answer)) < MAX_ENVELOPE_BYTES
    assert msgpack.unpackb(pack_json(answer)) == answer
