"""Where a bot without a key of its own gets the tokens of its identity provider.

- :class:`TokenFile`: a file that somebody else keeps up to date, such as a projected token of
  Kubernetes.
- :class:`ClientCredentials`: a token endpoint, which gives a token to whoever has a client secret
  (OAuth 2.0, RFC 6749, section 4.4).
- :class:`TokenFunction`: a function of the author's.

Credentials have one of them in place of a key (:meth:`sealbus.Credentials.from_oidc`, or the table
``[oidc]``). A bot takes a token whenever it needs a new session certificate, which is about once in
half an hour. Nothing here keeps a token, and neither an error nor ``repr()`` shows one, or a
secret.

Each call blocks or waits as long as its source does. Whoever calls has the deadline
(:mod:`sealbus.life.exchanging`).
"""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote_plus, urlencode

from sealbus.errors import CredentialsError, InvalidInput, SealbusError
from sealbus.fetching import FetchFailed, check_https, fetch
from sealbus.key_places import find_file
from sealbus.protocol.keys import PublicKey
from sealbus.protocol.limits import MAX_TOKEN_BYTES
from sealbus.secret_file import SecretFile
from sealbus.supervision import in_thread, kind
from sealbus.text_file import decode_text

FETCH_S: Final = 5.0
"""How long a token endpoint may take, in seconds."""

MAX_ANSWER_BYTES: Final = 64 * 1024
"""The largest answer of a token endpoint."""

MAX_SECRET_BYTES: Final = 4096
"""The largest client secret. The limit keeps a wrong path from reading a disk image."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

_FIELDS: Final = (
    *("token_file", "token_url", "client_id", "client_secret_file", "scope", "audience", "ca"),
)

_TOKEN_FILE: Final = SecretFile(
    4 * MAX_TOKEN_BYTES,
    CredentialsError,
    missing="the platform writes it: in Kubernetes, a projected volume with serviceAccountToken",
    exposed="or mount it read-only; a token is as good as a key until it ends",
)

_SECRET_FILE: Final = SecretFile(
    MAX_SECRET_BYTES,
    CredentialsError,
    missing="client_secret_file names it, relative to the credentials file",
    exposed="or mount it read-only; if somebody may have read it, have the provider replace it",
)


class TokenSource(Protocol):
    """Gives tokens."""

    @property
    def name(self) -> str:
        """The name of the source, for errors and logs."""

    async def get(self) -> str:
        """Return a token. Raises :class:`CredentialsError`."""


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file with a token alone, read anew each time."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the source."""
        return f"the token in {self.path}"

    async def get(self) -> str:
        """Read the file on a thread, because the disk may be one that never answers."""
        return check_token(await in_thread("token file", self._read), self.name)

    def _read(self) -> str:
        content = _TOKEN_FILE.read(self.path)
        try:
            return decode_text(content).strip()
        except InvalidInput as error:
            raise CredentialsError(f"{self.path} {error.what}", hint=error.hint) from None


@dataclass(frozen=True, slots=True)
class TokenFunction:
    """A function that returns a token, or something that is awaited for one."""

    call: Callable[[], str | Awaitable[str]] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the source."""
        return "the token that the program gives"

    async def get(self) -> str:
        """Call the function, on a thread if it does not begin a coroutine."""
        try:
            if inspect.iscoroutinefunction(self.call):
                given: object = await self.call()
            else:
                given = await in_thread("token function", self.call)
                if inspect.isawaitable(given):
                    given = await given
        except SealbusError:
            raise
        except Exception as error:  # noqa: BLE001  # the author's own, with perhaps a secret in it
            raise CredentialsError(
                f"the function for tokens failed: {kind(error)}",
                hint="the text of its error is not shown, because it may have a secret in it",
            ) from None
        return check_token(given, self.name)


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A token endpoint, and the client's name and secret there."""

    url: str
    client_id: str
    secret_file: Path
    """Read anew each time, so that a secret can be replaced."""
    scope: str | None = None
    audience: str | None = None
    """Some providers take it, and others give each client its audience."""
    ca: Path | None = None
    """The authorities of the endpoint's certificate. ``None``: those of the system."""

    @property
    def name(self) -> str:
        """The name of the source."""
        return f"the token from {self.url}"

    async def get(self) -> str:
        """Ask the endpoint."""
        secret = await in_thread("client secret", self._secret)
        # RFC 6749, section 2.3.1: both are encoded as in a form, and then by Basic.
        pair = f"{quote_plus(self.client_id)}:{quote_plus(secret)}".encode()
        form = {"grant_type": "client_credentials", "scope": self.scope, "audience": self.audience}
        try:
            answer = await fetch(
                self.url,
                deadline_s=FETCH_S,
                most=MAX_ANSWER_BYTES,
                ca=self.ca,
                headers={
                    "Authorization": f"Basic {base64.b64encode(pair).decode()}",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
                body=urlencode({name: one for name, one in form.items() if one}).encode(),
            )
        except FetchFailed as error:
            raise CredentialsError(error.what, hint=error.hint) from None
        fields = _object(answer.body)
        if answer.status != 200:
            # Its sentence is not shown: some endpoints repeat the request in it.
            code = fields.get("error")
            known = isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) is not None
            why = f" ({code})" if known else ""
            raise CredentialsError(
                f"{self.url} gave no token: status {answer.status}{why}",
                hint="are client_id, the secret, scope and audience right?",
            )
        return check_token(fields.get("access_token"), self.name)

    def _secret(self) -> str:
        content = _SECRET_FILE.read(self.secret_file)
        try:
            return decode_text(content).strip()
        except InvalidInput as error:
            raise CredentialsError(f"{self.secret_file} {error.what}", hint=error.hint) from None


class NoKey:
    """In the place of a bot's enrolled key, where the bot has none."""

    def __init__(self, bot: str) -> None:
        self._bot = bot

    @property
    def public(self) -> PublicKey:
        """Raises :class:`CredentialsError`."""
        raise CredentialsError(
            f"{self._bot} has no key of its own: it logs in with tokens of an identity provider",
            hint="use credentials with a key for this",
        )

    def sign(self, message: bytes) -> bytes:  # noqa: ARG002  # the name of a Signer's argument
        """Raises :class:`CredentialsError`."""
        _ = self.public
        raise AssertionError

    def __repr__(self) -> str:
        return "NoKey()"


def check_token(given: object, name: str) -> str:
    """Return ``given`` if it has the form of a token, and has not ended by this machine's clock.

    The signature is for the bus to verify. ``name``: the source of the token. Raises
    :class:`CredentialsError`.
    """
    if not isinstance(given, str) or not given:
        raise CredentialsError(f"{name} is missing, or is not a text")
    if len(given) > MAX_TOKEN_BYTES:
        raise CredentialsError(
            f"{name} has {len(given)} characters; at most {MAX_TOKEN_BYTES}",
            hint="have the provider leave out what the bus does not need, such as groups",
        )
    if _TOKEN.fullmatch(given) is None:
        raise CredentialsError(
            f"{name} is not a signed token (JWT)",
            hint="an opaque or encrypted token cannot be used here",
        )
    end_s = _object(_part(given.split(".")[1])).get("exp")
    if isinstance(end_s, int) and end_s + _SKEW_S < time.time():
        ago_s = int(time.time() - end_s)
        raise CredentialsError(
            f"{name} ended {ago_s} s ago",
            hint="whoever keeps it up to date has stopped; or this machine's clock is wrong",
        )
    return given


_SKEW_S: Final = 600
"""How much this machine's clock may be ahead before a token looks ended. The relay has the last
word."""


def _part(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_source(value: object, environment: Mapping[str, str], folder: Path) -> TokenSource:
    """Read the table ``[oidc]`` of credentials. Raises :class:`InvalidInput`.

    ``folder``: what relative paths are relative to.
    """
    if not isinstance(value, dict):
        raise InvalidInput("oidc must be a table", hint="write [oidc] and below it token_file")
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise InvalidInput(f"oidc has an unknown field {unknown[0]!r}", hint=", ".join(_FIELDS))
    texts: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(text, str) or not text:
            raise InvalidInput(f"oidc.{name} must be a text")
        texts[name] = text
    paths = {
        name: find_file(f"oidc.{name}", texts[name], environment, folder)
        for name in ("token_file", "client_secret_file", "ca")
        if name in texts
    }
    if "token_file" in texts:
        if len(texts) > 1:
            raise InvalidInput(
                "oidc has token_file and more; expected one source of tokens",
                hint="keep token_file alone, or token_url with client_id and client_secret_file",
            )
        return TokenFile(paths["token_file"])
    missing = [name for name in _FIELDS[1:4] if name not in texts]
    if missing:
        raise InvalidInput(
            f"oidc has no {missing[0]}",
            hint="a source is token_file, or token_url with client_id and client_secret_file",
        )
    return ClientCredentials(
        check_https(texts["token_url"], "oidc.token_url"),
        texts["client_id"],
        paths["client_secret_file"],
        texts.get("scope"),
        texts.get("audience"),
        paths.get("ca"),
    )
