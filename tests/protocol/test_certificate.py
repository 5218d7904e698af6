"""Session certificates: their content, and the keys for which they hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.certificate import Certificate, SessionKey, certify
from sealbus.protocol.codec import pack_json
from sealbus.protocol.envelope import Draft, Envelope, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import CERTIFICATE_BYTES, MAX_SESSION_KEY_MS
from sealbus.protocol.seal import Context, Seal, Verifier
from tests.gate.world import KEYS, NOW, PLACED, flip, salted

ENROLLED, SESSION = KEYS["courier"], KEYS["courier-session"]
DATA = certify(
    ENROLLED, SESSION.public.raw, bus="shop", bot="courier", not_before_ms=NOW, life_ms=60_000
)


def holds(
    data: bytes = DATA,
    verifier: Verifier | None = None,
    *,
    bus: str = "shop",
    bot: str = "courier",
    key: SigningKey = SESSION,
) -> bool:
    return Certificate.decode(data).holds(
        verifier or Verifier(), bus=bus, bot=bot, key=key.public.raw
    )


def test_it_says_who_vouches_since_when_and_for_how_long() -> None:
    read = Certificate.decode(DATA)
    assert (read.enrolled, read.not_before_ms, read.life_ms) == (
        ENROLLED.public.raw,
        NOW,
        60_000,
    )
    assert read.data == DATA
    assert holds()


@pytest.mark.parametrize(
    "other", [{"bus": "shop2"}, {"bot": "order"}, {"key": KEYS["thief-session"]}], ids=str
)
@pytest.mark.parametrize("warm", [False, True], ids=["unknown", "remembered"])
def test_it_holds_for_one_bus_bot_and_key_alone(other: dict[str, object], *, warm: bool) -> None:
    """Also where the same certificate was verified a moment ago, for the right ones."""
    verifier = Verifier()
    assert not warm or holds(verifier=verifier)
    assert not holds(verifier=verifier, **other)  # type: ignore[arg-type]  # one of the three
    assert holds(verifier=verifier)


@pytest.mark.parametrize("at", range(CERTIFICATE_BYTES))
def test_each_of_its_bytes_counts(at: int) -> None:
    verifier = Verifier()
    assert holds(verifier=verifier)
    try:
        assert not holds(flip(DATA, at), verifier)
    except Malformed:
        assert at >= CERTIFICATE_BYTES - 4  # a life out of range


def test_it_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Context] = []
    verify = Verifier.verify

    def counted(self: Verifier, context: Context, sealed: Seal, item: bytes) -> bool:
        asked.append(context)
        return verify(self, context, sealed, item)

    monkeypatch.setattr(Verifier, "verify", counted)
    verifier = Verifier()
    assert holds(verifier=verifier)
    assert holds(verifier=verifier)
    assert asked == [Context.SESSION]


def test_one_that_does_not_hold_is_not_remembered() -> None:
    verifier = Verifier()
    assert not holds(flip(DATA, 40), verifier)
    assert not holds(flip(DATA, 40), verifier)


@pytest.mark.parametrize("size", [0, CERTIFICATE_BYTES - 1, CERTIFICATE_BYTES + 1])
def test_another_size_is_refused(size: int) -> None:
    with pytest.raises(Malformed, match=f"certificate has {size} bytes; expected 106"):
        Certificate.decode(bytes(size))


@pytest.mark.parametrize("life_ms", [0, MAX_SESSION_KEY_MS + 1, 2**32 - 1])
def test_a_life_out_of_range_is_refused(life_ms: int) -> None:
    with pytest.raises(Malformed, match=f"life is {life_ms} ms; expected 1 to 86400000"):
        Certificate.decode(DATA[:-4] + life_ms.to_bytes(4, "big"))


@pytest.mark.parametrize("life_ms", [1, MAX_SESSION_KEY_MS])
def test_the_shortest_and_the_longest_life_are_read(life_ms: int) -> None:
    assert Certificate.decode(DATA[:-4] + life_ms.to_bytes(4, "big")).life_ms == life_ms


def test_a_header_with_a_wrong_certificate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="certificate has 3 bytes"):
        replace(PLACED, certificate=b"abc").encode()


def test_each_session_key_is_another_one() -> None:
    made = [SessionKey.make(ENROLLED, bus="shop", bot="courier", now_ms=NOW) for _ in range(2)]
    assert made[0].key.public != made[1].key.public
    for one in made:
        assert holds(one.certificate, key=one.key)
        assert Certificate.decode(one.certificate).not_before_ms == NOW


def test_session_key_puts_its_certificate_into_each_header() -> None:
    key = SessionKey.make(ENROLLED, bus="shop", bot="courier", now_ms=NOW)
    drafts = [Draft(PLACED, [salted(pack_json(number))]) for number in range(3)]
    for sealed in seal_envelopes(key, drafts):
        read = Envelope.decode(sealed.data)
        assert (read.seal.key, read.header.certificate) == (key.key.public.raw, key.certificate)
    (plain,) = seal_envelopes(ENROLLED, drafts[:1])
    assert Envelope.decode(plain.data).header.certificate is None


def test_no_seed_shows_when_a_session_key_is_printed() -> None:
    key = SessionKey.make(SigningKey.generate(KeyKind.BOT), bus="shop", bot="x", now_ms=NOW)
    assert key.key.seed_text not in repr(key)
