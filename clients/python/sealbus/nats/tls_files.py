"""The certificates of one end of a connection, as files. They are read anew for each attempt.

Whoever renews a certificate replaces its file, and restarts nothing: a bot makes a connection every
few minutes, and the next one uses the new file. To read and check the files takes about 4 ms.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealbus.errors import CredentialsError
from sealbus.secret_file import SecretFile

MAX_BYTES: Final = 256 * 1024
"""The largest file. A certificate has about 1 KiB, and a bundle of the world's authorities 220 KiB.
The limit keeps a wrong path from reading a disk image."""


class UnusableTls(OSError):
    """A file of :class:`TlsFiles` cannot be used. Nothing was sent.

    An :class:`OSError`, because nats-py tries again after one: the file may be there later.
    """

    def __init__(self, what: str, hint: str | None) -> None:
        super().__init__(what)
        self.what = what
        """The problem, with the file."""
        self.hint = hint
        """The remedy, if there is one."""


_KEY: Final = SecretFile(
    MAX_BYTES,
    CredentialsError,
    missing="`sealbus certs new BOT` makes a certificate and its key",
    exposed="or mount it read-only; if somebody may have read it, make another with "
    "`sealbus certs new BOT --renew`",
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """An authority that is trusted, and perhaps a certificate of one's own."""

    ca: Path
    """PEM: the authorities whose servers are trusted. No other is, not those of the system
    either."""
    cert: Path | None = None
    """PEM: the certificate to show, with intermediate ones behind it."""
    key: Path | None = None
    """PEM: its private key, not encrypted. Others must not be able to read it."""

    def context(self) -> ssl.SSLContext:
        """Read the files. TLS 1.3 at least, and the host has to be a name in the server's
        certificate. Raises :class:`UnusableTls`."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        # As create_default_context() does from Python 3.13 on. An intermediate authority may be in
        # `ca` alone.
        made.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        trust(made, self.ca)
        if self.cert is not None and self.key is not None:
            self._load_own(made, self.cert, self.key)
        return made

    @staticmethod
    def _load_own(context: ssl.SSLContext, cert: Path, key: Path) -> None:
        if b"-----BEGIN CERTIFICATE-----" not in _read(cert):
            raise _not_pem(cert, "a certificate", "CERTIFICATE")
        try:
            content = _KEY.read(key)
        except CredentialsError as error:
            raise UnusableTls(error.what, error.hint) from None
        if b"PRIVATE KEY-----" not in content:
            raise _not_pem(key, "a private key", "PRIVATE KEY")
        try:
            # Without a function for the passphrase, OpenSSL would ask the terminal for it.
            context.load_cert_chain(cert, key, password=lambda: "")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UnusableTls(
                    f"{key} is not the key of the certificate in {cert}",
                    "give both files of one certificate; is one of them being renewed?",
                ) from None
            raise UnusableTls(
                f"{cert} and {key} cannot be used: {_reason(error)}",
                "give a certificate and its key as PEM, and the key without a passphrase",
            ) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "not usable"
            raise UnusableTls(
                f"{cert} and {key} cannot be used: {why}",
                "give a certificate and its key as PEM, and the key without a passphrase",
            ) from None


def trust(context: ssl.SSLContext, ca: Path) -> None:
    """Add the authorities in the PEM file ``ca``. Raises :class:`UnusableTls`."""
    _read(ca)
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ValueError):
        raise _not_pem(ca, "certificates", "CERTIFICATE") from None


def _read(path: Path) -> bytes:
    """The content of a file that is no secret."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
        why = getattr(error, "strerror", None) or "not a path"
        raise UnusableTls(
            f"{path} cannot be read: {why}",
            "is the path right? In credentials it is relative to their file",
        ) from None
    if len(content) > MAX_BYTES:
        raise UnusableTls(
            f"{path} is larger than {MAX_BYTES} bytes, so it is not the file that is meant",
            "is the path right?",
        )
    return content


def _not_pem(path: Path, what: str, label: str) -> UnusableTls:
    return UnusableTls(
        f"{path} has no {what.removeprefix('a ')} in it",
        f"expected PEM, with a line -----BEGIN {label}-----",
    )


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").replace("_", " ").lower()
