"""The vectors of a client's reading and matching, run against the client.

``README.md`` beside this file describes the format.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.invitation import JoinToken
from sealbus.nats.acks import read_ack
from sealbus.nats.records import read_subject, record_subject
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.answer import ERROR_SCHEMA, read_error
from sealbus.protocol.bus_keys import end_of
from sealbus.protocol.certificate import Certificate, certify
from sealbus.protocol.codec import is_bundle, pack_bundle, pack_fields, split_bundle
from sealbus.protocol.delivery import Message, open_delivery
from sealbus.protocol.envelope import Envelope, Header
from sealbus.protocol.exchange import PREFIX, TOKEN, ExchangeRecord, inbox, record_id
from sealbus.protocol.joining import JoinProof, JoinRecord
from sealbus.protocol.keyring import Link, open_link, pack_keyring, seal_link, split_keyring
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.seal import Context, Verifier
from sealbus.protocol.shelf_life import is_too_old_live, is_void
from sealbus.protocol.stamp import open_stamp
from sealbus.protocol.subjects import is_bookkeeping
from sealbus.receiving.verifier import HandledMessages
from sealbus.sending.matching import check_answer, is_receipt
from sealbus.trust import Trust
from tests.vectors.files import HEX, bus_keys, by, expand, load

HEADERS = load("headers.json")

HEADER_RULES = {
    "shape": (
        "not one complete",
        "expected an array of 5",
        "not the exact encoding",
        "field 1",
        "field 2",
        "field 3",
        "field 4",
    ),
    "version": ("version 1 expected", "field 0", "not the exact encoding"),
    "size": ("envelope of ",),
    "sent": ("an envelope in which something is withheld",),
    "count": ("an envelope without payloads", "a parent and 2 payloads"),
    "salt": ("a payload without its salt",),
    "withheld": (
        "a part of an envelope is neither bytes nor withheld",
        "an envelope in which something is withheld",
    ),
    "hash": ("the hash of a withheld part", "an envelope in which something is withheld"),
    "no-parent": (
        "a parent that is withheld although there is none",
        "an envelope in which something is withheld",
    ),
    "fields": ("expected an array of 9", "not one complete", "not the exact encoding"),
    "types": ("field ",),
    "names": ("header: bus", "header: bot", "header: subject", "header: schema is"),
    "nonce": ("header: nonce",),
    "numbers": ("header: issued-at", "header: time-to-live", "header: schema-version"),
    "schema": ("header: schema and",),
    "certificate": ("header: certificate",),
    "parent": ("parent of ",),
    "seal": ("a seal ",),
}


def part(told: Any) -> Any:
    """A parent or a payload of a vector. A list of one hash says that it is withheld."""
    if told is None:
        return None
    return [HEX(told[0])] if isinstance(told, list) else expand(told)


def is_read(envelope: Envelope, vector: dict[str, Any]) -> None:
    told = vector["header"]
    parent, payloads = part(vector["parent"]), [part(one) for one in vector["payloads"]]
    shown = HEX(told["certificate"]) if told["certificate"] else None
    changed = {"nonce": HEX(told["nonce"]), "certificate": shown}
    assert envelope.header == Header(**{**told, **changed})
    assert envelope.parent == (None if isinstance(parent, list) else parent)
    assert envelope.hides_parent is isinstance(parent, list)
    assert envelope.payloads == [
        None if isinstance(payload, list) else payload[16:] for payload in payloads
    ]
    assert (envelope.outline.hex(), envelope.digest.hex()) == (vector["outline"], vector["digest"])
    assert Verifier().verify(Context.ENVELOPE, envelope.seal, envelope.outline) is vector["holds"]
    written = (1, envelope.header.encode(), parent, payloads, envelope.seal.encode())
    assert pack_fields(written) == expand(vector["envelope"])


@pytest.mark.parametrize("vector", HEADERS["valid"], ids=by("name"))
def test_an_envelope_is_read_and_its_header_written(vector: dict[str, Any]) -> None:
    data = expand(vector["envelope"])
    is_read(Envelope.decode(data), vector)
    is_read(Envelope.decode_shown(data), vector)


@pytest.mark.parametrize("vector", HEADERS["shown"], ids=by("name"))
def test_shown_envelope_is_read_but_not_sent(vector: dict[str, Any]) -> None:
    data = expand(vector["envelope"])
    is_read(Envelope.decode_shown(data), vector)
    with pytest.raises(Malformed):
        Envelope.decode(data)


@pytest.mark.parametrize("vector", HEADERS["invalid"], ids=by("name"))
def test_an_invalid_envelope_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        Envelope.decode(expand(vector["envelope"]))
    assert refused.value.what.startswith(HEADER_RULES[vector["refused"]])


@pytest.mark.parametrize("vector", HEADERS["invalid_shown"], ids=by("name"))
def test_an_invalid_shown_envelope_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        Envelope.decode_shown(expand(vector["envelope"]))
    rules = [rule for rule in HEADER_RULES[vector["refused"]] if "something" not in rule]
    assert refused.value.what.startswith(tuple(rules))


CERTIFICATES = load("certificates.json")
CERTIFICATE_RULES = {"size": "certificate has ", "life": "certificate's life "}


def holds(told: dict[str, Any], verifier: Verifier) -> bool:
    certificate = Certificate.decode(HEX(told["certificate"]))
    key = HEX(told["session_key"])
    return certificate.holds(verifier, bus=told["bus"], bot=told["bot"], key=key)


@pytest.mark.parametrize("vector", CERTIFICATES["made"], ids=by("name"))
def test_a_certificate_is_read_and_made_again_bit_by_bit(vector: dict[str, Any]) -> None:
    certificate = Certificate.decode(HEX(vector["certificate"]))
    times = {name: vector[name] for name in ("not_before_ms", "life_ms")}
    assert {name: getattr(certificate, name) for name in times} == times
    assert certificate.enrolled.hex() == CERTIFICATES["key"]
    assert holds(vector, Verifier())
    enrolled = SigningKey(HEX(CERTIFICATES["seed"]), KeyKind.BOT)
    key, bus, bot = HEX(vector["session_key"]), vector["bus"], vector["bot"]
    assert certify(enrolled, key, bus=bus, bot=bot, **times).hex() == vector["certificate"]


@pytest.mark.parametrize("vector", CERTIFICATES["cases"], ids=by("name"))
def test_a_certificate_holds_for_what_it_signs(vector: dict[str, Any]) -> None:
    assert holds(vector, Verifier()) is vector["holds"]


def test_a_memory_of_certificates_changes_no_answer() -> None:
    verifier = Verifier()
    wrong = [one["name"] for one in CERTIFICATES["cases"] if holds(one, verifier) != one["holds"]]
    assert wrong == []


@pytest.mark.parametrize("vector", CERTIFICATES["invalid"], ids=by("name"))
def test_an_invalid_certificate_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        Certificate.decode(HEX(vector["certificate"]))
    assert refused.value.what.startswith(CERTIFICATE_RULES[vector["refused"]])


JOINS = load("joins.json")
PROOF_RULES = {"size": "join proof has ", "base64": "the join proof is "}
RECORD_RULES: dict[str, str | tuple[str, ...]] = {
    "shape": ("expected an array", "field ", "not the exact", "not one complete"),
    "key": "join record: a key of ",
    "proof": "join proof has ",
    "time": "join record: a time of ",
}
TOKEN_RULES: dict[str, str | tuple[str, ...]] = {
    "begin": "the token does not begin with ",
    "version": "the token has version ",
    "characters": "the token has an unknown character",
    "checksum": "the token has a wrong checksum",
    "shape": "the token cannot be used: it is not what",
    "names": "the token cannot be used: the bus or the bot",
    "seed": "the token cannot be used: its seed",
    "keys": ("the token cannot be used: its bus keys", "the token cannot be used: a bus key"),
    "time": "the token cannot be used: its end",
}


@pytest.mark.parametrize("vector", JOINS["made"], ids=by("name"))
def test_a_join_proof_is_read_and_made_again_bit_by_bit(vector: dict[str, Any]) -> None:
    bus, bot, key = vector["bus"], vector["bot"], HEX(vector["enrolled_key"])
    proof = JoinProof.read_word(vector["word"])
    assert proof is not None
    assert proof.token_key.hex() == JOINS["key"]
    assert proof.holds(bus=bus, bot=bot, key=key)
    token_key = SigningKey(HEX(JOINS["seed"]), KeyKind.BOT)
    assert JoinProof.make(token_key, key, bus=bus, bot=bot).word == vector["word"]


@pytest.mark.parametrize("vector", JOINS["cases"], ids=by("name"))
def test_a_join_proof_holds_for_what_it_signs(vector: dict[str, Any]) -> None:
    proof = JoinProof.decode(HEX(vector["proof"]))
    key = HEX(vector["enrolled_key"])
    assert proof.holds(bus=vector["bus"], bot=vector["bot"], key=key) is vector["holds"]


@pytest.mark.parametrize("vector", JOINS["invalid"], ids=by("name"))
def test_an_invalid_join_proof_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        JoinProof.read_word(vector["word"])
    assert refused.value.what.startswith(PROOF_RULES[vector["refused"]])


@pytest.mark.parametrize("vector", JOINS["records"], ids=by("name"))
def test_a_join_record_is_read_and_made_again_bit_by_bit(vector: dict[str, Any]) -> None:
    proof = JoinProof.decode(HEX(vector["proof"]))
    record = JoinRecord(HEX(vector["enrolled_key"]), proof, vector["at_ms"])
    assert JoinRecord.decode(HEX(vector["record"])) == record
    assert record.encode().hex() == vector["record"]


@pytest.mark.parametrize("vector", JOINS["invalid_records"], ids=by("name"))
def test_an_invalid_join_record_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        JoinRecord.decode(HEX(vector["record"]))
    assert refused.value.what.startswith(RECORD_RULES[vector["refused"]])


@pytest.mark.parametrize("vector", JOINS["tokens"], ids=by("name"))
def test_a_token_is_read_and_made_again_bit_by_bit(vector: dict[str, Any]) -> None:
    token = JoinToken.decode(vector["token"])
    assert (token.bus, token.bot, token.ends_ms) == (
        vector["bus"],
        vector["bot"],
        vector["ends_ms"],
    )
    assert token.key.raw_seed.hex() == vector["seed"]
    assert sorted(key.hex() for key in token.bus_keys) == vector["bus_keys"]
    assert list(token.servers) == vector["servers"]
    assert token.encode() == vector["token"]


@pytest.mark.parametrize("vector", JOINS["invalid_tokens"], ids=by("name"))
def test_an_invalid_token_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as refused:
        JoinToken.decode(vector["token"])
    assert refused.value.what.startswith(TOKEN_RULES[vector["refused"]])


EXCHANGES = load("exchanges.json")
EXCHANGE_RULES = {
    "size": ("exchange record has ",),
    "shape": ("not one complete", "expected an array of 2", "field ", "not the exact encoding"),
    "key": ("exchange record: a key",),
    "certificate": ("certificate's life ",),
}


def exchanged(told: dict[str, Any]) -> ExchangeRecord:
    record = ExchangeRecord.decode(HEX(told["record"]))
    record.read_certificate(bus=EXCHANGES["bus"], bot=EXCHANGES["bot"])
    return record


@pytest.mark.parametrize("vector", EXCHANGES["logins"], ids=by("name"))
def test_login_with_a_token_has_its_words_and_names(vector: dict[str, Any]) -> None:
    token, bot = vector["token"], EXCHANGES["bot"]
    key = PublicKey(HEX(EXCHANGES["session_key"]), KeyKind.BOT).text
    said = AdmissionText(bot, key, certificate=PREFIX + token)
    assert said.encode() == vector["admission"]
    assert AdmissionText.decode(vector["admission"]) == said
    assert (said.token, said.client_name) == (token, vector["client_name"])
    assert record_id(token) == vector["id"]
    assert inbox(record_id(token)) == vector["inbox"]
    assert read_subject(record_subject(TOKEN, record_id(token))) == vector["read"]


@pytest.mark.parametrize("vector", EXCHANGES["records"], ids=by("name"))
def test_record_of_an_exchange_holds_for_its_key(vector: dict[str, Any]) -> None:
    record = ExchangeRecord.decode(HEX(vector["record"]))
    assert record.encode() == HEX(vector["record"])
    assert (record.key.hex() == EXCHANGES["session_key"]) is vector["own"]
    refusal = pytest.raises(Malformed, match="does not hold")
    with contextlib.nullcontext() if vector["holds"] else refusal:
        exchanged(vector)


@pytest.mark.parametrize("vector", EXCHANGES["invalid"], ids=by("name"))
def test_invalid_record_of_an_exchange_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        exchanged(vector)
    assert refused.value.what.startswith(EXCHANGE_RULES[vector["refused"]])


BUNDLES = load("bundles.json")


@pytest.mark.parametrize("vector", BUNDLES["valid"], ids=by("name"))
def test_bundle_is_split_and_joined_again(vector: dict[str, Any]) -> None:
    data = expand(vector["bundle"])
    items = split_bundle(data)
    if "items" in vector:
        assert items == [expand(item) for item in vector["items"]]
    else:
        told = (len(items), hashlib.sha256(b"".join(items)).hexdigest())
        assert told == (vector["count"], vector["sha256"])
    assert is_bundle(data)
    assert pack_bundle(items) == data


@pytest.mark.parametrize("vector", BUNDLES["invalid"], ids=by("name"))
def test_invalid_bundle_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        split_bundle(expand(vector["bundle"]))


RECEIPTS = load("receipts.json")
BUS_KEYS = bus_keys(RECEIPTS)
SENT = {told["name"]: told for told in RECEIPTS["messages"]}


def outcome(told: dict[str, Any], receipt: bytes) -> str | None:
    """The outcome of the message ``told`` that a publisher takes from a receipt.

    It does the same as :class:`~sealbus.sending.publisher.Publisher`.
    """
    header = Header(told["bus"], told["bot"], told["subject"], HEX(told["nonce"]), 0, 1)
    attempts = {HEX(digest) for digest in told["attempts"]}
    try:
        items = split_bundle(receipt) if is_bundle(receipt) else [receipt]
    except Malformed:
        return None
    for item in items:
        with contextlib.suppress(Malformed):
            stamp = open_stamp(item, BUS_KEYS, Verifier())
            if is_receipt(
                stamp,
                header,
                attempts,
                count=told["payloads"],
                live=told["live"],
                resumed=told["resumed"],
            ):
                return stamp.reason.value if stamp.reason else stamp.verdict.value
    return None


@pytest.mark.parametrize("vector", RECEIPTS["cases"], ids=by("name"))
def test_receipts(vector: dict[str, Any]) -> None:
    assert outcome(SENT[vector["message"]], HEX(vector["receipt"])) == vector["outcome"]


ANSWERS = load("answers.json")
ANSWER_RULES = {
    "parent": (
        "an answer without a parent",
        "not one complete",
        "expected an array of 3",
        "field ",
        "a parent with the index",
    ),
    "stamp": ("stamp: ", "expected an array of 3"),
    "request": ("an answer to another request", "an answer to a request on another bus"),
    "accepted": ("an answer to a request that was not accepted",),
    "speaker": ("an answer for the bus itself",),
    "delivery": (
        "stamped for another subject",
        "stamp: the seal does not hold",
        "not one complete",
        "stamp: a name",
    ),
}


def take_answer(vector: dict[str, Any]) -> Message:
    told = ANSWERS["requests"][vector["request"]]
    request = Header(ANSWERS["bus"], told["bot"], told["subject"], HEX(told["nonce"]), 0, 1)
    subject = told["answered_on"].removeprefix("bus.")
    (message,) = open_delivery(
        HEX(vector["delivery"]), subject, bus=ANSWERS["bus"], bus_keys=BUS_KEYS, verifier=Verifier()
    )
    check_answer(message, request, bus_keys=BUS_KEYS, verifier=Verifier())
    return message


@pytest.mark.parametrize("vector", ANSWERS["valid"], ids=by("name"))
def test_an_answer_is_taken(vector: dict[str, Any]) -> None:
    message = take_answer(vector)
    assert (message.envelope.header.schema_name == ERROR_SCHEMA) is vector["failed"]
    if vector["failed"]:
        assert read_error(message.payload) == (
            vector["payload"]["error"],
            vector["payload"]["message"],
        )
    else:
        assert message.payload == vector["payload"]


@pytest.mark.parametrize("vector", ANSWERS["invalid"], ids=by("name"))
def test_bad_answer_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        take_answer(vector)
    assert refused.value.what.startswith(ANSWER_RULES[vector["refused"]])


SUBSCRIBERS = load("subscribers.json")


@pytest.mark.parametrize("sequence", SUBSCRIBERS["sequences"], ids=by("name"))
def test_subscriber_passes_on_each_new_message_once(sequence: dict[str, Any]) -> None:
    seen = HandledMessages()
    for step in sequence["steps"]:
        assert met(step, sequence["kind"], seen) == step["expect"]


def is_late(message: Message, step: dict[str, Any]) -> bool:
    if "now_ms" in step:
        return is_too_old_live(message.stamp, step["now_ms"])
    ack = read_ack(step["reply"].encode())
    assert ack is not None
    return is_void(message.stamp, ack.stored_ms)


def met(step: dict[str, Any], kind: str, seen: HandledMessages) -> str | list[str]:
    prefix = {"live": "bus.", "durable": "accepted."}[kind]
    assert step["subject"].startswith(prefix)
    if not step["delivery"] or is_bookkeeping(step["subject"].encode(), prefix[:-1]):
        return "ignored"
    try:
        messages = open_delivery(
            HEX(step["delivery"]),
            step["subject"].removeprefix(prefix),
            bus=SUBSCRIBERS["bus"],
            bus_keys=BUS_KEYS,
            verifier=Verifier(),
        )
    except Malformed:
        return "refused"
    if is_late(messages[0], step):
        return "void"
    outcomes = []
    for message in messages:
        outcomes.append("known" if message in seen else "handed")
        seen.add(message)
    return outcomes


KEYRINGS = load("keyrings.json")
KEYRING_RULES = {
    "list": ("expected an array of 2", "not one complete", "not the exact", "field "),
    "shape": ("expected an array of 3", "not one complete", "not the exact", "field "),
    "version": ("version 1 expected",),
    "size": ("keyring of ",),
    "count": ("keyring: expected 1 to 32 links",),
    "link-size": ("keyring of ",),
    "seal-shape": ("a seal ",),
    "sealer": ("keyring: a link that its old key has not sealed",),
    "seal": ("keyring: the seal does not hold",),
    "body": ("expected an array of 6", "field ", "not the exact encoding"),
    "names": ("keyring: the bus is not a name",),
    "numbers": ("keyring: a link with the number ",),
    "length": ("keyring: a key that has not 32 bytes",),
    "times": ("keyring: the old key ends before",),
    "bus": ("keyring: a link of another bus",),
    "gap": ("keyring: the numbers of its links have a gap",),
    "joint": ("keyring: a link that does not begin where",),
    "order": ("keyring: the times of its links are out of order",),
    "cycle": ("keyring: a key that comes back",),
    "unpinned": ("keyring: none of its keys",),
    "off-chain": ("keyring: a key that the credentials name is not",),
    "fork": ("keyring: a fork",),
    "many": ("keyring: more than 32 links",),
}


def trust_of(vector: dict[str, Any]) -> Trust:
    return Trust(KEYRINGS["bus"], bus_keys({"bus_keys": vector["pinned"]}))


def trusted(trust: Trust) -> list[dict[str, Any]]:
    return [{"key": key.hex(), "end_ms": end_of(trust.keys, key)} for key in sorted(trust.keys)]


@pytest.mark.parametrize("vector", KEYRINGS["links"])
def test_a_link_opens_and_is_sealed_again_bit_by_bit(vector: dict[str, Any]) -> None:
    told = {name: vector[name] for name in ("bus", "number", "from_ms", "end_ms")}
    link = Link(**told, old=HEX(vector["old"]), new=HEX(vector["new"]))
    assert open_link(HEX(vector["link"])) == link
    assert seal_link(SigningKey(HEX(vector["seed"]), KeyKind.BUS), link).hex() == vector["link"]


@pytest.mark.parametrize("vector", KEYRINGS["valid"], ids=by("name"))
def test_a_list_of_keys_is_followed(vector: dict[str, Any]) -> None:
    trust = trust_of(vector)
    trust.take(HEX(vector["keyring"]))
    assert trusted(trust) == vector["trusted"]
    links = split_keyring(HEX(vector["keyring"]))
    assert pack_keyring(links).hex() == vector["keyring"]


@pytest.mark.parametrize("vector", KEYRINGS["invalid"], ids=by("name"))
def test_an_invalid_list_is_refused_by_its_rule(vector: dict[str, Any]) -> None:
    trust = trust_of(vector)
    before = trusted(trust)
    with pytest.raises(Malformed) as refused:
        trust.take(HEX(vector["keyring"]))
    assert refused.value.what.startswith(KEYRING_RULES[vector["refused"]])
    assert trusted(trust) == before


@pytest.mark.parametrize("vector", KEYRINGS["sequences"], ids=by("name"))
def test_lists_of_keys_follow_one_another(vector: dict[str, Any]) -> None:
    trust = trust_of(vector)
    for step in vector["steps"]:
        data = HEX(step["keyring"])
        if step["expect"] in ("taken", "same", "old"):
            assert trust.take(data) is (step["expect"] == "taken")
        else:
            with pytest.raises(Malformed) as refused:
                trust.take(data)
            assert refused.value.what.startswith(KEYRING_RULES[step["expect"]])
        assert trusted(trust) == step["trusted"]


@pytest.mark.parametrize("vector", KEYRINGS["stamps"], ids=by("name"))
def test_stamps_are_believed_by_the_list(vector: dict[str, Any]) -> None:
    trust = trust_of(vector)
    if vector["keyring"] is not None:
        trust.take(HEX(vector["keyring"]))
    if vector["believed"]:
        open_stamp(HEX(vector["sealed"]), trust.keys, Verifier())
    else:
        with pytest.raises(Malformed, match="stamp: "):
            open_stamp(HEX(vector["sealed"]), trust.keys, Verifier())
