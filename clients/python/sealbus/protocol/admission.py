"""The admission text: by it a bot says who it is, and which consumers it will use, when it
connects.

::

    sealbus/1 <bot> <public key> <certificate | -> [<consumer> …]
    sealbus/1 <bot> <public key> join:<proof>
    sealbus/1 <bot> <public key> token:<token>

The public key is that of the session key, which signs the login. The certificate (base64) says
whose it is (:mod:`sealbus.protocol.certificate`). With ``-`` in its place, the key is an enrolled
key itself. Two other words stand in its place for an errand, and the session may do nothing but
read the record about it. With a proof (:mod:`sealbus.protocol.joining`), the key is to be enrolled.
With a token of an identity provider (:mod:`sealbus.protocol.exchange`), the bot asks for the
certificate.

A bot sends the text as the token of its CONNECT, and signs it together with the server's challenge
(:func:`~sealbus.protocol.seal.sign_connect`). nats-server hands both to a relay, which decides.
The consumers are those of the bot's durable subscriptions that the session may pull from. A session
never gets more of them later: whoever needs another one connects again.
"""

from __future__ import annotations

import base64
from dataclasses import field
from typing import Final

from sealbus.errors import Malformed
from sealbus.protocol.certificate import Certificate, SessionKey
from sealbus.protocol.exchange import PREFIX as TOKEN_PREFIX
from sealbus.protocol.joining import JoinProof, record_id
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import is_name
from sealbus.protocol.value import value

PROTOCOL: Final = "sealbus/1"
"""The first word. Another version of the protocol has another one."""

NO_CERTIFICATE: Final = "-"
"""In place of a certificate, where the key is an enrolled key."""


@value
class AdmissionText:
    """The words of an admission text."""

    bot: str
    key: str
    """The public key that signs, as text. Reading it is left to the relay, whose log names a key's
    problem and its bot. So is reading the certificate."""
    consumers: tuple[str, ...] = ()
    """Names of JetStream consumers (:func:`~sealbus.protocol.subjects.consumer_name`)."""
    certificate: str = field(default=NO_CERTIFICATE, repr=False)
    """The certificate of the key, in base64, or the word of an errand. Nobody may see a token."""

    @classmethod
    def of(cls, key: SessionKey, bot: str, consumers: tuple[str, ...] = ()) -> AdmissionText:
        """The words of a login by a session key of ``bot``."""
        certificate = base64.b64encode(key.certificate).decode()
        return cls(bot, key.key.public.text, consumers, certificate)

    def encode(self) -> str:
        """The text. One blank between two words, because the signature covers the exact bytes."""
        return " ".join([PROTOCOL, self.bot, self.key, self.certificate, *self.consumers])

    @property
    def client_name(self) -> str:
        """The name by which the client has to call itself in CONNECT.

        nats-server shows it in its list of connections. The relay admits no other name, so an
        operator can believe it: ``<bot> <enrolled key> <session key> <not-before> <life>``,
        ``<bot> <enrolled key>`` without a certificate, ``<bot> join <key of the invitation>`` with
        a join proof, and ``<bot>`` with a token. Raises :class:`Malformed` for a certificate or
        proof that is none.
        """
        if self.token is not None:
            return self.bot
        proof = self.read_proof()
        if proof is not None:
            return f"{self.bot} join {record_id(proof.token_key)}"
        certificate = self.read_certificate()
        if certificate is None:
            return f"{self.bot} {self.key}"
        enrolled = PublicKey(certificate.enrolled, KeyKind.BOT).text
        times = f"{certificate.not_before_ms} {certificate.life_ms}"
        return f"{self.bot} {enrolled} {self.key} {times}"

    def read_proof(self) -> JoinProof | None:
        """The join proof, or ``None`` where there is none. Raises :class:`Malformed`."""
        return JoinProof.read_word(self.certificate)

    @property
    def token(self) -> str | None:
        """The token of an identity provider, or ``None`` where there is none."""
        word = self.certificate
        return word.removeprefix(TOKEN_PREFIX) if word.startswith(TOKEN_PREFIX) else None

    def read_certificate(self) -> Certificate | None:
        """The certificate, or ``None`` where there is none. Raises :class:`Malformed`."""
        if self.certificate == NO_CERTIFICATE:
            return None
        try:
            data = base64.b64decode(self.certificate, validate=True)
        except ValueError:
            raise Malformed("the session certificate is not base64") from None
        # One text for one certificate: no stray bits in the last letter.
        if base64.b64encode(data).decode() != self.certificate:
            raise Malformed("the session certificate is base64 that is written in another way")
        return Certificate.decode(data)

    @classmethod
    def decode(cls, text: str) -> AdmissionText:
        """Take a text apart. Raises :class:`Malformed`.

        Only the bot's name is checked. The others are words of any form.
        """
        if not text.isascii():
            raise Malformed("the admission text is not ASCII")
        protocol, *words = text.split(" ")
        if protocol != PROTOCOL or len(words) < 3:
            raise Malformed(
                f"the admission text does not begin with {PROTOCOL}, a bot, a key and a certificate"
            )
        bot, key, certificate, *consumers = words
        if not is_name(bot):
            raise Malformed("the admission text names no bot")
        return cls(bot, key, tuple(consumers), certificate)
