"""A verifier's memory saves signature checks, and makes nothing valid."""

from __future__ import annotations

import pytest

from sealbus.protocol import keys
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Context, Seal, Verifier, seal

KEY = SigningKey.generate(KeyKind.BUS)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every signature that is checked by libsodium."""
    checked: list[bytes] = []

    def verify(public: bytes, message: bytes, signature: bytes) -> bool:
        checked.append(signature)
        return keys.verify(public, message, signature)

    monkeypatch.setattr("sealbus.protocol.seal.verify", verify)
    return checked


@pytest.mark.parametrize(
    ("context", "count", "checks"),
    [
        (Context.STAMP, 1, 1),
        (Context.STAMP, 3, 1),
        (Context.ENVELOPE, 3, 1),
        (Context.ENVELOPE, 1, 2),
    ],
    ids=["stamp alone", "stamps in a batch", "envelopes in a batch", "envelope alone"],
)
def test_a_signature_is_checked_once_where_it_is_met_again(
    verified: list[bytes], context: Context, count: int, checks: int
) -> None:
    items = [bytes([at]) for at in range(count)]
    seals, verifier = seal(KEY, context, items), Verifier()
    for _ in range(2):
        assert all(
            verifier.verify(context, Seal.decode(one), item)
            for one, item in zip(seals, items, strict=True)
        )
    assert len(verified) == checks


@pytest.mark.parametrize("count", [1, 3])
def test_own_signature_is_known_without_a_check(verified: list[bytes], count: int) -> None:
    items = [bytes([at]) for at in range(count)]
    seals, verifier = seal(KEY, Context.STAMP, items), Verifier()
    verifier.remember(Context.STAMP, seals[0], items[0])
    assert all(
        verifier.verify(Context.STAMP, Seal.decode(one), item)
        for one, item in zip(seals, items, strict=True)
    )
    assert verified == []


@pytest.mark.parametrize("change", ["item", "context", "key", "signature"])
def test_nothing_else_is_known_with_it(verified: list[bytes], change: str) -> None:
    (encoded,), verifier = seal(KEY, Context.STAMP, [b"item"]), Verifier()
    verifier.remember(Context.STAMP, encoded, b"item")
    sealed, context, item = Seal.decode(encoded), Context.STAMP, b"item"
    if change == "item":
        item = b"other"
    elif change == "context":
        context = Context.ENVELOPE
    elif change == "key":
        sealed = Seal(SigningKey.generate(KeyKind.BUS).public.raw, sealed.signature, 0, ())
    else:
        sealed = Seal(sealed.key, bytes(64), 0, ())
    assert not verifier.verify(context, sealed, item)
    assert len(verified) == 1
