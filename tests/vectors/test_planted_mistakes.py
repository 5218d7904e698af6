"""The vectors catch small mistakes.

Each mistake, planted into a reader or into the gate, makes some vector fail. The reader is
:mod:`tests.vectors.stranger`, written from the document alone. Without a mistake it gets every
vector right, so it is a second implementation too. The gate is the relay's own, with one line of
its source changed.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

import pytest

from sealbus.protocol import envelope
from sealbus_broker.gate import cause, certificates, judge, ledger, rate
from tests.gate.bus import ACCEPTED, PureBus
from tests.gate.world import compile_policy
from tests.vectors.stranger.answers import caught, failures
from tests.vectors.stranger.rules import LEAST, LIMITS, Rules, mistakes
from tests.vectors.test_vectors import (
    CERTIFICATES,
    ENVELOPES,
    KEYS_BY_NAME,
    is_valid,
    step_of,
)

pytestmark = pytest.mark.slow

MISTAKES: Final = mistakes()

UNREACHABLE: Final = {
    "a stamp too large": "fields within their limits never make a larger stamp",
    "a notice too large": "the same",
    "notice + 1": "the same",
    "notice - 1": "the same",
    "a link too large": "the same",
    "link + 1": "the same",
    "link - 1": "the same",
    "a keyring too large": "the most links within their limits are fewer bytes",
    "keyring + 1": "the same",
    "keyring - 1": "the same",
    "stamp + 1": "the same",
    "stamp - 1": "the same",
    "parent-index - 1": "a request has one payload, so a good answer names the first one",
}
"""Mistakes that no vector can show, and the reason."""


def test_a_reader_without_mistakes_gets_every_vector_right() -> None:
    assert list(failures(Rules())) == []


def test_there_are_many_mistakes_of_each_sort() -> None:
    assert len(MISTAKES) == len(set(MISTAKES)) >= 200
    assert {f"{name} {sign} 1" for name in LIMITS | LEAST for sign in "+-"} < set(MISTAKES)
    assert set(UNREACHABLE) < set(MISTAKES)


@pytest.mark.parametrize("mistake", [mistake for mistake in MISTAKES if mistake not in UNREACHABLE])
def test_a_mistake_in_a_reader_is_caught(mistake: str) -> None:
    assert caught(Rules(mistake)) is not None


@pytest.mark.parametrize("mistake", UNREACHABLE)
def test_unreachable_mistake_is_not_caught(mistake: str) -> None:
    assert caught(Rules(mistake)) is None


# ---- the gate ------------------------------------------------------------------------------------

GATE: Final[list[tuple[ModuleType, str, str]]] = [
    (judge, "if size > MAX_ENVELOPE_BYTES", "if size > MAX_ENVELOPE_BYTES + 1"),
    (judge, "if size > MAX_ENVELOPE_BYTES", "if size >= MAX_ENVELOPE_BYTES"),
    (judge, "case.bot.keys.get(enrolled)",
     ("{key: rule for bot in case.policy.bots.values() for key, rule in bot.keys.items()}"
      ".get(enrolled)")),
    (judge, "case.certificate.enrolled if case.certificate else case.envelope.seal.key",
     "case.envelope.seal.key"),
    (judge, "at < key.not_before_ms", "at <= key.not_before_ms"),
    (judge, "at < key.not_before_ms", "at + 1 < key.not_before_ms"),
    (judge, "at > key.not_after_ms", "at >= key.not_after_ms"),
    (judge, "at > key.not_after_ms", "at > key.not_after_ms + 1"),
    (judge, "key = case.key\n    at = case.arrival.arrived_at_ms",
     "key = case.key\n    at = case.moment.now_ms"),
    (judge, "revoked_ms <= case.moment.now_ms", "revoked_ms < case.moment.now_ms"),
    (judge, "revoked_ms <= case.moment.now_ms", "revoked_ms <= case.moment.now_ms + 1"),
    (judge, "revoked_ms <= case.moment.now_ms", "revoked_ms <= case.arrival.arrived_at_ms"),
    (judge, "case.key.revoked_for(case.policy.limits.clock_skew_ms)", "case.key.revoked_for(0)"),
    (judge, "if case.certificate is None and not case.bot.seals_directly", "if False"),
    (judge, "if case.certificate is None and not case.bot.seals_directly",
     "if case.certificate is None"),
    (judge, "if case.certificate is None and not case.bot.seals_directly",
     "if not case.bot.seals_directly"),
    (judge, "at = case.arrival.arrived_at_ms\n    why", "at = case.moment.now_ms\n    why"),
    (judge, "return Violation(Reason.CERTIFICATE_NOT_VALID, why) if why else None", "return None"),
    (judge, "certified = self.certificate is None or ", "certified = True or "),
    (judge, "certified = self.certificate is None or ",
     "certified = self.certificate is not None and "),
    (judge, "return certified and self.verifier", "return self.verifier"),
    (judge, "return certified and self.verifier",
     "return (self.certificate is not None and certified) or self.verifier"),
    (judge, "bus=self.header.bus, bot=self.header.bot",
     "bus=self.policy.bus, bot=self.header.bot"),
    (judge, "bus=self.header.bus, bot=self.header.bot",
     "bus=self.header.bus, bot=self.arrival.session"),
    (judge, "bot=self.header.bot, key=seal.key", "bot=self.header.bot, key=self.key.raw"),
    (judge, "    check_key_revoked,\n    check_certificate_there,\n",
     "    check_certificate_there,\n    check_key_revoked,\n"),
    (judge, "    check_certificate_valid,\n    check_seal,\n",
     "    check_seal,\n    check_certificate_valid,\n"),
    (certificates, "if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS",
     "if ahead_ms >= limits.clock_skew_ms + CERTIFICATE_AHEAD_MS"),
    (certificates, "if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS",
     "if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS + 1"),
    (certificates, "if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS",
     "if ahead_ms > CERTIFICATE_AHEAD_MS"),
    (certificates, "if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS",
     "if ahead_ms > limits.clock_skew_ms"),
    (certificates, "if ahead_ms > limits.clock_skew_ms + CERTIFICATE_AHEAD_MS", "if False"),
    (certificates, "if over_ms > 0", "if over_ms >= 0"),
    (certificates, "if over_ms > 0", "if over_ms > 1"),
    (certificates, "if over_ms > 0", "if over_ms > limits.clock_skew_ms"),
    (certificates, "if over_ms > 0", "if False"),
    (certificates, "life_ms + limits.clock_skew_ms", "life_ms"),
    (certificates, "min(certificate.life_ms, limits.session_key_ms)", "certificate.life_ms"),
    (certificates, "min(certificate.life_ms, limits.session_key_ms)", "limits.session_key_ms"),
    (certificates, "min(certificate.life_ms, limits.session_key_ms)",
     "max(certificate.life_ms, limits.session_key_ms)"),
    (certificates, "certificate.not_before_ms + limits.clock_skew_ms < key",
     "certificate.not_before_ms + limits.clock_skew_ms <= key"),
    (certificates, "certificate.not_before_ms + limits.clock_skew_ms < key",
     "certificate.not_before_ms + limits.clock_skew_ms + 1 < key"),
    (certificates, "certificate.not_before_ms + limits.clock_skew_ms < key",
     "certificate.not_before_ms < key"),
    (certificates, "certificate.not_before_ms + limits.clock_skew_ms < key",
     "at_ms + limits.clock_skew_ms < key"),
    (certificates, "certificate.not_before_ms + limits.clock_skew_ms < key", "0 > key"),
    (judge, "case.header.bus != case.policy.bus", "False"),
    (judge, "case.header.bot != case.arrival.session", "False"),
    (judge, "    if age < 0:", "    if False:"),
    (judge, "    if age < 0:", "    if age <= 0:"),
    (judge, "    if age > longest:", "    if age >= longest:"),
    (judge, "    if age > longest:", "    if age > longest + 1:"),
    (judge, "life_ms(live=case.arrival.delivery is DeliveryClass.LIVE)", "life_ms(live=False)"),
    (judge, "life_ms(live=case.arrival.delivery is DeliveryClass.LIVE)", "life_ms(live=True)"),
    (judge, "case.header.issued_at_ms - case.header.birth_ms",
     "case.arrival.arrived_at_ms - case.header.birth_ms"),
    (judge,
     "LIVE_WAIT_MS if is_live else case.policy", "case.policy"),
    (judge, "if waited > longest", "if waited >= longest"),
    (judge, "if waited > longest", "if waited > longest + 1"),
    (judge, "case.header.birth_ms <= since +", "case.header.birth_ms < since +"),
    (judge, "case.header.birth_ms <= since +", "case.header.birth_ms <= 1 + since +"),
    (judge, "if ahead > case.policy.limits.clock_skew_ms",
     "if ahead >= case.policy.limits.clock_skew_ms"),
    (judge, "if ahead > case.policy.limits.clock_skew_ms",
     "if ahead > case.policy.limits.clock_skew_ms + 1"),
    (judge, "case.header.issued_at_ms - case.arrival.arrived_at_ms",
     "case.header.issued_at_ms - case.moment.now_ms"),
    (judge, "case.arrival.arrived_at_ms > ends", "case.arrival.arrived_at_ms >= ends"),
    (judge, "case.arrival.arrived_at_ms > ends", "case.arrival.arrived_at_ms > ends + 1"),
    (judge, "case.arrival.arrived_at_ms > ends", "case.moment.now_ms > ends"),
    (judge, "case.header.ttl_ms > longest", "case.header.ttl_ms >= longest"),
    (judge, "case.header.ttl_ms > longest", "case.header.ttl_ms > longest + 1"),
    (judge,
     "limits.ttl_ms if case.arrival.delivery is DeliveryClass.STREAM else limits.live_ttl_ms",
     "limits.ttl_ms"),
    (judge, "    check_granted,\n    check_delivery,\n    check_ttl,\n",
     "    check_ttl,\n    check_granted,\n    check_delivery,\n"),
    (judge, "case.rule is None or case.rule.reply is None", "case.rule is None"),
    (judge, "not case.is_reply and not case.bot.may_publish", "not case.bot.may_publish"),
    (judge, "next(iter(accepted.values())) if name is None",
     "next(reversed(list(accepted.values()))) if name is None"),
    (judge, 'f"{cause.bot}.{cause.nonce.hex()}.{self.cause.index}>',
     'f"{cause.nonce.hex()}.{self.cause.index}>'),
    (judge, 'f"{cause.bot}.{cause.nonce.hex()}.{self.cause.index}>',
     'f"{cause.bot}.{cause.nonce.hex()}>'),
    (judge, "once = self.is_reply or (", "once = ("),
    (judge, "self.refused[0] if len(self.refused) == len(payloads) else None",
     "self.refused[min(self.refused)] if self.refused else None"),
    (judge, "self.refused[0] if len(self.refused) == len(payloads) else None", "None"),
    (judge, "if self.envelope is None or len(self.envelope.payloads) == 1:",
     "if self.envelope is not None:"),
    (judge, "    if count == 1:", "    if True:"),
    (envelope, "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS)",
     "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS - 1)"),
    (envelope, "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS)",
     "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS + 1)"),
    (judge, "if count > most.payloads", "if count >= most.payloads"),
    (judge, "if size > most.size", "if False"),
    (judge, "if size > most.size", "if size >= most.size"),
    (judge, "if size > most.size", "if size > most.size + 1"),
    (judge, "if size > most.size", "if size > most.size + 1_000"),
    (judge, "if len(payload) <= most", "if len(payload) < most"),
    (judge, "if len(payload) <= most", "if len(payload) <= most + 1"),
    (judge, "max(most, ERROR_BYTES)", "most"),
    (judge, "max(most, ERROR_BYTES)", "max(most, ERROR_BYTES - 1)"),
    (judge, "max(most, ERROR_BYTES)", "max(most, ERROR_BYTES + 1)"),
    (judge, "unpack_json(payload, most)", "unpack_json(payload, most - 1)"),
    (judge, "unpack_json(payload, most)", "unpack_json(payload, most + 1)"),
    (judge, "unpack_json(payload, most)", "unpack_json(payload)"),
    (judge, "most = case.rule.max_values", "most = case.rule.max_bytes // 4"),
    (judge, "most = case.rule.max_values", "most = max(65, case.rule.max_bytes // 4)"),
    (judge, "most = case.rule.max_values", "most = 64"),
    (judge, "max(most, most_values(ERROR_BYTES))", "most"),
    (judge, "max(most, most_values(ERROR_BYTES))", "max(most, most_values(ERROR_BYTES) - 1)"),
    (judge, "max(most, most_values(ERROR_BYTES))", "max(most, most_values(ERROR_BYTES) + 1)"),
    (judge, "if count > rate.burst", "if count >= rate.burst"),
    (judge, "rate, at_ms, case.envelope.digest, count)", "rate, at_ms, case.envelope.digest, 1)"),
    (rate, "<= interval * (rate.burst - count)", "<= interval * (rate.burst - count + 1)"),
    (rate, "<= interval * (rate.burst - count)", "< interval * (rate.burst - count)"),
    (cause, "not rule.match and len(parent) > MAX_BARE_PARENT_BYTES", "False"),
    (cause, "not rule.match and len(parent) > MAX_BARE_PARENT_BYTES",
     "not rule.match and len(parent) >= MAX_BARE_PARENT_BYTES"),
    (cause, "not rule.match and len(parent) > MAX_BARE_PARENT_BYTES",
     "not rule.match and len(parent) > MAX_BARE_PARENT_BYTES + 1"),
    (cause, "not rule.match and len(parent) > MAX_BARE_PARENT_BYTES",
     "not rule.match and len(parent) > 9_000"),
    (cause, "not rule.match and len(parent) > MAX_BARE_PARENT_BYTES",
     "not rule.match and len(parent) > 600"),
    # An answer's parent is read in the same check, and no stamp is as long as the limit. So vectors
    # show this bound only where it refuses the stamp of a question.
    (cause, "parent is not None and len(parent) > MAX_BARE_PARENT_BYTES",
     "parent is not None and len(parent) > 600"),
    (cause, "if stamp.bus != policy.bus", "if False"),
    (cause, "if not stamp.accepts(parent.index)", "if False"),
    (cause, "if not stamp.accepts(parent.index)", 'if stamp.verdict != "accepted"'),
    (cause, "if not stamp.accepts(parent.index)", "if not stamp.accepts(0)"),
    (cause, "if not matches(rule.subject, stamp.subject)", "if False"),
    (cause, "if stamp.bot != bot.name and not bot.may_subscribe(stamp.subject)", "if False"),
    (cause, "now_ms - stamp.judged_at_ms > rule.within_ms",
     "now_ms - stamp.judged_at_ms >= rule.within_ms"),
    (cause, "now_ms - stamp.judged_at_ms > rule.within_ms",
     "now_ms - stamp.judged_at_ms > rule.within_ms + 1"),
    (cause, "if now_ms - stamp.judged_at_ms > within_ms",
     "if now_ms - stamp.judged_at_ms > within_ms + 1"),
    (cause, "if now_ms - stamp.judged_at_ms > within_ms",
     "if now_ms - stamp.judged_at_ms >= within_ms"),
    (cause, " or _is_past(stamp, rule.within_ms, now_ms, policy)", ""),
    (cause, "return now_ms > birth_ms(stamp.nonce)", "return now_ms >= birth_ms(stamp.nonce)"),
    (cause, "return now_ms > birth_ms(stamp.nonce)", "return now_ms > 1 + birth_ms(stamp.nonce)"),
    (cause, 'if subject != f"{REPLY}.{stamp.bot}.{stamp.nonce.hex()}"', "if False"),
    (cause, "if not bot.may_subscribe(stamp.subject)", "if False"),
    (cause, "if envelope.digest != cause.stamp.envelope", "if False"),
    (cause, "quoted = envelope.payloads[cause.index]", "quoted = envelope.payloads[0]"),
    (cause, "if quoted is None or envelope.payloads.count(None) != len(envelope.payloads) - 1",
     "if quoted is None"),
    (cause, "if mine is _MISSING or theirs is _MISSING", "if False"),
    (cause, "if not _same(mine, theirs)", "if False"),
    (cause, "return one is other", "return one == other"),
    (ledger, "stamp_data in made or _same_place(judgment, stamp)", "True"),
    (ledger, "judgment.arrival.position is not None and judgment", "judgment"),
    (ledger, "(header.bot, header.nonce) != (mine.bot, mine.nonce)", "False"),
    (ledger, " and _says_the_same(envelope, judgment.envelope)", ""),
    (ledger, "stored.part(1) == mine.part(1)", "True"),
    (ledger, "len(stored.payloads) == len(mine.payloads)", "True"),
    (ledger, "zip(stored.payloads, mine.payloads, strict=True)",
     "zip(stored.payloads[:1], mine.payloads, strict=False)"),
    (ledger, "stored.part(2 + at) == mine.part(2 + at) or (there is not None and there == here)",
     "there is not None and there == here"),
    (ledger, "stored.part(2 + at) == mine.part(2 + at) or (there is not None and there == here)",
     "there is None or there == here"),
    (ledger, "there == here)", "unpack_json(there) == unpack_json(here))"),
    (ledger, "(header.subject, header.schema, header.schema_version)",
     "(header.subject, header.schema)"),
    (ledger, "(header.subject, header.schema, header.schema_version)",
     "(header.schema, header.schema_version)"),
    (ledger, "(header.subject, header.schema, header.schema_version)",
     "(header.subject, header.schema, header.schema_version, header.ttl_ms)"),
    (ledger, "(header.subject, header.schema, header.schema_version)",
     "(header.subject, header.schema, header.schema_version, header.issued_at_ms)"),
]  # fmt: skip
"""A module of the gate or of the protocol, a piece of its source that occurs once, and the mistake
in its place."""


def mutated(module: ModuleType, right: str, wrong: str) -> ModuleType:
    """``module`` with one change in its source."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{module.__name__} must have this once: {right}"
    spec = importlib.util.spec_from_loader(module.__name__, loader=None)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by its name while they are made
    before = sys.modules[module.__name__]
    sys.modules[module.__name__] = made
    try:
        extra = "from sealbus.protocol.codec import unpack_json\n" if "unpack_json" in wrong else ""
        header, rest = source.split("from __future__ import annotations\n", 1)
        changed = (
            header + "from __future__ import annotations\n" + extra + rest.replace(right, wrong)
        )
        code = compile(changed, f"<{module.__name__}, mutated>", "exec")
        exec(code, vars(made))  # noqa: S102  # our own code, with one planted mistake
    finally:
        sys.modules[module.__name__] = before
    return made


METERS: Final[dict[str, type[rate.RateMeters]]] = {"made": rate.RateMeters}
"""The bus of these tests measures rates with this module."""


POLICY: Final = compile_policy(ENVELOPES["policy"], KEYS_BY_NAME)


def scenarios_that_fail() -> Iterator[str]:
    """The scenarios of ``envelopes.json`` with another outcome of a step than the written one."""
    for scenario in ENVELOPES["scenarios"]:
        bus = PureBus(POLICY, meters=METERS["made"]())
        try:
            right = all(as_told(bus, told) for told in scenario["steps"])
        except (LookupError, TypeError, ValueError):  # the gate itself never raises
            right = False
        if not right:
            yield scenario["name"]


def times_that_fail() -> Iterator[str]:
    """The times of ``certificates.json`` at which another certificate is valid than the written
    ones."""
    return (told["name"] for told in CERTIFICATES["times"] if is_valid(told) is not told["valid"])


def as_told(bus: PureBus, told: dict[str, Any]) -> bool:
    result, sealed = bus.take(step_of(told))
    return bool(result == told["expect"]) and (
        result != ACCEPTED or (sealed is not None and sealed.hex() == told["stamp"])
    )


def plant(monkeypatch: pytest.MonkeyPatch, module: ModuleType, made: ModuleType) -> None:
    """Make the bus of the tests use the changed module."""
    uses = {
        judge: [("tests.gate.bus.judge", "judge")],
        cause: [
            ("sealbus_broker.gate.judge.check_cause", "check_cause"),
            ("sealbus_broker.gate.judge.check_reply", "check_reply"),
            ("sealbus_broker.gate.judge.unwanted_parent", "unwanted_parent"),
        ],
        certificates: [
            ("sealbus_broker.gate.judge.objection", "objection"),
            ("tests.vectors.test_vectors.objection", "objection"),
        ],
        envelope: [("sealbus_broker.gate.judge.Envelope", "Envelope")],
        ledger: [("tests.gate.bus.settle", "settle")],
    }
    for target, name in uses[module]:
        monkeypatch.setattr(target, getattr(made, name))


def test_a_gate_without_mistakes_gets_every_scenario_right() -> None:
    assert list(scenarios_that_fail()) == []
    assert list(times_that_fail()) == []


@pytest.mark.parametrize(
    ("module", "right", "wrong"),
    GATE,
    ids=[f"{wrong or 'without'} ({right})"[:60] for _, right, wrong in GATE],
)
def test_a_mistake_in_the_gate_is_caught(
    module: ModuleType, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is rate:
        made = mutated(module, right, wrong)
        monkeypatch.setitem(METERS, "made", made.RateMeters)
    else:
        plant(monkeypatch, module, mutated(module, right, wrong))
    failing = times_that_fail() if module is certificates else scenarios_that_fail()
    assert next(failing, None) is not None
