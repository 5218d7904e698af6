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
    things = [bytes([at]) for at in range(count)]
    seals, verifier = seal(KEY, context, things), Verifier()
    for _ in range(2):
        assert all(
            verifier.holds(context, Seal.decode(one), thing)
            for one, thing in zip(seals, things, strict=True)
        )
    assert len(verified) == checks


@pytest.mark.parametrize("count", [1, 3])
def test_own_signature_is_known_without_a_check(verified: list[bytes], count: int) -> None:
    things = [bytes([at]) for at in range(count)]
    seals, verifier = seal(KEY, Context.STAMP, things), Verifier()
    verifier.made(Context.STAMP, seals[0], things[0])
    assert all(
        verifier.holds(Context.STAMP, Seal.decode(one), thing)
        for one, thing in zip(seals, things, strict=True)
    )
    assert verified == []


@pytest.mark.parametrize("change", ["thing", "context", "key", "signature"])
def test_nothing_else_is_known_with_it(verified: list[bytes], change: str) -> None:
    (encoded,), verifier = seal(KEY, Context.STAMP, [b"thing"]), Verifier()
    verifier.made(Context.STAMP, encoded, b"thing")
    sealed, context, thing = Seal.decode(encoded), Context.STAMP, b"thing"
    if change == "thing":
        thing = b"other"
    elif change == "context":
        context = Context.ENVELOPE
    elif change == "key":
        sealed = Seal(SigningKey.generate(KeyKind.BUS).public.raw, sealed.signature, 0, ())
    else:
        sealed = Seal(sealed.key, bytes(64), 0, ())
    assert not verifier.holds(context, sealed, thing)
    assert len(verified) == 1
