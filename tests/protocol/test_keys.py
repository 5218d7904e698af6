"""Keys and their texts. Single texts, good and bad, are in ``tests/vectors/keys.json``."""

from __future__ import annotations

import base64

import nkeys
import pytest

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey, verify
from tests.gate.world import KEYS

KEY = KEYS["order"]
LETTERS = {KeyKind.BOT: "U", KeyKind.BUS: "N", KeyKind.ISSUER: "A"}


@pytest.mark.parametrize("kind", KeyKind)
def test_new_keys_texts_have_its_kinds_letter_and_are_read_back(kind: KeyKind) -> None:
    key = SigningKey.generate(kind)
    assert key.public.text[0] == kind.letter == LETTERS[kind]
    assert key.seed_text[:2] == f"S{kind.letter}"
    assert (len(key.public.text), len(key.seed_text)) == (56, 58)
    assert PublicKey.parse(key.public.text, kind) == key.public
    assert SigningKey.parse(key.seed_text, kind).public == key.public


@pytest.mark.parametrize("kind", KeyKind)
def test_nats_reads_the_same_texts(kind: KeyKind) -> None:
    key = SigningKey.generate(kind)
    theirs = nkeys.from_seed(key.seed_text.encode())
    assert theirs.public_key.decode() == key.public.text
    assert theirs.sign(b"text") == key.sign(b"text")


@pytest.mark.parametrize("kind", KeyKind)
@pytest.mark.parametrize("other", KeyKind)
def test_a_key_of_one_kind_is_refused_for_another(kind: KeyKind, other: KeyKind) -> None:
    if kind is other:
        return
    key = SigningKey.generate(kind)
    with pytest.raises(InvalidInput, match=f"begins with '{kind.letter}'"):
        PublicKey.parse(key.public.text, other)
    with pytest.raises(InvalidInput, match="another kind"):
        SigningKey.parse(key.seed_text, other)


def test_two_new_keys_differ() -> None:
    assert SigningKey.generate(KeyKind.BOT).seed_text != SigningKey.generate(KeyKind.BOT).seed_text


@pytest.mark.parametrize("at", range(56))
def test_any_one_wrong_letter_in_a_public_key_is_noticed(at: int) -> None:
    text = KEY.public.text
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567":
        if letter != text[at]:
            with pytest.raises(InvalidInput):
                PublicKey.parse(text[:at] + letter + text[at + 1 :], KeyKind.BOT)


def test_seed_in_place_of_a_public_key_is_named_and_not_repeated() -> None:
    with pytest.raises(InvalidInput, match="got a seed") as refused:
        PublicKey.parse(KEY.seed_text, KeyKind.BOT)
    assert KEY.seed_text[4:] not in f"{refused.value!r}{refused.value.hint}"


@pytest.mark.parametrize("at", range(0, 58, 5))
def test_a_mistyped_seed_is_never_repeated(at: int) -> None:
    wrong = (
        KEY.seed_text[:at] + ("A" if KEY.seed_text[at] != "A" else "B") + KEY.seed_text[at + 1 :]
    )
    with pytest.raises(InvalidInput) as refused:
        SigningKey.parse(wrong, KeyKind.BOT)
    shown = f"{refused.value!r}{refused.value.hint}"
    assert not any(wrong[start : start + 8] in shown for start in range(50))


def test_a_key_shows_its_public_half_only() -> None:
    shown = f"{KEY!r} {KEY} {[KEY]}"
    assert KEY.public.text in shown
    assert KEY.seed_text not in shown
    assert bytes(KEY._key).hex() not in shown


def test_a_key_has_no_dictionary_that_a_debugger_would_print() -> None:
    assert not hasattr(KEY, "__dict__")


def test_verify_needs_the_key_the_message_and_the_signature() -> None:
    signature = KEY.sign(b"message")
    assert verify(KEY.public.raw, b"message", signature)
    assert not verify(KEY.public.raw, b"massage", signature)
    assert not verify(KEYS["rival"].public.raw, b"message", signature)
    assert not verify(KEY.public.raw, b"message", signature[::-1])


@pytest.mark.parametrize(
    ("public", "signature"),
    [
        (b"", bytes(64)),
        (bytes(31), bytes(64)),
        (bytes(33), bytes(64)),
        (bytes(32), b""),
        (bytes(32), bytes(65)),
    ],
)
def test_verify_of_the_wrong_lengths_is_no_and_no_error(public: bytes, signature: bytes) -> None:
    assert not verify(public, b"message", signature)


def test_a_signature_moved_into_the_message_does_not_hold() -> None:
    signature = KEY.sign(b"message")
    assert not verify(KEY.public.raw, signature[1:] + b"message", signature[:1] * 64)


def test_base32_padding_bits_are_not_a_second_spelling() -> None:
    # 35 bytes are exactly 56 letters. The 36 bytes of a seed leave 2 bits, which a lax reader
    # ignores.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    last = alphabet.index(KEY.seed_text[-1])
    other = KEY.seed_text[:-1] + alphabet[last ^ 1]
    assert base64.b32decode(other + "=" * 6) == base64.b32decode(KEY.seed_text + "=" * 6)
    with pytest.raises(InvalidInput):
        SigningKey.parse(other, KeyKind.BOT)
