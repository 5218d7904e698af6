"""What one bot needs to speak on one bus: a small TOML file, or the same by environment.

::

    bus = "shop"
    bot = "inventory"
    seed = "SU…"                              # the bot's private key
    servers = ["nats://127.0.0.1:4222"]
    bus_keys = ["N…"]                         # whose stamps to believe

In the environment: ``SEALBUS_CREDENTIALS`` names such a file, or ``SEALBUS_BUS``, ``SEALBUS_BOT``, ``SEALBUS_SEED``,
``SEALBUS_SERVERS`` and ``SEALBUS_BUS_KEYS`` (the last two separated by commas) give the fields themselves.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sealbus.errors import CredentialsError, InvalidInput
from sealbus.keys import KeyKind, PublicKey, SigningKey
from sealbus.subjects import is_name

MAX_FILE_BYTES: Final = 64 * 1024
"""A credentials file is a few hundred bytes; the cap keeps a wrong path from reading a disk image."""

_TEXTS = ("bus", "bot", "seed")
_LISTS = ("servers", "bus_keys")
_SCHEMES = ("nats", "tls", "ws", "wss")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One bot's identity and where to use it. ``repr()`` does not show the seed."""

    bus: str
    bot: str
    key: SigningKey
    servers: tuple[str, ...]
    bus_keys: frozenset[bytes] = field(repr=False)
    """Raw public keys (32 bytes each) of the bus's relays."""

    @classmethod
    def load(cls, path: str | Path) -> Credentials:
        """Read a file. Raises :class:`CredentialsError` if it is missing, readable by others, or wrong."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if stat.S_IMODE(status.st_mode) & 0o077:
                    raise CredentialsError(
                        f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                        hint=f"chmod 600 {path}; if somebody may have read it, replace the key",
                    )
                content = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a path with NUL in it
            raise CredentialsError(
                f"{path} cannot be read: {getattr(error, 'strerror', 'not a path')}",
                hint="make credentials with `sealbus keys new BOT`",
            ) from None
        if len(content) > MAX_FILE_BYTES:
            raise CredentialsError(f"{path} is larger than {MAX_FILE_BYTES} bytes, so it is not a credentials file")
        try:
            fields = tomllib.loads(content.decode())
        except (
            ValueError,
            RecursionError,
        ) as error:  # not TOML, not UTF-8, a number too long for Python, nesting too deep for it
            where = str(error).rsplit("(", 1)[-1].rstrip(")") if "line" in str(error) else "somewhere"
            raise CredentialsError(f"{path} is not TOML ({where})") from None
        return cls._from(fields, str(path))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Credentials:
        """Read the environment. Raises :class:`CredentialsError`."""
        if path := environment.get("SEALBUS_CREDENTIALS"):
            return cls.load(path)
        fields: dict[str, object] = {name: environment.get(f"SEALBUS_{name.upper()}") for name in _TEXTS}
        for name in _LISTS:
            fields[name] = [
                part.strip() for part in environment.get(f"SEALBUS_{name.upper()}", "").split(",") if part.strip()
            ]
        missing = [f"SEALBUS_{name.upper()}" for name in (*_TEXTS, *_LISTS) if not fields[name]]
        if missing:
            raise CredentialsError(
                f"no credentials: {', '.join(missing)} not set",
                hint="set SEALBUS_CREDENTIALS to a bot's credentials file",
            )
        return cls._from(fields, "the environment")

    @classmethod
    def _from(cls, fields: Mapping[str, object], where: str) -> Credentials:
        unknown = sorted(set(fields) - set(_TEXTS) - set(_LISTS))
        if unknown:
            raise CredentialsError(
                f"{where}: unknown field {unknown[0]!r}", hint=f"known: {', '.join((*_TEXTS, *_LISTS))}"
            )
        texts = {name: fields.get(name) for name in _TEXTS}
        lists = {name: fields.get(name) for name in _LISTS}
        for name, text in texts.items():
            if not isinstance(text, str) or not text:
                raise CredentialsError(f"{where}: {name} must be a text")
        for name, values in lists.items():
            if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
                raise CredentialsError(f"{where}: {name} must be a list of texts, at least one")
        try:
            return cls(
                bus=_check_name(str(texts["bus"]), "bus"),
                bot=_check_name(str(texts["bot"]), "bot"),
                key=SigningKey.parse(str(texts["seed"]), KeyKind.BOT),
                servers=tuple(_check_server(server) for server in lists["servers"]),  # type: ignore[attr-defined]  # a list
                bus_keys=frozenset(PublicKey.parse(text, KeyKind.BUS).raw for text in lists["bus_keys"]),  # type: ignore[attr-defined]
            )
        except InvalidInput as error:
            raise CredentialsError(f"{where}: {error.what}", hint=error.hint) from None

    def write(self, path: str | Path) -> None:
        """Write a new file with mode 0600. Raises :class:`CredentialsError`; never overwrites."""
        path = Path(path)
        bus_keys = sorted(PublicKey(raw, KeyKind.BUS).text for raw in self.bus_keys)
        text = (
            f"# Sealbus credentials of the bot {self.bot}: its private key. Keep this file secret.\n"
            f"bus = {json.dumps(self.bus)}\n"
            f"bot = {json.dumps(self.bot)}\n"
            f"seed = {json.dumps(self.key.seed_text)}\n"
            f"servers = {json.dumps(list(self.servers))}\n"
            f"bus_keys = {json.dumps(bus_keys)}\n"
        )
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        except FileExistsError:
            raise CredentialsError(
                f"{path} exists already", hint="a key is never overwritten: move the file away"
            ) from None
        except OSError as error:
            raise CredentialsError(f"{path} cannot be written: {error.strerror}") from None


def _check_name(text: str, what: str) -> str:
    """Like ``check_name``, but never repeats the text: a seed that stands in the wrong field must not reach a log."""
    if not is_name(text):
        raise InvalidInput(
            f"{what} is not a name", hint="1-32 characters of a-z, 0-9 and -, beginning with a letter or digit"
        )
    return text


def _check_server(server: str) -> str:
    """``server`` if it is a NATS address. Never repeated in an error: what is wrong with it may be that it has a password."""
    try:
        parts = urlsplit(server)
        good = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # an unclosed bracket, a port beyond 65535
        good = False
    if not good or not (server.isascii() and server.isprintable() and " " not in server):
        raise InvalidInput("servers: not a NATS address", hint="like nats://127.0.0.1:4222, without a password")
    return server
