"""The join proof: a one-time token vouches for the first key of a bot.

An operator *invites* a bot. The private half of the invitation's key, J, is in the token that the
bot's host gets. The public half is in the bus's folder. On its host, the bot makes its enrolled key
and has J sign it. The 96 bytes of a proof travel in the admission text, in base64::

    J, raw public key (32) || signature (64)

The signature is that of a seal by J, in the context ``join`` and with an empty path. It is over a
msgpack array. The proof does not repeat these fields, because they stand beside it::

    bus str · bot str · enrolled key bin(32)

So a proof fits one key of one bot on one bus. Whoever sees it can neither use J nor put another key
in the place of this one.

A relay's door writes the first key that comes with a proof into a *join record*, once for each J:
an array of the same kind, with the proof and the time, by the clock of the bus::

    enrolled key bin(32) · proof bin(96) · at int (ms)

A record decides nothing. Whoever reads it verifies the proof in it. Nothing here keeps a state.
"""

from __future__ import annotations

import base64
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array
from sealbus.protocol.keys import KEY_BYTES, SIGNATURE_BYTES, KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_TIME_MS
from sealbus.protocol.seal import Context, Seal, Verifier, seal
from sealbus.protocol.value import value

PREFIX: Final = "join:"
"""The beginning of the word that has a proof, in an admission text."""

JOIN: Final = "join"
"""The kind of the record, and the first token of the inboxes of such logins."""

PROOF_BYTES: Final = KEY_BYTES + SIGNATURE_BYTES

_RECORD_TYPES: Final = FieldTypes(((bytes,), (bytes,), (int,)))


@value
class JoinProof:
    """A proof, taken apart."""

    token_key: bytes
    """The raw public key J (32 bytes) of the invitation."""
    signature: bytes

    @classmethod
    def make(cls, token_key: SigningKey, key: bytes, *, bus: str, bot: str) -> JoinProof:
        """A proof by ``token_key`` for ``key`` (32 raw bytes), the enrolled key of ``bot``."""
        item = pack_fields((bus, bot, key))
        signature = Seal.decode(seal(token_key, Context.JOIN, [item])[0]).signature
        return cls(token_key.public.raw, signature)

    @classmethod
    def decode(cls, data: bytes) -> JoinProof:
        """Read 96 bytes. Raises :class:`Malformed`. The signature is *not* verified here."""
        if len(data) != PROOF_BYTES:
            raise Malformed(f"join proof has {len(data)} bytes; expected {PROOF_BYTES}")
        return cls(data[:KEY_BYTES], data[KEY_BYTES:])

    @classmethod
    def read_word(cls, word: str) -> JoinProof | None:
        """The proof in a word of an admission text, or ``None`` if the word has another form.

        Raises :class:`Malformed` for a word that begins as a proof does, and has none.
        """
        if not word.startswith(PREFIX):
            return None
        try:
            # 96 bytes have 128 characters and no padding, so there is one text for one proof.
            data = base64.b64decode(word.removeprefix(PREFIX), validate=True)
        except ValueError:
            raise Malformed("the join proof is not base64") from None
        return cls.decode(data)

    def encode(self) -> bytes:
        """The 96 bytes."""
        return self.token_key + self.signature

    @property
    def word(self) -> str:
        """The word of an admission text."""
        return PREFIX + base64.b64encode(self.encode()).decode()

    def holds(self, *, bus: str, bot: str, key: bytes) -> bool:
        """Whether its signature holds for ``key`` (32 raw bytes) of ``bot`` on ``bus``."""
        # Nobody meets a proof so often that it would be worth remembering.
        sealed = Seal(self.token_key, self.signature, 0, ())
        return Verifier().verify(Context.JOIN, sealed, pack_fields((bus, bot, key)))


@value
class JoinRecord:
    """The first key that came with a proof of an invitation."""

    key: bytes
    """The raw enrolled key (32 bytes, public)."""
    proof: JoinProof
    at_ms: int
    """When it came (ms since 1970), by the clock of the bus."""

    def encode(self) -> bytes:
        """The record's bytes."""
        return pack_fields((self.key, self.proof.encode(), self.at_ms))

    @classmethod
    def decode(cls, data: bytes) -> JoinRecord:
        """Read a record. Raises :class:`Malformed`. The proof in it is *not* verified here."""
        key, proof, at_ms = unpack_array(data, _RECORD_TYPES)
        if len(key) != KEY_BYTES:
            raise Malformed(f"join record: a key of {len(key)} bytes; expected {KEY_BYTES}")
        if not 0 <= at_ms <= MAX_TIME_MS:
            raise Malformed(f"join record: a time of {at_ms}; expected 0 to {MAX_TIME_MS}")
        return cls(key, JoinProof.decode(proof), at_ms)


def record_id(token_key: bytes) -> str:
    """The id of an invitation's record: the text (``U…``) of its raw public key."""
    return PublicKey(token_key, KeyKind.BOT).text


def inbox(token_key: bytes) -> str:
    """The beginning of the subjects on which a login by an invitation gets its answers. ``inbox.``
    is for the receipts of bots, so it is another one."""
    return f"{JOIN}.{record_id(token_key)}"
