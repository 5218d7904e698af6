"""Where a bot's enrolled key lives: one of four fields of its credentials.

- ``seed``: the seed itself.
- ``seed_file``: the path of a file with the seed alone.
- ``sealed_seed``: the seed, encrypted with a passphrase (:mod:`sealbus.sealed_seed`).
- ``ssh_agent``: the public key of a key that an ssh-agent holds (:mod:`sealbus.ssh_agent`).

With the first three, the key is in the memory of the bot. With the last, it never is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sealbus.errors import CredentialsError, InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey, Signer, SigningKey
from sealbus.sealed_seed import SealedSeed, find_passphrase
from sealbus.secret_file import SecretFile
from sealbus.ssh_agent import AgentKey, find_agent
from sealbus.text_file import decode_text

PLACES: Final = ("seed", "seed_file", "sealed_seed", "ssh_agent")
"""The fields. Credentials have exactly one of them."""

MAX_SEED_FILE_BYTES: Final = 1024
"""A seed has 58 characters; the cap keeps a wrong path from reading a disk image."""

_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
"""systemd's variable: the folder with the credentials of a service."""

_FILE: Final = SecretFile(
    MAX_SEED_FILE_BYTES,
    CredentialsError,
    missing="seed_file names it, relative to the credentials file; a service of systemd writes "
    f"${_DIRECTORY}/NAME",
    exposed="or mount it read-only; if somebody may have read it, replace the key",
)


class LockedKey:
    """A key that nobody has unlocked. It shows its public half, and signs nothing."""

    def __init__(self, public: PublicKey) -> None:
        self.public = public

    def sign(self, message: bytes) -> bytes:  # noqa: ARG002  # the name of a Signer's argument
        """Raises :class:`CredentialsError`."""
        raise CredentialsError(
            f"the key {self.public.text} was not unlocked, so it signs nothing",
            hint="load the credentials without unlock=False",
        )

    def __repr__(self) -> str:
        return f"LockedKey({self.public.text})"


def open_key(
    place: str, text: str, *, environment: Mapping[str, str], folder: Path, unlock: bool
) -> Signer:
    """The key at ``place``, which is one of :data:`PLACES` with the value ``text``.

    Args:
        environment: has the passphrase, and where an agent or systemd's credentials are.
        folder: what a relative path is relative to.
        unlock: whether the key has to sign. Without it, no passphrase and no agent is needed.

    Raises:
        InvalidInput: the value is wrong, or the environment lacks something.
        CredentialsError: a file that it names cannot be used.
    """
    if place == "seed":
        return SigningKey.parse(text, KeyKind.BOT)
    if place == "seed_file":
        return _from_file(find_file("seed_file", text, environment, folder))
    if place == "sealed_seed":
        sealed = SealedSeed.parse(text)
        return sealed.open(find_passphrase(environment)) if unlock else LockedKey(sealed.public)
    public = PublicKey.parse(text, KeyKind.BOT)
    if not unlock:
        return LockedKey(public)
    return AgentKey(public, find_agent(environment.get("SSH_AUTH_SOCK")))


def find_file(field: str, text: str, environment: Mapping[str, str], folder: Path) -> Path:
    """The path that ``text`` means in a field of credentials. One variable is replaced, and only at
    its beginning.

    Raises:
        InvalidInput: it begins with another variable, or that variable is not set.
    """
    if text.startswith(f"${_DIRECTORY}/"):
        directory = environment.get(_DIRECTORY)
        if not directory:
            raise InvalidInput(
                f"{field} begins with ${_DIRECTORY}, which is not set",
                hint="systemd sets it for a service whose unit has LoadCredential=",
            )
        return Path(directory, text.removeprefix(f"${_DIRECTORY}/"))
    if text[0] in "$~":
        raise InvalidInput(
            f"{field} begins with {text[0]}",
            hint=f"only ${_DIRECTORY}/ is replaced there; write the path itself",
        )
    return folder / text


def _from_file(path: Path) -> SigningKey:
    content = _FILE.read(path)
    try:
        return SigningKey.parse(decode_text(content).strip(), KeyKind.BOT)
    except InvalidInput as error:
        hint = error.hint or "the file has to have the seed alone"
        raise CredentialsError(f"seed_file {path}: {error.what}", hint=hint) from None
