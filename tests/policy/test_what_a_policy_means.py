"""Every value that the gate gets from a valid folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.reason import Reason
from sealbus_broker.gate.policy import (
    CauseRule,
    DeliveryClass,
    Disposition,
    Limits,
    Policy,
    Rate,
)
from sealbus_broker.policy.builtin import builtin_subjects
from sealbus_broker.policy.loader import load
from tests.policy.folder import Folder

WHOLE = """\
version: 1
bus: shop
limits:
  ttl: 30s
  live_ttl: 5s
  clock_skew: 0s
  ingress_wait: 10m
  session: 1h
  retention: 2d
  accepted_bytes: 8GiB
  ingress_bytes: 512MiB
  quarantine_bytes: 1048576B
  live_bytes: 65536KiB
  attempts: 3
  subscriptions: 5
on_violation: {default: drop, schema: quarantine}
roles:
  trader: {publish: orders.placed, subscribe: [orders.>]}
bots:
  order: {roles: trader, publish: ["telemetry.*"]}
  idle:
subjects:
  orders.placed:
    schema: [order.v2, order.v1]
    rate: 200/s
    on_violation: {schema: drop}
  orders.shipped:
    schema: order.v1
    cause: {subject: orders.placed, within: 1h, match: [/order_id, /a~1b/0], once: true}
  telemetry.*:
    delivery: live
    schema: order.v1
    reply: order.v2
    rate: 0.5/s burst 3
"""


@pytest.fixture
def policy(bus: Folder) -> Policy:
    bus.write("policy.yaml", WHOLE)
    bus.write("schemas/order.v2.json", "true")
    policy = bus.load().policy
    assert policy is not None, bus.problems()
    return policy


def test_limits(policy: Policy) -> None:
    assert policy.limits == Limits(
        ttl_ms=30_000,
        live_ttl_ms=5_000,
        clock_skew_ms=0,
        ingress_wait_ms=600_000,
        session_ms=3_600_000,
        retention_ms=172_800_000,
        accepted_bytes=8 * 1024**3,
        ingress_bytes=512 * 1024**2,
        quarantine_bytes=1024**2,
        live_bytes=64 * 1024**2,
        attempts=3,
        subscriptions=5,
    )


def test_limits_have_defaults(bus: Folder) -> None:
    policy = bus.load().policy
    assert policy is not None
    assert policy.limits == Limits()


def test_violations(policy: Policy) -> None:
    placed, shipped = policy.rule("orders.placed"), policy.rule("orders.shipped")
    assert policy.disposition(Reason.SIZE) is Disposition.DROP
    assert policy.disposition(Reason.SCHEMA, shipped) is Disposition.QUARANTINE
    assert policy.disposition(Reason.SCHEMA, placed) is Disposition.DROP


def test_subjects(policy: Policy) -> None:
    placed, shipped, telemetry = (
        policy.rule("orders.placed"),
        policy.rule("orders.shipped"),
        policy.rule("telemetry.cpu"),
    )
    assert placed is not None
    assert (placed.delivery, list(placed.schemas), placed.rate) == (
        DeliveryClass.STREAM,
        ["order.v2", "order.v1"],
        Rate(200, 200),
    )
    assert shipped is not None
    assert shipped.cause == CauseRule(
        "orders.placed", 3_600_000, ("/order_id", "/a~1b/0"), once=True
    )
    assert telemetry is not None
    assert (telemetry.delivery, telemetry.rate) == (DeliveryClass.LIVE, Rate(0.5, 3))
    assert telemetry.reply is not None
    assert telemetry.reply.name == "order.v2"
    assert policy.rule("undeclared") is None


def test_grants(policy: Policy) -> None:
    order, idle = policy.bots["order"], policy.bots["idle"]
    assert order.roles == ("trader",)
    assert order.may_publish("orders.placed")
    assert order.may_publish("telemetry.cpu")
    assert order.may_publish("sealbus.subscribe")
    assert not order.may_publish("orders.shipped")
    assert not order.may_publish("sealbus.quarantine.list")
    assert order.may_subscribe("orders.shipped")
    assert idle.may_publish("sealbus.subscribe")
    assert not idle.may_publish("orders.placed")
    assert not idle.may_subscribe("orders.placed")


def test_the_policy_cannot_be_changed(policy: Policy) -> None:
    with pytest.raises(TypeError):
        policy.bots["x"] = policy.bots["order"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        policy.bus = "other"  # type: ignore[misc]


def test_bus_keys_are_the_ones_given(bus: Folder) -> None:
    key = SigningKey.generate(KeyKind.BUS).public
    loaded = load(bus.root, frozenset({key}))
    assert loaded.policy is not None
    assert loaded.policy.bus_keys == frozenset({key.raw})


def test_the_bus_has_its_own_subjects(policy: Policy) -> None:
    for subject in (
        "sealbus.grants",
        "sealbus.subscribe",
        "sealbus.quarantine.list",
        "sealbus.quarantine.show",
    ):
        rule = policy.rule(subject)
        assert rule is not None
        assert rule.delivery is DeliveryClass.LIVE
        assert rule.reply is not None


@pytest.mark.parametrize(
    ("subject", "payload", "sound"),
    [
        ("sealbus.subscribe", {"pattern": "orders.>", "durable": "d", "from": "new"}, True),
        ("sealbus.subscribe", {"pattern": "orders.>", "durable": "d", "from": "old"}, False),
        (
            "sealbus.subscribe",
            {"pattern": "orders.>", "durable": "d", "from": "all", "x": 1},
            False,
        ),
        ("sealbus.quarantine.list", {}, True),
        (
            "sealbus.quarantine.list",
            {"reason": "schema", "bot": "order", "subject": "a.b", "before": 9, "limit": 200},
            True,
        ),
        ("sealbus.quarantine.list", {"limit": 201}, False),
        ("sealbus.quarantine.list", {"reason": "boredom"}, False),
        ("sealbus.quarantine.show", {"sequence": 1, "offset": 0}, True),
        ("sealbus.quarantine.show", {"sequence": 0}, False),
        ("sealbus.quarantine.show", {}, False),
    ],
)
def test_schemas_of_requests_to_the_bus_are_strict(
    subject: str, payload: object, sound: bool
) -> None:
    (rule,) = [rule for rule in builtin_subjects() if rule.pattern == subject]
    (schema,) = rule.schemas.values()
    assert schema.is_valid(payload) is sound


def test_same_files_have_the_same_digest_in_any_folder(bus: Folder, tmp_path: Path) -> None:
    bus.key("order")
    shutil.copytree(bus.root, tmp_path / "copy")
    one, other = bus.load().policy, load(tmp_path / "copy").policy
    assert one is not None
    assert other is not None
    assert one.digest == other.digest
    assert len(one.digest) == 32


@pytest.mark.parametrize("file", ["policy.yaml", "schemas/order.v1.json", "keys/order.yaml"])
def test_any_changed_byte_changes_the_digest(bus: Folder, file: str) -> None:
    bus.key("order")
    before = bus.load().policy
    bus.write(file, (bus.root / file).read_text() + "\n")
    after = bus.load().policy
    assert before is not None
    assert after is not None
    assert before.digest != after.digest


def test_a_key_has_its_times(bus: Folder) -> None:
    text = bus.key("order")
    bus.change(
        "08:00:00Z\n",
        "08:00:00Z\n    not_after: 2027-11-24T08:00:00Z\n    revoked: 2026-12-01T00:00:00Z\n"
        "    sessions_from: 2026-11-30T00:00:00Z\n",
        "keys/order.yaml",
    )
    policy = bus.load().policy
    assert policy is not None
    (key,) = policy.bots["order"].keys.values()
    assert key.raw == PublicKey.parse(text, KeyKind.BOT).raw
    assert (key.not_before_ms, key.not_after_ms, key.revoked_ms) == (
        1_795_507_200_000,
        1_827_043_200_000,
        1_796_083_200_000,
    )
    assert key.sessions_from_ms == 1_795_996_800_000


def test_a_bot_seals_directly_only_where_its_entry_says_so(bus: Folder, policy: Policy) -> None:
    assert [policy.bots[name].seals_directly for name in ("order", "idle")] == [False, False]
    bus.change("  idle:", "  idle:\n    seals_directly: true")
    changed = bus.load().policy
    assert changed is not None
    assert [changed.bots[name].seals_directly for name in ("order", "idle")] == [False, True]


def test_the_example_bus_loads() -> None:
    loaded = load(Path(__file__).parents[2])
    assert loaded.problems == ()
    assert {note.what.split(" ", maxsplit=1)[1] for note in loaded.notes} <= {"has no key yet"}
