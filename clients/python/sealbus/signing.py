"""Who signs for a bot's enrolled key, and what a bot makes of a signature.

The enrolled key of a bot signs one certificate for each connection, which is one about every four
minutes, and at its end the link to the key that follows it. So it can live outside the memory of
the bot. ``Credentials.key`` is a :class:`Signer`: two members, ``public`` and ``sign(message)``. A
:class:`~sealbus.protocol.keys.SigningKey` has the key in memory, and
:class:`~sealbus.ssh_agent.AgentKey` asks an ssh-agent. An author can write others, such as one for
a hardware module: docs/keys-at-rest.md has an example.

A bot calls any signer but a :class:`~sealbus.protocol.keys.SigningKey` in a thread beside its event
loop (:mod:`sealbus.life.certifying`), and believes nothing that it gives. A certificate is used if
its signature has 64 bytes and holds for the public key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sealbus.errors import CredentialsError, SealbusError
from sealbus.protocol.certificate import Certificate, SessionKey
from sealbus.protocol.keys import SIGNATURE_BYTES, PublicKey, Signer
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import SenderLink, sign_link
from sealbus.supervision import kind

__all__ = ["Signer", "certified", "linked"]

_RAW: Final = "sign() has to return the raw Ed25519 signature (RFC 8032) of the message as it is"


def certified(signer: Signer, *, bus: str, bot: str, now_ms: int) -> SessionKey:
    """A session key of ``bot`` on ``bus`` that ``signer`` has certified. Blocks as long as it does.

    Raises :class:`CredentialsError` if the signer raises anything, or gives a signature that does
    not hold. Nothing of the text of a strange error is repeated: it may have a secret in it.
    """
    with _guarded(bot):
        made = SessionKey.make(_Measured(signer, bot), bus=bus, bot=bot, now_ms=now_ms)
        certificate = Certificate.decode(made.certificate)
        if not certificate.holds(Verifier(), bus=bus, bot=bot, key=made.key.public.raw):
            raise _useless(signer, bot)
    return made


def linked(signer: Signer, new: bytes, *, bus: str, bot: str, at_ms: int) -> bytes:
    """A sender link from the key of ``signer`` to the raw key ``new``: 102 bytes. The errors are
    those of :func:`certified`."""
    with _guarded(bot):
        link = sign_link(_Measured(signer, bot), new, bus=bus, bot=bot, at_ms=at_ms)
        if not SenderLink.decode(link).holds(Verifier(), bus=bus, bot=bot, new=new):
            raise _useless(signer, bot)
    return link


def _useless(signer: Signer, bot: str) -> CredentialsError:
    return CredentialsError(
        f"the signature by the signer of {bot} does not hold for its key "
        f"{signer.public.text}, so it was not used",
        hint=f"does the signer have another key? {_RAW}",
    )


@contextmanager
def _guarded(bot: str) -> Iterator[None]:
    """Show no text of an error of the signer of ``bot`` but its sentence for people."""
    try:
        yield
    except SealbusError:
        raise
    except BaseException as error:  # noqa: BLE001  # the thread has nobody else to take it
        raise CredentialsError(
            f"the signer of {bot} failed: {kind(error)}",
            hint="the text of its error is not shown, because it may have a secret in it; a signer "
            "that raises a CredentialsError is shown with its sentence",
        ) from None


class _Measured:
    """A signer whose signatures have the right length."""

    def __init__(self, signer: Signer, bot: str) -> None:
        self.public: PublicKey = signer.public
        self._signer = signer
        self._bot = bot

    def sign(self, message: bytes) -> bytes:
        """The signature of the signer inside."""
        signature: object = self._signer.sign(message)
        if not isinstance(signature, bytes):
            got = type(signature).__name__
        elif len(signature) != SIGNATURE_BYTES:
            got = f"{len(signature)} bytes"
        else:
            return signature
        raise CredentialsError(
            f"the signer of {self._bot} gave {got}; expected a signature of {SIGNATURE_BYTES} "
            "bytes",
            hint=_RAW,
        )
