"""The session certificate: a bot's enrolled key vouches for a key of minutes.

A bot seals with a *session key*, which it makes for each connection and keeps in memory. The
certificate says whose key that is, since when, and for how long. It travels in the header of each
envelope, and in the admission text. Its 106 bytes are::

    enrolled key (32) || signature (64) || not-before (6, ms since 1970) || life (4, ms)

Integers are big-endian. The signature is that of a seal by the enrolled key, in the context
``session`` and with an empty path. It is over a msgpack array, and the certificate does not repeat
the three fields that stand beside it::

    bus str · bot str · session key bin(32) · not-before int (ms) · life int (ms)

So a certificate fits one session key of one bot on one bus. When it is valid is for the reader to
judge: here it is only taken apart and verified.
"""

from __future__ import annotations

from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.codec import pack_fields
from sealbus.protocol.keys import KEY_BYTES, SIGNATURE_BYTES, KeyKind, Signer, SigningKey
from sealbus.protocol.limits import CERTIFICATE_BYTES, MAX_SESSION_KEY_MS
from sealbus.protocol.seal import Context, Seal, Verifier, seal
from sealbus.protocol.value import value

_TIMES: Final = KEY_BYTES + SIGNATURE_BYTES
_LIFE: Final = _TIMES + 6

SESSION_KEY_MS: Final = 600_000
"""The life of the session keys that this library makes: ten minutes, as long as a usual session. A
bot renews its session every four minutes, and makes a new key each time."""


@value
class Certificate:
    """A session certificate, taken apart."""

    enrolled: bytes
    """The raw public key (32 bytes) that has signed it."""
    signature: bytes
    not_before_ms: int
    """When it begins (ms since 1970), by the clock of its bot."""
    life_ms: int
    """How long it is valid from then on, if the policy does not say less."""
    data: bytes
    """All of it, as received."""

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """Read a certificate. Raises :class:`Malformed`. Its signature is *not* verified here."""
        problem = certificate_problem(data)
        if problem:
            raise Malformed(problem)
        return cls(
            data[:KEY_BYTES],
            data[KEY_BYTES:_TIMES],
            int.from_bytes(data[_TIMES:_LIFE], "big"),
            int.from_bytes(data[_LIFE:], "big"),
            data,
        )

    def holds(self, verifier: Verifier, *, bus: str, bot: str, key: bytes) -> bool:
        """Whether its signature holds for the session key ``key`` (32 raw bytes) of ``bot`` on
        ``bus``.

        ``verifier`` remembers it, so that the next envelope costs no check of a signature.
        """
        # All that was signed, the session key too: the bytes of the certificate do not name it, and
        # somebody else's key must not pass beside them.
        fact = (bus, bot, key, self.data)
        if verifier.knows(fact):
            return True
        item = _item(bus, bot, key, self.not_before_ms, self.life_ms)
        held = verifier.verify(Context.SESSION, Seal(self.enrolled, self.signature, 0, ()), item)
        if held:
            verifier.keep(fact)
        return held


def certificate_problem(data: bytes) -> str | None:
    """What makes ``data`` no certificate, or ``None``."""
    if len(data) != CERTIFICATE_BYTES:
        return f"certificate has {len(data)} bytes; expected {CERTIFICATE_BYTES}"
    life_ms = int.from_bytes(data[_LIFE:], "big")
    if not 1 <= life_ms <= MAX_SESSION_KEY_MS:
        return f"certificate's life is {life_ms} ms; expected 1 to {MAX_SESSION_KEY_MS}"
    return None


def certify(
    enrolled: Signer, key: bytes, *, bus: str, bot: str, not_before_ms: int, life_ms: int
) -> bytes:
    """A certificate by ``enrolled`` for the raw public session key ``key``: 106 bytes.

    ``not_before_ms`` is in ms since 1970, and ``life_ms`` at most a day.
    """
    item = _item(bus, bot, key, not_before_ms, life_ms)
    signature = Seal.decode(seal(enrolled, Context.SESSION, [item])[0]).signature
    return (
        enrolled.public.raw
        + signature
        + not_before_ms.to_bytes(_LIFE - _TIMES, "big")
        + life_ms.to_bytes(CERTIFICATE_BYTES - _LIFE, "big")
    )


def _item(bus: str, bot: str, key: bytes, not_before_ms: int, life_ms: int) -> bytes:
    return pack_fields((bus, bot, key, not_before_ms, life_ms))


@value
class SessionKey:
    """A key that seals for one bot for some minutes, with its certificate."""

    key: SigningKey
    certificate: bytes

    @classmethod
    def make(
        cls,
        enrolled: Signer,
        *,
        bus: str,
        bot: str,
        now_ms: int,
        life_ms: int = SESSION_KEY_MS,
    ) -> SessionKey:
        """A new one for ``bot`` on ``bus``, certified by the bot's ``enrolled`` key.

        ``now_ms``: the time from which it is valid (ms since 1970).
        """
        key = SigningKey.generate(KeyKind.BOT)
        certificate = certify(
            enrolled, key.public.raw, bus=bus, bot=bot, not_before_ms=now_ms, life_ms=life_ms
        )
        return cls(key, certificate)
