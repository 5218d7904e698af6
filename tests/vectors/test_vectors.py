"""The vectors of the protocol, run against the implementation.

``README.md`` beside this file describes the format.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol import subjects
from sealbus.protocol.admission import NO_CERTIFICATE, AdmissionText
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import pack_json, unpack_json
from sealbus.protocol.delivery import open_delivery
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify
from sealbus.protocol.notice import Ended, Notice, check_notice, open_notice, seal_notice
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, Verifier, seal, sign_connect, verify_connect
from sealbus.protocol.sealed import seal_bodies
from sealbus.protocol.stamp import RefusedPayload, Stamp, Verdict, open_stamp, seal_stamps
from sealbus_broker.gate.certificates import objection
from sealbus_broker.gate.policy import BotKey, DeliveryClass, Limits
from tests.gate.bus import ACCEPTED, SETTLED, PureBus, Step
from tests.gate.world import compile_policy
from tests.vectors.files import FOLDER, HEX, bus_keys, by, expand, load
from tests.vectors.make import MAKERS, WARNING, build

KINDS: Final = {"bot": KeyKind.BOT, "bus": KeyKind.BUS, "issuer": KeyKind.ISSUER}


# ---- the files themselves ------------------------------------------------------------------------


def test_script_makes_the_same_files_each_time() -> None:
    made = build()
    assert made == build()
    there = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    changed = [name for name in made | there if made.get(name) != there.get(name)]
    assert changed == [], "run `make vectors`"


@pytest.mark.parametrize("name", MAKERS)
def test_every_file_says_that_its_keys_are_for_tests(name: str) -> None:
    assert load(name)["warning"] == WARNING


@pytest.mark.parametrize("name", MAKERS)
def test_every_number_of_a_file_is_exact_in_each_language(name: str) -> None:
    """No whole number is a float, because some languages read 1.0 and 1 as different values."""
    whole: list[str] = []
    others: list[str] = []
    json.loads(
        (FOLDER / name).read_bytes(),
        parse_int=whole.append,
        parse_float=others.append,
        parse_constant=others.append,
    )
    assert [text for text in (*whole, *others) if not abs(float(text)) <= 2**53 - 1] == []
    assert [text for text in others if float(text).is_integer()] == []


def test_the_readme_describes_every_file() -> None:
    readme = (Path(__file__).parent / "README.md").read_text()
    assert [name for name in MAKERS if f"`{name}`" not in readme] == []


# ---- seals ---------------------------------------------------------------------------------------

SEALS = load("seals.json")


@pytest.mark.parametrize("batch", SEALS["batches"], ids=by("size"))
def test_batches_hold_and_are_made_again_bit_by_bit(batch: dict[str, Any]) -> None:
    items = [at.to_bytes(4, "big") for at in range(batch["size"])]
    made = seal(SigningKey(HEX(SEALS["seed"]), KeyKind.BOT), Context.ENVELOPE, items)
    for entry in batch["seals"]:
        assert made[entry["index"]].hex() == entry["seal"]
        sealed = Seal.decode(HEX(entry["seal"]))
        assert sealed.key.hex() == SEALS["key"]
        assert sealed.root(HEX(entry["item"])).hex() == batch["root"]
        assert Verifier().verify(Context.ENVELOPE, sealed, HEX(entry["item"]))


@pytest.mark.parametrize("vector", SEALS["contexts"], ids=by("context"))
def test_a_seal_holds_in_its_own_context_alone(vector: dict[str, Any]) -> None:
    sealed = Seal.decode(HEX(vector["seal"]))
    holding = [
        context.value.hex()
        for context in Context
        if Verifier().verify(context, sealed, HEX(vector["item"]))
    ]
    assert holding == [vector["context"]]


@pytest.mark.parametrize("vector", SEALS["invalid"], ids=by("name"))
def test_no_invalid_seal_holds(vector: dict[str, Any]) -> None:
    if vector["refused"] == "malformed":
        with pytest.raises(Malformed):
            Seal.decode(HEX(vector["seal"]))
        return
    sealed = Seal.decode(HEX(vector["seal"]))
    assert sealed.encode().hex() == vector["seal"]
    assert not Verifier().verify(Context(HEX(vector["context"])), sealed, HEX(vector["item"]))


CONNECT = load("connect.json")


@pytest.mark.parametrize("vector", CONNECT["texts"], ids=by("name"))
def test_admission_texts_are_written_and_read(vector: dict[str, Any]) -> None:
    word = NO_CERTIFICATE
    if vector["certificate"] is not None:
        word = base64.b64encode(HEX(vector["certificate"])).decode()
    key = PublicKey(HEX(vector["key"]), KeyKind.BOT).text
    said = AdmissionText(vector["bot"], key, tuple(vector["consumers"]), word)
    assert said.encode().encode().hex() == vector["admission"]
    assert AdmissionText.decode(HEX(vector["admission"]).decode()) == said
    assert said.client_name == vector["client_name"]


@pytest.mark.parametrize("vector", CONNECT["cases"], ids=by("name"))
def test_connect_signatures(vector: dict[str, Any]) -> None:
    key, challenge, admission = (
        HEX(CONNECT["key"]),
        HEX(vector["challenge"]),
        HEX(vector["admission"]),
    )
    assert (
        verify_connect(
            key, challenge=challenge, admission=admission, signature=HEX(vector["signature"])
        )
        is vector["holds"]
    )
    if vector["holds"]:
        signed = sign_connect(SigningKey(HEX(CONNECT["seed"]), KeyKind.BOT), challenge, admission)
        assert signed.hex() == vector["signature"]
    if b"\n" in challenge:
        with pytest.raises(InvalidInput):
            sign_connect(SigningKey(HEX(CONNECT["seed"]), KeyKind.BOT), challenge, admission)


CERTIFICATES = load("certificates.json")


def is_valid(told: dict[str, Any]) -> bool:
    """Whether a relay takes the certificate of a vector at its time."""
    certificate = Certificate.decode(HEX(told["certificate"]))
    since = (
        {} if told["sessions_from_ms"] is None else {"sessions_from_ms": told["sessions_from_ms"]}
    )
    key = BotKey(certificate.enrolled, 0, **since)
    limits = Limits(clock_skew_ms=told["clock_skew_ms"], session_key_ms=told["session_key_ms"])
    return objection(certificate, key, limits, told["time_ms"]) is None


@pytest.mark.parametrize("vector", CERTIFICATES["times"], ids=by("name"))
def test_certificate_is_valid_to_the_millisecond(vector: dict[str, Any]) -> None:
    assert is_valid(vector) is vector["valid"]


# ---- envelopes -----------------------------------------------------------------------------------

ENVELOPES = load("envelopes.json")
KEYS_BY_NAME = {
    name: PublicKey.parse(text, KeyKind.BOT).raw for name, text in ENVELOPES["keys"].items()
}


def step_of(told: dict[str, Any]) -> Step:
    fields = {name: value for name, value in told.items() if name not in ("envelope", "stamp")}
    return Step(expand(told["envelope"]), **{**fields, "delivery": DeliveryClass(told["delivery"])})


@pytest.mark.parametrize("scenario", ENVELOPES["scenarios"], ids=by("name"))
def test_envelopes_meet_the_written_outcome(scenario: dict[str, Any]) -> None:
    bus = PureBus(compile_policy(ENVELOPES["policy"], KEYS_BY_NAME))
    for told in scenario["steps"]:
        result, sealed = bus.take(step_of(told))
        assert result == told["expect"]
        if result == ACCEPTED:
            assert sealed is not None
            assert sealed.hex() == told["stamp"]


def test_every_reason_has_a_vector() -> None:
    met = {told["expect"] for scenario in ENVELOPES["scenarios"] for told in scenario["steps"]}
    assert met == {ACCEPTED, SETTLED, *(reason.value for reason in Reason)}, (
        "add an attack to tests/attacks, and run `make vectors`"
    )


def test_the_written_keys_are_those_of_the_written_seeds() -> None:
    made = {
        name: SigningKey(HEX(seed), KeyKind.BOT).public.text
        for name, seed in ENVELOPES["seeds"].items()
    }
    assert made == ENVELOPES["keys"]


def test_accepted_envelope_can_be_taken_apart_and_rebuilt() -> None:
    for scenario in ENVELOPES["scenarios"]:
        for told in scenario["steps"]:
            if told["expect"] == ACCEPTED:
                taken = Envelope.decode(expand(told["envelope"]))
                assert taken.header.decode(taken.header.encode()) == taken.header
                assert taken.withhold([], parent=False) == expand(told["envelope"])
                assert taken.data.endswith(taken.seal.encode())


# ---- stamps and deliveries -----------------------------------------------------------------------

STAMPS = load("stamps.json")
BUS_KEYS = bus_keys(STAMPS)

STAMP_RULES = {
    "shape": ("expected an array", "not one complete", "not the exact encoding", "field "),
    "version": ("version 1 expected",),
    "size": ("stamp of ",),
    "seal-shape": ("a seal ",),
    "key": ("stamp: sealed by a key that is not the bus's",),
    "seal": ("stamp: the seal does not hold",),
    "body": ("expected an array of 16", "field "),
    "names": ("stamp: a name or subject",),
    "lengths": ("stamp: a digest or nonce",),
    "numbers": ("stamp: a number",),
    "detail": ("stamp: the detail is",),
    "verdict": ("stamp: a refusal has a reason",),
    "record": ("stamp: a quarantined message has a record",),
    "store-by": ("stamp: an acceptance says", "stamp: it must be stored"),
    "count": ("stamp: the count of payloads",),
    "list-empty": ("stamp: an empty list",),
    "list-one": ("stamp: a list of refused payloads for one",),
    "list-shape": ("stamp: a refused payload is not",),
    "list-order": ("stamp: the indexes", "not one complete"),
    "list-reason": ("stamp: a payload is refused for a reason",),
    "list-detail": ("stamp: the detail of a refused payload",),
    "list-details": ("stamp: the details",),
    "list-all": ("stamp: an acceptance that refuses each",),
    "words": ("stamp: an unknown verdict or reason",),
}
DELIVERY_RULES = {
    "shape": ("expected an array of 2", "not one complete", "field ", "sender links of "),
    "stamp": ("not one complete", "expected an array of 3"),
    "stamp-key": STAMP_RULES["key"],
    "stamp-seal": STAMP_RULES["seal"],
    "bus": ("stamped for another bus",),
    "accepted": ("stamped, but not as accepted",),
    "subject": ("stamped for another subject",),
    "envelope": ("the stamp is about another envelope",),
    "envelope-shape": (
        "not one complete",
        "an envelope without payloads",
        "a payload without its salt",
        "a parent and 2 payloads",
        "a parent that is withheld although",
        "a part of an envelope is neither",
        "the hash of a withheld part",
    ),
    "agreement": ("envelope and stamp disagree",),
    "withheld": ("an accepted payload is withheld, or a refused one shown",),
    "payload": ("not one complete",),
}


def stamp_of(told: dict[str, Any]) -> Stamp:
    bytes_ = {name: HEX(told[name]) for name in ("envelope", "nonce", "policy")}
    reason = Reason(told["reason"]) if told["reason"] else None
    refused = [
        RefusedPayload(**{**one, "reason": Reason(one["reason"])}) for one in told["refused"]
    ]
    verdict = Verdict(told["verdict"])
    changed = {"verdict": verdict, "reason": reason, "refused": tuple(refused)}
    return Stamp(**{**told, **bytes_, **changed})


@pytest.mark.parametrize("vector", STAMPS["valid"])
def test_a_stamp_opens_and_is_sealed_again_bit_by_bit(vector: dict[str, Any]) -> None:
    told = stamp_of(vector["stamp"])
    assert open_stamp(HEX(vector["sealed"]), BUS_KEYS, Verifier()) == told
    assert (
        seal_stamps(SigningKey(HEX(ENVELOPES["bus_seed"]), KeyKind.BUS), [told])[0].hex()
        == vector["sealed"]
    )


def test_a_batch_of_stamps_opens_and_is_sealed_again_bit_by_bit() -> None:
    told = [stamp_of(vector["stamp"]) for vector in STAMPS["batch"]]
    sealed = [HEX(vector["sealed"]) for vector in STAMPS["batch"]]
    assert [open_stamp(data, BUS_KEYS, Verifier()) for data in sealed] == told
    assert seal_stamps(SigningKey(HEX(ENVELOPES["bus_seed"]), KeyKind.BUS), told) == sealed


def test_every_reason_has_a_stamp() -> None:
    met = {vector["stamp"]["reason"] for vector in STAMPS["valid"]}
    assert met == {None, *(reason.value for reason in Reason)}, "run `make vectors`"


@pytest.mark.parametrize("vector", STAMPS["invalid"], ids=by("name"))
def test_an_invalid_stamp_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        open_stamp(HEX(vector["sealed"]), BUS_KEYS, Verifier())
    assert refused.value.what.startswith(STAMP_RULES[vector["refused"]])


NOTICES = load("notices.json")
NOTICE_RULES = {
    "shape": STAMP_RULES["shape"],
    "version": STAMP_RULES["version"],
    "size": ("notice of ",),
    "seal-shape": STAMP_RULES["seal-shape"],
    "key": ("notice: sealed by a key that is not the bus's",),
    "seal": ("notice: the seal does not hold",),
    "body": ("expected an array of 6", "field ", "not the exact encoding"),
    "names": ("notice: the bus or the bot",),
    "numbers": ("notice: a time of ",),
    "words": ("notice: an unknown reason",),
    "length": ("notice: a key of ",),
    "removed": ("notice: a key with ",),
    "pause": ("notice: a pause ",),
    "bus": ("notice: about another bus",),
    "bot": ("notice: about another bot",),
    "time": ("notice: its time is ",),
}


def notice_of(told: dict[str, Any]) -> Notice:
    key = HEX(told["key"]) if told["key"] else None
    return Notice(**{**told, "reason": Ended(told["reason"]), "key": key})


def read_notice(data: bytes) -> Notice:
    notice = open_notice(data, BUS_KEYS)
    check_notice(notice, bus=NOTICES["bus"], bot=NOTICES["bot"], now_ms=NOTICES["now_ms"])
    return notice


@pytest.mark.parametrize("vector", NOTICES["valid"])
def test_a_notice_opens_and_is_sealed_again_bit_by_bit(vector: dict[str, Any]) -> None:
    told = notice_of(vector["notice"])
    assert read_notice(HEX(vector["sealed"])) == told
    bus_key = SigningKey(HEX(ENVELOPES["bus_seed"]), KeyKind.BUS)
    assert seal_notice(bus_key, told).hex() == vector["sealed"]


def test_a_batch_of_notices_opens_and_is_sealed_again_bit_by_bit() -> None:
    told = [notice_of(vector["notice"]) for vector in NOTICES["batch"]]
    sealed = [HEX(vector["sealed"]) for vector in NOTICES["batch"]]
    assert [read_notice(data) for data in sealed] == told
    bus_key = SigningKey(HEX(ENVELOPES["bus_seed"]), KeyKind.BUS)
    assert seal_bodies(bus_key, Context.NOTICE, [one.encode() for one in told]) == sealed


def test_every_reason_of_a_notice_has_a_vector() -> None:
    assert {vector["notice"]["reason"] for vector in NOTICES["valid"]} == set(Ended)


@pytest.mark.parametrize("vector", NOTICES["invalid"], ids=by("name"))
def test_an_invalid_notice_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        read_notice(HEX(vector["sealed"]))
    assert refused.value.what.startswith(NOTICE_RULES[vector["refused"]])


DELIVERIES = load("deliveries.json")


@pytest.mark.parametrize("vector", DELIVERIES["valid"], ids=by("name"))
def test_a_delivery_opens(vector: dict[str, Any]) -> None:
    messages = open_delivery(
        HEX(vector["delivery"]),
        DELIVERIES["subject"],
        bus=DELIVERIES["bus"],
        bus_keys=BUS_KEYS,
        verifier=Verifier(),
    )
    assert [{"index": one.index, "payload": one.payload} for one in messages] == vector["messages"]
    for message in messages:
        assert (message.bot, message.issued_at_ms) == (vector["bot"], vector["issued_at_ms"])
        assert message.stamp.count == len(message.envelope.payloads) == vector["count"]
        parent = "none" if message.envelope.parent is None else "shown"
        hidden = message.envelope.hides_parent
        assert ("withheld" if hidden else parent) == vector["parent"]
    with pytest.raises(Malformed, match="another subject"):
        open_delivery(
            HEX(vector["delivery"]),
            "orders.shipped",
            bus=DELIVERIES["bus"],
            bus_keys=BUS_KEYS,
            verifier=Verifier(),
        )
    with pytest.raises(Malformed, match="another bus"):
        open_delivery(
            HEX(vector["delivery"]),
            DELIVERIES["subject"],
            bus="bazaar",
            bus_keys=BUS_KEYS,
            verifier=Verifier(),
        )
    with pytest.raises(Malformed, match="not the bus's"):
        open_delivery(
            HEX(vector["delivery"]),
            DELIVERIES["subject"],
            bus=DELIVERIES["bus"],
            bus_keys=frozenset(),
            verifier=Verifier(),
        )


@pytest.mark.parametrize("vector", DELIVERIES["invalid"], ids=by("name"))
def test_an_invalid_delivery_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        open_delivery(
            HEX(vector["delivery"]),
            DELIVERIES["subject"],
            bus=DELIVERIES["bus"],
            bus_keys=BUS_KEYS,
            verifier=Verifier(),
        )
    assert refused.value.what.startswith(DELIVERY_RULES[vector["refused"]])


# ---- texts and values ----------------------------------------------------------------------------

KEY_TEXTS = load("keys.json")


@pytest.mark.parametrize("vector", KEY_TEXTS["valid"], ids=by("kind"))
def test_key_texts_are_read_and_written(vector: dict[str, Any]) -> None:
    kind = KINDS[vector["kind"]]
    key = SigningKey.parse(vector["seed_text"], kind)
    assert (key.public.raw.hex(), key.public.text, key.seed_text) == (
        vector["public"], vector["public_text"], vector["seed_text"],
    )  # fmt: skip
    assert SigningKey(HEX(vector["seed"]), kind).seed_text == vector["seed_text"]
    assert PublicKey.parse(vector["public_text"], kind) == key.public


@pytest.mark.parametrize("vector", KEY_TEXTS["invalid_public"], ids=by("about"))
def test_invalid_public_keys_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        PublicKey.parse(vector["text"], KINDS[vector["kind"]])


@pytest.mark.parametrize("vector", KEY_TEXTS["invalid_seed"], ids=by("about"))
def test_invalid_seeds_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        SigningKey.parse(vector["text"], KINDS[vector["kind"]])
    assert not vector["text"] or vector["text"] not in f"{refused.value}{refused.value.hint}"


SUBJECTS = load("subjects.json")


@pytest.mark.parametrize(
    ("group", "accepts"),
    [
        ("names", subjects.is_name),
        ("subjects", subjects.is_subject),
        ("patterns", subjects.is_pattern),
    ],
)
def test_names_subjects_and_patterns(group: str, accepts: Any) -> None:
    assert [text for text in SUBJECTS[group]["valid"] if not accepts(text)] == []
    assert [text for text in SUBJECTS[group]["invalid"] if accepts(text)] == []


def test_matching_overlapping_and_consumers() -> None:
    wrong = [
        v
        for v in SUBJECTS["matches"]
        if subjects.matches(v["pattern"], v["subject"]) is not v["matches"]
    ]
    assert wrong == []
    wrong = [
        v
        for v in SUBJECTS["overlaps"]
        if not subjects.overlap(v["one"], v["other"])
        is subjects.overlap(v["other"], v["one"])
        is v["overlap"]
    ]
    assert wrong == []
    wrong = [
        v
        for v in SUBJECTS["consumers"]
        if subjects.consumer_name(v["bot"], v["pattern"], v["durable"]) != v["consumer"]
    ]
    assert wrong == []


ED25519 = load("ed25519.json")


@pytest.mark.parametrize("case", ED25519["cases"], ids=by("number"))
def test_the_edge_cases_of_ed25519(case: dict[str, Any]) -> None:
    assert verify(HEX(case["key"]), HEX(case["message"]), HEX(case["signature"])) is case["holds"]


PAYLOADS = load("payloads.json")


@pytest.mark.parametrize("vector", PAYLOADS["floats"], ids=by("number"))
def test_whole_floats_are_read_and_written(vector: dict[str, Any]) -> None:
    number = float(vector["number"])
    value = unpack_json(HEX(vector["encoded"]))
    assert (value, type(value)) == (number, float)
    assert pack_json(number).hex() == vector["encoded"]
    assert unpack_json(HEX(vector["without_floats"])) == number


@pytest.mark.parametrize("vector", PAYLOADS["maps"], ids=by("about"))
def test_maps_keep_their_keys_and_their_order(vector: dict[str, Any]) -> None:
    value = unpack_json(HEX(vector["encoded"]))
    assert [[key, inner] for key, inner in value.items()] == vector["pairs"]
    assert pack_json(value).hex() == vector["encoded"]


@pytest.mark.parametrize("vector", PAYLOADS["unwritable"], ids=by("about"))
def test_unwritable_values_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        pack_json(json.loads(vector["json"]))


@pytest.mark.parametrize("vector", PAYLOADS["valid"], ids=by("encoded"))
def test_payloads_are_read_and_written(vector: dict[str, Any]) -> None:
    value = unpack_json(HEX(vector["encoded"]))
    assert (value, type(value)) == (vector["json"], type(vector["json"]))
    assert pack_json(vector["json"]).hex() == vector["encoded"]


@pytest.mark.parametrize("vector", PAYLOADS["valid_without_value"], ids=by("about"))
def test_payloads_at_the_limits_are_read(vector: dict[str, Any]) -> None:
    assert pack_json(unpack_json(expand(vector["encoded"]))) == expand(vector["encoded"])


@pytest.mark.parametrize("vector", PAYLOADS["invalid"], ids=by("about"))
def test_invalid_payloads_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        unpack_json(expand(vector["encoded"]))
