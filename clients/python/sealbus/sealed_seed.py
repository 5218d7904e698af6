"""A bot's seed, encrypted with a passphrase, in one line of text.

::

    sealed1.argon2id.PASSES.MEMORY.PUBLIC.SALT.BOX.CHECK

``PASSES`` and ``MEMORY`` (KiB) are those of Argon2id (RFC 9106), which makes the key of the box
from the passphrase and the salt. ``PUBLIC`` is the public key ``U…``, so that ``sealbus check``
needs no passphrase. ``SALT`` has 16 bytes, and ``BOX`` is a SecretBox of libsodium (XSalsa20,
Poly1305) with its nonce: 72 bytes over the 32 of the seed. Both are base64 for URLs, without
padding. ``CHECK`` is the beginning of the SHA-256 of everything before it, so that a copy with a
mistake is told from a wrong passphrase. It protects from nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nacl.exceptions
import nacl.pwhash
import nacl.secret
import nacl.utils

from sealbus.errors import CredentialsError, InvalidInput
from sealbus.protocol.keys import KEY_BYTES, KeyKind, PublicKey, SigningKey
from sealbus.secret_file import SecretFile
from sealbus.text_file import decode_text

PASSES: Final = 3
MEMORY_KIB: Final = 64 * 1024
"""RFC 9106's second choice. One attempt takes 0.1 s of a core and 64 MiB, for us and for whoever
guesses."""

MAX_PASSES: Final = 10
MAX_MEMORY_KIB: Final = 256 * 1024
"""A text that asks for more is refused before any work: libsodium itself would take terabytes. The
largest values that are accepted take some 1.8 s."""

LEAST_MEMORY_KIB: Final = 8 * 1024
"""Less makes a passphrase cheap to guess on a graphics card."""

MAX_PASSPHRASE_BYTES: Final = 1024
"""A passphrase is a line. The cap keeps a wrong path from reading something else."""

PASSPHRASE: Final = "SEALBUS_PASSPHRASE"
PASSPHRASE_FILE: Final = "SEALBUS_PASSPHRASE_FILE"
"""The variables with the passphrase, or with the path of a file that has it."""

_SALT_BYTES: Final = nacl.pwhash.argon2id.SALTBYTES
_SEALED: Final = re.compile(
    r"(sealed1\.argon2id\.(?P<passes>[0-9]{1,10})\.(?P<memory>[0-9]{1,10})"
    r"\.(?P<public>[A-Z2-7]{56})\.(?P<salt>[A-Za-z0-9_-]{22})"
    r"\.(?P<box>[A-Za-z0-9_-]{96}))\.(?P<check>[0-9a-f]{8})"
)
_VERSION: Final = re.compile(r"sealed([0-9]{1,9})\.")

_FILE: Final = SecretFile(
    MAX_PASSPHRASE_BYTES + 2,  # and the end of its line
    CredentialsError,
    missing=f"write the passphrase into it, or set {PASSPHRASE}",
    exposed="or mount it read-only; if somebody may have read it, protect the seed again",
)


@dataclass(frozen=True, slots=True)
class SealedSeed:
    """A sealed seed, taken apart. Nothing of it is secret without the passphrase."""

    public: PublicKey
    passes: int
    memory_kib: int
    salt: bytes
    box: bytes

    @classmethod
    def parse(cls, text: str) -> SealedSeed:
        """Read a text. Raises :class:`InvalidInput`, also for bounds that are exceeded. No key is
        derived here."""
        version = _VERSION.match(text)
        if version is not None and version[1] != "1":
            raise InvalidInput(
                f"sealed_seed has the version {version[1]}; this library reads version 1",
                hint="use a newer Sealbus, or make a new key",
            )
        found = _SEALED.fullmatch(text)
        if found is None or found["check"] != _check(found[1]):
            raise InvalidInput(
                "sealed_seed is damaged: "
                + ("its form is wrong" if found is None else "its check is wrong"),
                hint="copy it again, whole; it begins with sealed1.argon2id",
            )
        passes, memory_kib = int(found["passes"]), int(found["memory"])
        if not 1 <= passes <= MAX_PASSES:
            raise InvalidInput(
                f"sealed_seed asks for {passes} passes of Argon2id; expected 1 to {MAX_PASSES}",
                hint="`sealbus keys protect` writes 3",
            )
        if not LEAST_MEMORY_KIB <= memory_kib <= MAX_MEMORY_KIB:
            raise InvalidInput(
                f"sealed_seed asks for {memory_kib} KiB of memory; expected {LEAST_MEMORY_KIB} to "
                f"{MAX_MEMORY_KIB}",
                hint=f"`sealbus keys protect` writes {MEMORY_KIB}",
            )
        public = PublicKey.parse(found["public"], KeyKind.BOT)
        return cls(public, passes, memory_kib, _bytes(found["salt"]), _bytes(found["box"]))

    def open(self, passphrase: str) -> SigningKey:
        """The key inside. Takes 0.1 s and 64 MiB with the default values.

        Raises :class:`InvalidInput`, which says nothing of the passphrase.
        """
        box = _box(passphrase, self.salt, self.passes, self.memory_kib)
        try:
            seed = box.decrypt(self.box)
        except nacl.exceptions.CryptoError:
            raise InvalidInput(
                f"the passphrase does not open sealed_seed of {self.public.text}",
                hint=f"is it the right one? It comes from {PASSPHRASE} or {PASSPHRASE_FILE}",
            ) from None
        key = SigningKey(seed, KeyKind.BOT)
        if key.public != self.public:
            raise InvalidInput(
                f"sealed_seed is damaged: it names the key {self.public.text}, and has "
                f"{key.public.text} inside",
                hint="somebody may have changed it: take it from a backup",
            )
        return key


def seal_seed(
    key: SigningKey, passphrase: str, *, passes: int = PASSES, memory_kib: int = MEMORY_KIB
) -> str:
    """The text with the seed of a bot's ``key``, encrypted with ``passphrase``.

    Raises :class:`InvalidInput` if there is not enough memory.
    """
    salt = nacl.utils.random(_SALT_BYTES)
    box = bytes(_box(passphrase, salt, passes, memory_kib).encrypt(key.raw_seed))
    head = f"sealed1.argon2id.{passes}.{memory_kib}.{key.public.text}.{_text(salt)}.{_text(box)}"
    return f"{head}.{_check(head)}"


def clean_passphrase(given: str, where: str) -> str:
    """A passphrase without the space around it, which a file or a shell may add.

    Raises :class:`InvalidInput` if nothing is left, or too much. ``where`` names its source.
    """
    passphrase = given.strip()
    if not passphrase:
        raise InvalidInput(f"the passphrase in {where} is empty", hint="write one line there")
    try:
        size = len(passphrase.encode())
    except UnicodeEncodeError:  # bytes of the environment that are not UTF-8
        raise InvalidInput(f"the passphrase in {where} is not UTF-8 text") from None
    if size > MAX_PASSPHRASE_BYTES:
        raise InvalidInput(
            f"the passphrase in {where} has {size} bytes; expected at most {MAX_PASSPHRASE_BYTES}"
        )
    return passphrase


def find_passphrase(environment: Mapping[str, str]) -> str:
    """The passphrase that ``environment`` gives or names a file of.

    Raises :class:`InvalidInput` if it gives no passphrase, or two, and :class:`CredentialsError` if
    the file cannot be used.
    """
    given, file = environment.get(PASSPHRASE), environment.get(PASSPHRASE_FILE)
    if given and file:
        raise InvalidInput(
            f"{PASSPHRASE} and {PASSPHRASE_FILE} are both set; expected one", hint="unset one"
        )
    if given:
        return clean_passphrase(given, PASSPHRASE)
    if not file:
        raise InvalidInput(
            "sealed_seed needs a passphrase, and the environment gives none",
            hint=f"set {PASSPHRASE_FILE} to a file that has it, or {PASSPHRASE}",
        )
    path = Path(file.strip())
    content = _FILE.read(path)
    try:
        text = decode_text(content)
    except InvalidInput as error:
        raise InvalidInput(f"{path} {error.what}", hint=error.hint) from None
    return clean_passphrase(text, str(path))


def _box(passphrase: str, salt: bytes, passes: int, memory_kib: int) -> nacl.secret.SecretBox:
    try:
        key = nacl.pwhash.argon2id.kdf(
            KEY_BYTES, passphrase.encode(), salt, opslimit=passes, memlimit=memory_kib * 1024
        )
    except (MemoryError, nacl.exceptions.RuntimeError):
        raise InvalidInput(
            f"sealed_seed needs {memory_kib} KiB of memory, and this process may not have them",
            hint="raise its limit on memory",
        ) from None
    return nacl.secret.SecretBox(key)


def _check(head: str) -> str:
    return hashlib.sha256(head.encode()).hexdigest()[:8]


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
