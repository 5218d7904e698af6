"""The seal: one signature over one item or many, and no other bytes pass for it."""

from __future__ import annotations

import hashlib

import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol import seal as module
from sealbus.protocol.keys import verify
from sealbus.protocol.limits import MAX_BATCH, MAX_PROOF_STEPS
from sealbus.protocol.seal import MAGIC, Context, Seal, Verifier, seal, sign_connect, verify_connect
from tests.gate.world import KEYS, flip

KEY = KEYS["order"]
HERE = Context.ENVELOPE


def batch(size: int) -> tuple[list[bytes], list[bytes]]:
    items = [b"item %d" % at for at in range(size)]
    return items, seal(KEY, HERE, items)


def holds(sealed: bytes, item: bytes, context: Context = HERE) -> bool:
    return Verifier().verify(context, Seal.decode(sealed), item)


def merkle(items: list[bytes]) -> bytes:
    """The root, written from the specification as a recursion and not level by level."""
    if len(items) == 1:
        return hashlib.sha256(b"\0" + len(items[0]).to_bytes(8, "big") + items[0]).digest()
    left = 1
    while left * 2 < len(items):
        left *= 2
    return hashlib.sha256(b"\1" + merkle(items[:left]) + merkle(items[left:])).digest()


def test_signed_bytes_are_83_and_begin_like_no_text() -> None:
    sealed = Seal.decode(seal(KEY, HERE, [b"an item"])[0])
    root = hashlib.sha256(b"\0" + (7).to_bytes(8, "big") + b"an item").digest()
    signed = b"\0sealbus/1\0" + b"envelope" + KEY.public.raw + root
    assert len(signed) == 83
    assert signed.startswith(MAGIC)
    assert KEY.sign(signed) == sealed.signature


def test_every_context_is_of_8_bytes_and_its_own() -> None:
    assert {len(context.value) for context in Context} == {8}
    assert len({context.value for context in Context}) == len(Context)


@pytest.mark.parametrize("size", range(1, 34))
def test_every_thing_of_a_batch_is_proven_by_its_own_seal_alone(size: int) -> None:
    items, seals = batch(size)
    held = [[holds(sealed, item) for item in items] for sealed in seals]
    assert held == [[at == other for other in range(size)] for at in range(size)]


@pytest.mark.parametrize("size", [*range(1, 34), 100, 511, 513, MAX_BATCH])
def test_the_root_is_the_one_of_the_specification(size: int) -> None:
    items, seals = batch(size)
    assert {Seal.decode(sealed).root(item) for item, sealed in zip(items, seals, strict=True)} == {
        merkle(items)
    }


@pytest.mark.parametrize("size", [1, 2, 3, 1023, MAX_BATCH])
def test_no_proof_is_longer_than_a_seal_can_carry(size: int) -> None:
    assert (
        max(len(Seal.decode(sealed).path) for sealed in batch(size)[1])
        == (size - 1).bit_length()
        <= MAX_PROOF_STEPS
    )


@pytest.mark.parametrize("size", [0, MAX_BATCH + 1])
def test_none_and_too_many_are_not_sealed(size: int) -> None:
    with pytest.raises(InvalidInput, match=f"{size} items"):
        seal(KEY, HERE, [b""] * size)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_bit_of_a_seal_can_be_turned_over(size: int) -> None:
    items, seals = batch(size)
    for bit in range(len(seals[-1]) * 8):
        changed = flip(seals[-1], bit // 8, 1 << bit % 8)
        try:
            assert not holds(changed, items[-1]), bit
        except Malformed:
            continue


def test_an_items_length_is_bound() -> None:
    sealed = seal(KEY, HERE, [b"item"])[0]
    assert not holds(sealed, b"item\0")
    assert not holds(sealed, b"thin")


def test_an_inner_node_is_not_a_thing() -> None:
    items, seals = batch(4)
    first = Seal.decode(seals[0])
    leaf = Seal(bytes(32), bytes(64), 0, ()).root(items[0])
    upper = Seal(first.key, first.signature, first.sides >> 1, first.path[1:])
    assert upper.root(leaf + first.path[0]) != first.root(items[0])
    assert not holds(upper.encode(), b"\1" + leaf + first.path[0])


def test_a_shorter_tree_cannot_pass_for_a_longer_one() -> None:
    # If odd entries were doubled, three items and four would have the same root (CVE-2012-2459).
    assert merkle([b"a", b"b", b"c"]) != merkle([b"a", b"b", b"c", b"c"])
    three, four = seal(KEY, HERE, [b"a", b"b", b"c"]), seal(KEY, HERE, [b"a", b"b", b"c", b"c"])
    assert Seal.decode(three[0]).signature != Seal.decode(four[0]).signature


def test_an_item_has_one_seal_in_a_batch_of_different_items() -> None:
    items, seals = batch(5)
    right = Seal.decode(seals[2])
    for sides in range(2 ** len(right.path)):
        changed = Seal(right.key, right.signature, sides, right.path)
        assert holds(changed.encode(), items[2]) is (sides == right.sides)


def test_decoding_and_encoding_are_each_others_reverse() -> None:
    for sealed in batch(11)[1]:
        assert Seal.decode(sealed).encode() == sealed


@pytest.mark.parametrize("size", [0, 1, 97, 99, 129, 131, 98 + 32 * 11, 10_000])
def test_a_seal_of_another_length_is_malformed(size: int) -> None:
    with pytest.raises(Malformed, match=f"a seal of {size} bytes"):
        Seal.decode(bytes(size))


# ---- the verifier's memory -----------------------------------------------------------------------


class Counting:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._verify = verify
        monkeypatch.setattr(module, "verify", self)

    def __call__(self, public: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return self._verify(public, message, signature)


def test_a_batch_costs_one_signature_check(monkeypatch: pytest.MonkeyPatch) -> None:
    items, seals = batch(64)
    counting, verifier = Counting(monkeypatch), Verifier()
    assert all(
        verifier.verify(HERE, Seal.decode(sealed), item)
        for item, sealed in zip(items, seals, strict=True)
    )
    assert counting.calls == 1


def test_failed_seal_is_not_remembered_as_good() -> None:
    items, seals = batch(2)
    verifier = Verifier()
    bad = Seal.decode(flip(seals[0], 40))
    assert [verifier.verify(HERE, bad, items[0]) for _ in range(2)] == [False, False]


def test_remembered_root_helps_no_other_item_key_or_signature() -> None:
    items, seals = batch(2)
    verifier, first = Verifier(), Seal.decode(seals[0])
    assert verifier.verify(HERE, first, items[0])
    other = Seal(KEYS["rival"].public.raw, first.signature, first.sides, first.path)
    assert not verifier.verify(HERE, first, b"another")
    assert not verifier.verify(Context.STAMP, first, items[0])
    assert not verifier.verify(HERE, other, items[0])
    assert not verifier.verify(HERE, Seal.decode(flip(seals[0], 40)), items[0])


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_VERIFIED_ROOTS", 3)
    counting, verifier = Counting(monkeypatch), Verifier()
    pairs = [seal(KEY, HERE, [b"%d" % at, b"other"])[0] for at in range(5)]
    for at, sealed in enumerate(pairs):
        assert verifier.verify(HERE, Seal.decode(sealed), b"%d" % at)
    assert len(verifier._held) == 3
    assert verifier.verify(HERE, Seal.decode(pairs[4]), b"4")
    assert counting.calls == 5
    assert verifier.verify(HERE, Seal.decode(pairs[0]), b"0")
    assert counting.calls == 6


# ---- the connect challenge -----------------------------------------------------------------------


def test_a_challenge_is_answered_for_one_admission_text_alone() -> None:
    signature = sign_connect(KEY, b"challenge", b"admission")
    assert verify_connect(
        KEY.public.raw, challenge=b"challenge", admission=b"admission", signature=signature
    )
    assert not verify_connect(
        KEY.public.raw, challenge=b"challenge", admission=b"admission2", signature=signature
    )
    assert not verify_connect(
        KEY.public.raw, challenge=b"challenge2", admission=b"admission", signature=signature
    )
    assert not verify_connect(
        KEYS["rival"].public.raw,
        challenge=b"challenge",
        admission=b"admission",
        signature=signature,
    )


def test_an_answer_is_no_envelope_and_an_envelope_no_answer() -> None:
    item = b"challenge\nadmission"
    answer = Seal(KEY.public.raw, sign_connect(KEY, b"challenge", b"admission"), 0, ())
    assert not Verifier().verify(HERE, answer, item)
    assert not verify_connect(
        KEY.public.raw,
        challenge=b"challenge",
        admission=b"admission",
        signature=Seal.decode(seal(KEY, HERE, [item])[0]).signature,
    )


def test_a_challenge_with_a_line_feed_is_not_answered() -> None:
    # A longer challenge could be read as a shorter one and more of an admission text.
    with pytest.raises(InvalidInput, match="line feed"):
        sign_connect(KEY, b"one\ntwo", b"admission")
    signature = Seal.decode(seal(KEY, Context.CONNECT, [b"one\ntwo\nadmission"])[0]).signature
    assert not verify_connect(
        KEY.public.raw, challenge=b"one\ntwo", admission=b"admission", signature=signature
    )


@pytest.mark.parametrize(
    ("key", "signature"),
    [(bytes(31), bytes(64)), (bytes(33), bytes(64)), (bytes(32), bytes(63)), (b"", b"")],
)
def test_an_answer_of_the_wrong_length_does_not_hold(key: bytes, signature: bytes) -> None:
    assert not verify_connect(
        key, challenge=b"challenge", admission=b"admission", signature=signature
    )
