"""Session keys: who vouches for them, for whom, and from when to when.

The courier is a bot that may not seal with its enrolled key.
"""

from __future__ import annotations

import base64

from sealbus.protocol.admission import NO_CERTIFICATE, AdmissionText
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.limits import CERTIFICATE_AHEAD_MS, MAX_SESSION_KEY_MS
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, seal, sign_connect
from tests.attacks.corpus import Family, Said
from tests.gate.bus import Step
from tests.gate.scenarios import BREAKS
from tests.gate.world import (
    HOUR,
    KEYS,
    NOW,
    SESSION_KEY,
    SKEW,
    by_session,
    certificate,
    envelope,
    flip,
    nonce,
)

FAMILY = Family("certificates")
attack = FAMILY.attack
login = FAMILY.login

AHEAD = SKEW + CERTIFICATE_AHEAD_MS
VOID = NOW - HOUR // 4 - SKEW
MILLISECOND = "a running bus has no such millisecond"


def _sent(data: bytes, session: str = "courier") -> Step:
    return Step(data, session=session)


@attack("check_certificate_there", Reason.CERTIFICATE_MISSING)
def an_enrolled_key_seals_by_itself() -> Step:
    """The courier's own valid key, without a session key."""
    return _sent(envelope(bot="courier"))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_certificate_of_its_own_making() -> Step:
    """The session key of a thief vouches for itself."""
    shown = certificate("thief-session", "thief-session")
    return _sent(by_session(shown, session="thief-session"))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def another_bot_vouches() -> Step:
    """The rival's valid key certifies a session key of the courier."""
    return _sent(by_session(certificate("rival")))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_session_key_vouches_for_the_next() -> Step:
    """A stolen session key certifies one that would be valid when its own time is over."""
    shown = certificate("courier-session", "thief-session")
    return _sent(by_session(shown, session="thief-session"))


@attack("check_key_known", Reason.UNKNOWN_KEY, without=BREAKS)
def a_certificate_in_another_session() -> Step:
    """The courier's envelope, sent by a rival in the rival's session."""
    return _sent(by_session(), session="rival")


@attack("check_key_revoked", Reason.KEY_REVOKED)
def a_revoked_key_vouches() -> Step:
    """A key that leaked and was revoked certifies a new session key."""
    return _sent(by_session(certificate("courier-leaked")))


@attack("check_key_revoked", Reason.KEY_REVOKED, without=Reason.CERTIFICATE_MISSING)
def a_revoked_key_seals_by_itself() -> Step:
    """A key that leaked and was revoked seals without a session key."""
    return _sent(envelope(bot="courier", key=KEYS["courier-leaked"]))


@attack("check_key_valid", Reason.KEY_NOT_VALID)
def an_expired_key_vouches() -> Step:
    """A key of the order bot that has expired certifies a new session key."""
    shown = certificate("order-old", bot="order")
    return Step(envelope(key=KEYS["courier-session"], certificate=shown))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID)
def a_stolen_session_key_that_has_run_out() -> Step:
    """A session key whose time is over, with its certificate."""
    shown = certificate(not_before_ms=NOW - 10_000, life_ms=5_000)
    return _sent(by_session(shown))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID, alone=MILLISECOND)
def a_session_key_a_millisecond_too_late() -> Step:
    """A session key whose time ended a millisecond before the arrival."""
    return _sent(by_session(certificate(not_before_ms=NOW - 5_001 - SKEW, life_ms=5_000)))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID, without=Reason.BAD_SEAL)
def anothers_certificate_that_has_run_out() -> Step:
    """A thief shows an old certificate of the courier beside a key of its own."""
    shown = certificate(not_before_ms=NOW - 10_000, life_ms=5_000)
    return _sent(by_session(shown, session="thief-session"))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID)
def a_life_longer_than_the_policy_allows() -> Step:
    """A certificate for a day, where the policy allows half an hour, after that half hour."""
    # By the order bot's key, which has no `sessions_from`: this is its only fault.
    begin = NOW - SESSION_KEY - 60_000
    shown = certificate("order", bot="order", not_before_ms=begin, life_ms=MAX_SESSION_KEY_MS)
    return Step(envelope(key=KEYS["courier-session"], certificate=shown))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID)
def a_certificate_for_tomorrow() -> Step:
    """A certificate that begins in a day: a bot would stock up on them."""
    return _sent(by_session(certificate(not_before_ms=NOW + 24 * HOUR)))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID, alone=MILLISECOND)
def a_certificate_a_millisecond_too_early() -> Step:
    """A certificate that begins one millisecond later than clocks may differ."""
    return _sent(by_session(certificate(not_before_ms=NOW + AHEAD + 1)))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID)
def a_certificate_that_was_voided() -> Step:
    """A stolen session key of half a life ago, after the operator voided all of them."""
    return _sent(by_session(certificate(not_before_ms=VOID - 60_000)))


@attack("check_certificate_valid", Reason.CERTIFICATE_NOT_VALID, alone=MILLISECOND)
def a_certificate_a_millisecond_before_the_voiding() -> Step:
    """A certificate that begins one millisecond before those that the policy lets count."""
    return _sent(by_session(certificate(not_before_ms=VOID - 1)))


@attack("check_seal", Reason.BAD_SEAL)
def anothers_certificate() -> Step:
    """A thief with a key of its own shows the certificate of the courier's session key."""
    return _sent(by_session(session="thief-session"))


@attack("check_seal", Reason.BAD_SEAL)
def anothers_certificate_that_is_known() -> list[Step]:
    """The same, when the relay has just verified that certificate and remembers it."""
    honest = _sent(
        envelope(
            bot="courier",
            key=KEYS["courier-session"],
            certificate=certificate(),
            nonce=nonce("warm"),
        )
    )
    return [honest, _sent(by_session(session="thief-session"))]


@attack("check_seal", Reason.BAD_SEAL)
def a_session_key_without_its_private_half() -> Step:
    """A thief's signature, with the courier's session key written over the thief's, and its
    certificate."""
    data = by_session(session="thief-session")
    thief, courier = (KEYS[name].public.raw for name in ("thief-session", "courier-session"))
    return _sent(data.replace(thief, courier))


@attack("check_seal", Reason.BAD_SEAL)
def a_certificate_for_another_bus() -> Step:
    """The courier's key vouches for a session key on a test bus."""
    return _sent(by_session(certificate(bus="shop-test")))


@attack("check_seal", Reason.BAD_SEAL)
def a_certificate_for_another_bot() -> Step:
    """A key that two bots share would vouch for one of them alone."""
    return _sent(by_session(certificate(bot="order")))


@attack("check_seal", Reason.BAD_SEAL)
def a_certificate_made_longer() -> Step:
    """The owner of a session key gives its certificate another life."""
    return _sent(by_session(flip(certificate(life_ms=SESSION_KEY - 1), -1)))


@attack("check_seal", Reason.BAD_SEAL)
def a_certificate_made_younger() -> Step:
    """The owner of a session key dates its certificate anew."""
    shown = certificate(not_before_ms=NOW - SESSION_KEY - 1)
    now = certificate()
    return _sent(by_session(shown[:96] + now[96:]))


@attack("check_seal", Reason.BAD_SEAL)
def a_certificate_signed_as_an_envelope() -> Step:
    """The courier's signature over the right bytes, made in the context of envelopes."""
    good = Certificate.decode(certificate())
    fields = (
        "shop",
        "courier",
        KEYS["courier-session"].public.raw,
        good.not_before_ms,
        good.life_ms,
    )
    wrong = Seal.decode(seal(KEYS["courier"], Context.ENVELOPE, [pack_fields(fields)])[0])
    return _sent(by_session(good.data[:32] + wrong.signature + good.data[96:]))


@attack("check_bus", Reason.WRONG_BUS)
def captured_on_a_test_bus_with_its_certificate() -> Step:
    """The same enrolled key vouches for a session key on the test bus, which seals for that bus."""
    shown, key = certificate(bus="shop-test"), KEYS["courier-session"]
    return _sent(envelope(bot="courier", bus="shop-test", key=key, certificate=shown))


@attack("check_bot", Reason.WRONG_BOT)
def another_name_under_its_certificate() -> Step:
    """The courier's session key, certified for the order bot's name, in the courier's session."""
    shown = certificate(bot="order")
    return _sent(envelope(bot="order", key=KEYS["courier-session"], certificate=shown))


# ---- at the door ---------------------------------------------------------------------------------

NOT_FOR_THIS = "the session certificate is not for this key, bot and bus"


def certified_login(
    challenge: bytes,
    shown: bytes | str | None = None,
    *,
    bot: str = "courier",
    session: str = "courier-session",
    by: str | None = None,
    consumers: tuple[str, ...] = (),
) -> Said:
    """A login of the courier with a session key. ``by`` is the key that signs, if another one
    does."""
    shown = certificate() if shown is None else shown
    word = base64.b64encode(shown).decode() if isinstance(shown, bytes) else shown
    text = AdmissionText(bot, KEYS[session].public.text, consumers, word).encode()
    return text, sign_connect(KEYS[by or session], challenge, text.encode())


@login("no session certificate; the policy demands one (seals_directly is not set)")
def an_enrolled_key_logs_in_by_itself(challenge: bytes) -> Said:
    """The courier's own valid key, without a session key."""
    return certified_login(challenge, NO_CERTIFICATE, session="courier")


@login("the session certificate is not base64")
def a_certificate_that_is_no_base64(challenge: bytes) -> Said:
    """A word of other characters in place of the certificate."""
    return certified_login(challenge, "***")


@login("the session certificate is base64 that is written in another way")
def a_certificate_with_stray_bits(challenge: bytes) -> Said:
    """Another text of the same certificate."""
    word = base64.b64encode(certificate()).decode()
    assert word.endswith("A==")
    return certified_login(challenge, f"{word[:-3]}B==")


@login("certificate has 105 bytes; expected 106")
def a_certificate_cut_short(challenge: bytes) -> Said:
    """A certificate without its last byte."""
    return certified_login(challenge, certificate()[:-1])


@login("the key is not one of this bot's")
def a_certificate_by_a_thief(challenge: bytes) -> Said:
    """A session key that vouches for itself."""
    shown = certificate("thief-session", "thief-session")
    return certified_login(challenge, shown, session="thief-session")


@login("the key is not yet valid, expired or revoked")
def a_certificate_by_a_revoked_key(challenge: bytes) -> Said:
    """A key that leaked and was revoked certifies a new session key."""
    return certified_login(challenge, certificate("courier-leaked"))


@login(
    "the session certificate is not valid: no longer: it ended 5000 ms earlier, or its bot's"
    " clock is behind"
)
def a_stolen_session_key_after_its_time(challenge: bytes) -> Said:
    """A session key that was stolen from memory, when its time is over."""
    shown = certificate(not_before_ms=NOW - 10_000, life_ms=5_000)
    return certified_login(challenge, shown)


@login("the session certificate is not valid: void: it begins before sessions_from")
def a_stolen_session_key_that_was_voided(challenge: bytes) -> Said:
    """A session key of before the operator voided all of them."""
    return certified_login(challenge, certificate(not_before_ms=VOID - 60_000))


@login(
    "the session certificate is not valid: not yet: it begins 86400000 ms later, so its bot's "
    "clock is ahead"
)
def a_session_key_for_tomorrow(challenge: bytes) -> Said:
    """A session key that somebody made in stock, to be used in a day."""
    return certified_login(challenge, certificate(not_before_ms=NOW + 24 * HOUR))


@login(NOT_FOR_THIS)
def anothers_certificate_at_the_door(challenge: bytes) -> Said:
    """A captured certificate of the courier, over a key of the thief's own."""
    return certified_login(challenge, session="thief-session")


@login(NOT_FOR_THIS)
def a_certificate_of_a_test_bus(challenge: bytes) -> Said:
    """A session key that is certified for another bus."""
    return certified_login(challenge, certificate(bus="shop-test"))


@login(NOT_FOR_THIS)
def a_certificate_under_another_name(challenge: bytes) -> Said:
    """The courier's key certifies a session key of the order bot."""
    return certified_login(challenge, certificate(bot="order"))


@login("the signature does not hold over the challenge and the admission text")
def a_captured_certificate_without_its_key(challenge: bytes) -> Said:
    """The courier's certificate and session key, which are public, signed with another key."""
    return certified_login(challenge, by="thief-session")
