"""Join proofs and join records: their content, and the keys for which a proof holds."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import Malformed
from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.joining import PROOF_BYTES, JoinProof, JoinRecord, inbox, record_id
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_TIME_MS
from sealbus.protocol.seal import Context, Seal, seal
from tests.gate.world import KEYS, NOW, flip

TOKEN, KEY = KEYS["rival"], KEYS["courier"].public.raw
PROOF = JoinProof.make(TOKEN, KEY, bus="shop", bot="courier")
RECORD = JoinRecord(KEY, PROOF, NOW)


def holds(proof: JoinProof, *, bus: str = "shop", bot: str = "courier", key: bytes = KEY) -> bool:
    return proof.holds(bus=bus, bot=bot, key=key)


def test_proof_is_read_as_it_was_written() -> None:
    assert JoinProof.decode(PROOF.encode()) == PROOF
    assert JoinProof.read_word(PROOF.word) == PROOF
    assert PROOF.token_key == TOKEN.public.raw
    assert holds(PROOF)


@pytest.mark.parametrize(
    "other", [{"bus": "shop2"}, {"bot": "order"}, {"key": KEYS["order"].public.raw}], ids=str
)
def test_proof_holds_for_one_bus_bot_and_key_alone(other: dict[str, object]) -> None:
    assert not holds(PROOF, **other)  # type: ignore[arg-type]  # one of the three


@pytest.mark.parametrize("at", range(PROOF_BYTES))
def test_changed_byte_is_noticed(at: int) -> None:
    assert not holds(JoinProof.decode(flip(PROOF.encode(), at)))


@pytest.mark.parametrize("context", [one for one in Context if one is not Context.JOIN])
def test_signature_of_another_kind_is_no_proof(context: Context) -> None:
    item = pack_fields(("shop", "courier", KEY))
    signature = Seal.decode(seal(TOKEN, context, [item])[0]).signature
    assert not holds(JoinProof(TOKEN.public.raw, signature))


def test_key_of_small_order_proves_nothing() -> None:
    neutral = (1).to_bytes(32, "little")
    assert not holds(JoinProof(neutral, neutral + bytes(32)))


def test_word_without_proof_is_none() -> None:
    for word in ("-", "", "join", "Join:AAAA", "token:AAAA"):
        assert JoinProof.read_word(word) is None


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("join:", "has 0 bytes"),
        ("join:AAAA", "has 3 bytes"),
        ("join:***", "is not base64"),
        (PROOF.word[:-1], "is not base64"),
        (PROOF.word + "AAAA", "has 99 bytes"),
        ("join:" + base64.b64encode(PROOF.encode() + b"\0").decode(), "has 97 bytes"),
        ("join:AAB=", "has 2 bytes"),
    ],
)
def test_bad_proof_is_refused_by_its_rule(word: str, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        JoinProof.read_word(word)


def test_text_with_a_proof_names_its_bot_and_invitation() -> None:
    said = AdmissionText("courier", KEYS["courier"].public.text, (), PROOF.word)
    assert AdmissionText.decode(said.encode()) == said
    assert said.read_proof() == PROOF
    assert said.client_name == f"courier join {TOKEN.public.text}"


def test_proof_is_no_certificate() -> None:
    """Otherwise a login by a proof could pass for one by an enrolled key."""
    said = AdmissionText("courier", KEYS["courier"].public.text, (), PROOF.word)
    with pytest.raises(Malformed):
        said.read_certificate()


def test_record_is_read_as_it_was_written() -> None:
    assert JoinRecord.decode(RECORD.encode()) == RECORD


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ((KEY[:-1], PROOF.encode(), NOW), "a key of 31 bytes"),
        ((KEY, PROOF.encode()[:-1], NOW), "95 bytes"),
        ((KEY, PROOF.encode(), -1), "a time of -1"),
        ((KEY, PROOF.encode(), MAX_TIME_MS + 1), "a time of"),
        ((KEY, PROOF.encode(), str(NOW)), "field 2"),
        ((KEY, PROOF.encode()), "an array of 3"),
        ((KEY, PROOF.encode(), NOW, NOW), "an array of 3"),
    ],
)
def test_bad_record_is_refused_by_its_rule(fields: tuple[object, ...], what: str) -> None:
    with pytest.raises(Malformed, match=what):
        JoinRecord.decode(pack_fields(fields))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert JoinRecord.decode(data).encode() == data


def test_names_of_an_invitation_are_tokens_of_nats() -> None:
    assert record_id(TOKEN.public.raw) == TOKEN.public.text
    assert inbox(TOKEN.public.raw) == f"join.{TOKEN.public.text}"


def test_a_made_key_shows_no_seed() -> None:
    key = SigningKey.generate(KeyKind.BOT)
    assert key.seed_text not in repr(JoinProof.make(key, KEY, bus="shop", bot="courier"))
