"""The credentials of one bot on one bus: a small TOML file, or the same by environment.

::

    bus = "shop"
    bot = "inventory"
    seed = "SU…"                              # the bot's private key, or where it is
    servers = ["nats://127.0.0.1:4222"]
    bus_keys = ["N…"]                         # whose stamps to believe

    ca = "ca.crt"                             # not needed: certificates for TLS, as files
    cert = "inventory.pem"
    cert_key = "inventory.key"

    [senders]                                 # not needed: see sealbus.pins
    order = ["U…"]

Instead of ``seed``, a file may have ``seed_file``, ``sealed_seed`` or ``ssh_agent``: see
:mod:`sealbus.key_places`, and docs/keys-at-rest.md. Or it has the table ``[oidc]``, by which the
bot gets tokens of an identity provider: see :mod:`sealbus.tokens`, and docs/identity-providers.md.
``ca``, ``cert`` and ``cert_key`` are paths, relative to the file, and ask for TLS with ``tls://``
servers.

In the environment: ``SEALBUS_CREDENTIALS`` names such a file, or ``SEALBUS_BUS``, ``SEALBUS_BOT``,
``SEALBUS_SEED``, ``SEALBUS_SERVERS`` and ``SEALBUS_BUS_KEYS`` (the last two separated by commas)
give the fields themselves. ``SEALBUS_SEED_FILE``, ``SEALBUS_SEALED_SEED``, ``SEALBUS_SSH_AGENT`` or
``SEALBUS_TOKEN_FILE`` may be there instead of ``SEALBUS_SEED``. ``SEALBUS_CA``, ``SEALBUS_CERT``
and ``SEALBUS_CERT_KEY`` name the certificates.
"""

from __future__ import annotations

import json
import os
import threading
import time
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from sealbus.errors import CredentialsError, InvalidInput
from sealbus.key_places import PLACES, find_file, open_key
from sealbus.nats.addresses import check_servers, is_encrypted
from sealbus.nats.tls_files import TlsFiles
from sealbus.pins import Pins, read_pins
from sealbus.protocol.certificate import SessionKey
from sealbus.protocol.keys import KeyKind, PublicKey, Signer, SigningKey
from sealbus.protocol.sender_links import link_text
from sealbus.protocol.subjects import NAME_HINT, is_name
from sealbus.secret_file import SecretFile
from sealbus.signing import certified, linked
from sealbus.text_file import decode_text, is_utf8
from sealbus.tokens import NoKey, TokenFunction, TokenSource, read_source

MAX_FILE_BYTES: Final = 64 * 1024
"""A credentials file is a few hundred bytes; the cap keeps a wrong path from reading a disk
image."""

_FILE: Final = SecretFile(
    MAX_FILE_BYTES,
    CredentialsError,
    missing="make credentials with `sealbus keys new BOT`",
    exposed="mount it read-only, or give the seed by SEALBUS_SEED; if somebody may have read it, "
    "replace the key",
)

_TEXTS = ("bus", "bot")
_LISTS = ("servers", "bus_keys")
_TLS = ("ca", "cert", "cert_key")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One bot's identity and where to use it. ``repr()`` does not show the seed."""

    bus: str
    bot: str
    """Names: see docs/protocol.md, section 2."""
    key: Signer = field(repr=False)
    """Signs for the bot's enrolled key: a :class:`~sealbus.protocol.keys.SigningKey`, or any
    :class:`~sealbus.signing.Signer`."""
    servers: tuple[str, ...]
    """Addresses of nats-server, all with TLS or all without. Tried in any order."""
    bus_keys: frozenset[bytes] = field(repr=False)
    """Raw public keys (32 bytes each) of the bus's relays."""
    senders: Pins = field(default_factory=dict, repr=False)
    """Pinned senders (:mod:`sealbus.pins`)."""
    tls: TlsFiles | None = field(default=None, repr=False)
    """The certificates for ``tls://`` servers. ``None``: those of the system, and none to show."""
    tokens: TokenSource | None = field(default=None, repr=False)
    """Where the bot gets tokens of its identity provider. ``None``: it has a key."""
    _turn: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )
    """Held during a call of a signer that may block, so that there is one at a time."""

    @classmethod
    def load(
        cls, path: str | Path, *, key: Signer | None = None, unlock: bool = True
    ) -> Credentials:
        """Read a file. A seed that is encrypted with a passphrase takes 0.1 s.

        Args:
            key: a signer of the author's own. Then the file names no place of the key.
            unlock: if false, neither a passphrase nor an agent is needed, and a key that needs one
                signs nothing.

        Raises:
            CredentialsError: it is missing, readable by others, or wrong.
        """
        return cls._load(Path(path), os.environ, key=key, unlock=unlock)

    @classmethod
    def _load(
        cls,
        path: Path,
        environment: Mapping[str, str],
        *,
        key: Signer | None = None,
        unlock: bool = True,
    ) -> Credentials:
        fields = cls.fields(path)
        folder = path.parent
        open_it = partial(open_key, environment=environment, folder=folder, unlock=unlock)
        return cls._from(fields, str(path), open_it, (environment, folder), key)

    @classmethod
    def fields(cls, path: Path) -> dict[str, object]:
        """The fields of a file, unchecked. One of them may be a seed. Raises
        :class:`CredentialsError` if it is missing, readable by others, or not TOML."""
        content = _FILE.read(path)
        try:
            return tomllib.loads(decode_text(content))
        except InvalidInput as error:
            raise CredentialsError(f"{path} {error.what}", hint=error.hint) from None
        # Also a number too long, or nesting too deep, for Python.
        except (ValueError, RecursionError) as error:
            # The place alone, because the rest of the text may quote the file.
            where = (
                str(error).rsplit("(", 1)[-1].rstrip(")") if "line" in str(error) else "somewhere"
            )
            raise CredentialsError(f"{path} is not TOML ({where})") from None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """Read the environment, by default this process's own. Raises :class:`CredentialsError`.

        Space around a value is ignored: a file's last line end comes along when a value is made
        from the file.
        """
        given = os.environ if environment is None else environment
        environment = {
            name: text.strip() for name, text in given.items() if name.startswith("SEALBUS_")
        }
        if path := environment.get("SEALBUS_CREDENTIALS"):
            return cls._load(Path(path), given)
        fields: dict[str, object] = {
            name: text
            for name in (*_TEXTS, *PLACES, *_TLS)
            if (text := environment.get(f"SEALBUS_{name.upper()}"))
        }
        for name in _LISTS:
            fields[name] = [
                part.strip()
                for part in environment.get(f"SEALBUS_{name.upper()}", "").split(",")
                if part.strip()
            ]
        if (token_file := environment.get("SEALBUS_TOKEN_FILE")) is not None:
            fields["oidc"] = {"token_file": token_file}
        # One of the places of the key is enough, and the first is the usual one.
        place = next((name for name in PLACES if name in fields), PLACES[0])
        missing = [
            f"SEALBUS_{name.upper()}"
            for name in (*_TEXTS, *(() if token_file else (place,)), *_LISTS)
            if not fields.get(name)
        ]
        if missing:
            raise CredentialsError(
                f"no credentials: {', '.join(missing)} not set",
                hint="set SEALBUS_CREDENTIALS to a bot's credentials file",
            )
        folder = Path()
        open_it = partial(open_key, environment=given, folder=folder, unlock=True)
        return cls._from(fields, "the environment", open_it, (given, folder))

    @classmethod
    def from_oidc(
        cls,
        *,
        bus: str,
        bot: str,
        servers: Iterable[str],
        bus_keys: Iterable[str],
        token: str | Path | Callable[[], str | Awaitable[str]],
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        cert_key: str | Path | None = None,
    ) -> Credentials:
        """Credentials of a bot without a key, which logs in with tokens of an identity provider.

        Args:
            bus: the name of the bus.
            bot: the name of the bot, which has ``identities`` in the policy.
            servers: addresses of nats-server, all ``tls://``.
            bus_keys: public keys of the bus (``N…``), whose stamps the bot believes.
            token: the path of a file with a token, which somebody keeps up to date; or a function
                that returns a token, or a coroutine function. A function that blocks is called on a
                thread. It is called about once in half of ``limits.session_key``, and has six
                seconds.
            ca: a PEM file with the authorities of the server. ``None``: those of the system.
            cert, cert_key: PEM files, for a server that asks clients for certificates. They need
                ``ca``.

        Raises:
            CredentialsError: a value cannot be used.
        """
        fields: dict[str, object] = {
            "bus": bus,
            "bot": bot,
            "servers": list(servers),
            "bus_keys": list(bus_keys),
            # Read at the first connection, and anew each time.
            "oidc": {"token_file": "unused" if callable(token) else str(token)},
            **{
                name: str(path)
                for name, path in zip(_TLS, (ca, cert, cert_key), strict=True)
                if path is not None
            },
        }
        open_it = partial(open_key, environment={}, folder=Path(), unlock=True)
        made = cls._from(fields, "from_oidc", open_it, (os.environ, Path()))
        return replace(made, tokens=TokenFunction(token)) if callable(token) else made

    @classmethod
    def _from(
        cls,
        fields: Mapping[str, object],
        where: str,
        open_it: Callable[[str, str], Signer],
        at: tuple[Mapping[str, str], Path],
        signer: Signer | None = None,
    ) -> Credentials:
        """``open_it`` opens the key of a place and its value, where there is no ``signer``. ``at``
        has the environment and the folder that other paths are relative to."""
        known = (*_TEXTS, *PLACES, *_LISTS, *_TLS, "senders", "oidc")
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise CredentialsError(
                f"{where}: unknown field {unknown[0]!r}",
                hint=f"known: {', '.join(known)}",
            )
        found = [name for name in PLACES if name in fields]
        if len(found) > 1:
            raise CredentialsError(
                f"{where}: has {' and '.join(found)}; expected one place of the key",
                hint="keep the one that is meant",
            )
        if found and signer is not None:
            raise CredentialsError(
                f"{where}: has {found[0]}, and the program gives a signer; expected one of them",
                hint=f"remove {found[0]}",
            )
        has_tokens = "oidc" in fields
        if has_tokens and (found or signer is not None):
            other = found[0] if found else "a signer of the program"
            raise CredentialsError(
                f"{where}: has [oidc] and {other}; expected tokens or a key",
                hint="keep the one that is meant",
            )
        (place,) = found or PLACES[:1]
        names = _TEXTS if signer is not None or has_tokens else (*_TEXTS, place)
        texts = {name: fields.get(name) for name in names}
        for name, text in texts.items():
            if not isinstance(text, str) or not text:
                hint = f"or write one of {', '.join(PLACES[1:])}" if name == PLACES[0] else None
                raise CredentialsError(f"{where}: {name} must be a text", hint=hint)
        lists = {name: _texts_of(fields.get(name), name, where) for name in _LISTS}
        try:
            servers = check_servers(lists["servers"])
            bot = _check_name(str(texts["bot"]), "bot")
            tokens = None
            if has_tokens:
                tokens = read_source(fields["oidc"], *at)
                _check_encrypted(servers)
                signer = NoKey(bot)
            return cls(
                bus=_check_name(str(texts["bus"]), "bus"),
                bot=bot,
                key=signer if signer is not None else open_it(place, str(texts[place])),
                servers=servers,
                bus_keys=frozenset(
                    PublicKey.parse(text, KeyKind.BUS).raw for text in lists["bus_keys"]
                ),
                senders=read_pins(fields.get("senders", {})),
                tls=_read_tls(fields, servers, *at),
                tokens=tokens,
            )
        except InvalidInput as error:
            raise CredentialsError(f"{where}: {error.what}", hint=error.hint) from None

    @property
    def key_in_memory(self) -> SigningKey:
        """The key itself. Raises :class:`CredentialsError` if another signer keeps it."""
        if isinstance(self.key, SigningKey):
            return self.key
        raise CredentialsError(
            f"the private key of {self.bot} is not in this process",
            hint="its signer keeps the key; use credentials with a seed for this",
        )

    def new_session_key(self, now_ms: int) -> SessionKey:
        """A key for one connection, valid from ``now_ms`` (ms since 1970) on, and certified by the
        bot's private key.

        It blocks as long as the signer does, and while another thread has the signer make a
        certificate for these credentials. A :class:`~sealbus.protocol.keys.SigningKey` takes 0.1
        ms. Raises :class:`CredentialsError` if the signer fails, or gives a wrong signature.
        """
        if isinstance(self.key, SigningKey):
            return SessionKey.make(self.key, bus=self.bus, bot=self.bot, now_ms=now_ms)
        with self._turn:
            return certified(self.key, bus=self.bus, bot=self.bot, now_ms=now_ms)

    def sign_link(self, new: str) -> str:
        """The sender link from the bot's private key to the public key ``new`` (``U…``), as text.

        With it, subscribers that pin the present key follow to ``new``: see docs/bots.md. It blocks
        as :meth:`new_session_key` does. Raises :class:`InvalidInput` for another key, and
        :class:`CredentialsError` if the signer fails.
        """
        public = PublicKey.parse(new, KeyKind.BOT)
        if public == self.key.public:
            raise InvalidInput(
                f"{new} is the present key of {self.bot}", hint="give the key that follows it"
            )
        # In whole seconds, as the times in key files.
        at_ms = int(time.time()) * 1000
        with self._turn:
            link = linked(self.key, public.raw, bus=self.bus, bot=self.bot, at_ms=at_ms)
        return link_text(link)

    def write(self, path: str | Path) -> None:
        """Write a new file with mode 0600. Raises :class:`CredentialsError`; never overwrites.

        Also if there is no seed to write, because the key is elsewhere.
        """
        text = self.text("seed", self.key_in_memory.seed_text, beside=Path(path).parent)
        _FILE.write(Path(path), text)

    def rewrite(self, path: str | Path, place: str, value: str) -> None:
        """Replace the file at ``path`` by these credentials with ``value`` as the place of the key,
        as in :meth:`text`.

        Keeps the mode and the owner of the file, and no comment in it. Raises
        :class:`CredentialsError`.
        """
        _FILE.replace(Path(path), self.text(place, value, beside=Path(path).parent))

    def text(self, place: str, value: str | None, *, beside: Path | None = None) -> str:
        """The content of a file with these credentials.

        ``place`` is one of :data:`~sealbus.key_places.PLACES`. Without a ``value``, a comment
        stands there instead. ``beside`` is the folder of the file: certificates in it are named
        without a folder, and others with their whole path. Raises :class:`CredentialsError` if a
        path of theirs is not UTF-8.
        """
        bus_keys = sorted(PublicKey(raw, KeyKind.BUS).text for raw in self.bus_keys)
        heads = {
            "seed": "its private key. Keep this file secret.",
            "sealed_seed": "its private key, encrypted.",
        }
        head = heads.get(place, "its private key is elsewhere.")
        key = '# The place of the key: seed_file = "…", or nothing if the program gives a signer.'
        if value is not None:
            key = f"{place} = {json.dumps(value)}"
        text = (
            f"# Sealbus credentials of the bot {self.bot}: {head}\n"
            # JSON's texts and lists of texts are TOML's too.
            f"bus = {json.dumps(self.bus)}\n"
            f"bot = {json.dumps(self.bot)}\n"
            f"{key}\n"
            f"servers = {json.dumps(list(self.servers))}\n"
            f"bus_keys = {json.dumps(bus_keys)}\n"
        )
        if self.tls is not None:
            files = zip(_TLS, (self.tls.ca, self.tls.cert, self.tls.key), strict=True)
            for name, file in files:
                if file is not None:
                    shown = file.name if file.parent == beside else str(file.absolute())
                    if not is_utf8(shown):
                        raise CredentialsError(
                            f"the path of {name} is not UTF-8: {shown!r}",
                            hint="credentials cannot name it: use another folder or name",
                        )
                    text += f"{name} = {json.dumps(shown)}\n"
        if self.senders:
            text += "\n[senders]\n"
        for bot, keys in self.senders.items():
            pins = sorted(PublicKey(raw, KeyKind.BOT).text for raw in keys)
            text += f"{bot} = {json.dumps(pins)}\n"
        return text


def _read_tls(
    fields: Mapping[str, object],
    servers: tuple[str, ...],
    environment: Mapping[str, str],
    folder: Path,
) -> TlsFiles | None:
    """The certificates that the fields name, if they do. Raises :class:`InvalidInput`."""
    found: dict[str, Path] = {}
    for name in _TLS:
        text = fields.get(name)
        if text is None:
            continue
        if not isinstance(text, str) or not text:
            raise InvalidInput(f"{name} must be a text", hint="the path of a PEM file")
        found[name] = find_file(name, text, environment, folder)
    if not found:
        return None
    if ("cert" in found) != ("cert_key" in found):
        there, missing = ("cert", "cert_key") if "cert" in found else ("cert_key", "cert")
        raise InvalidInput(
            f"has {there} and not {missing}",
            hint="a certificate and its private key are needed together",
        )
    if "ca" not in found:
        raise InvalidInput(
            "has cert and not ca",
            hint="ca names the authority of the server: a PEM file, such as the system's bundle",
        )
    if not is_encrypted(servers[0]):
        raise InvalidInput(
            "has ca, and its servers have no TLS",
            hint="name the servers as tls://; or remove ca, cert and cert_key",
        )
    return TlsFiles(found["ca"], found.get("cert"), found.get("cert_key"))


def _check_encrypted(servers: tuple[str, ...]) -> None:
    if not is_encrypted(servers[0]):
        raise InvalidInput(
            "has tokens, and its servers have no TLS",
            hint="name the servers as tls://: whoever reads a token on its way could use it",
        )


def _texts_of(values: object, name: str, where: str) -> list[str]:
    """The list of texts in a field. Raises :class:`CredentialsError` for anything else."""
    if (
        not isinstance(values, list)
        or not values
        or not all(isinstance(value, str) for value in values)
    ):
        raise CredentialsError(f"{where}: {name} must be a list of texts, at least one")
    return values


def _check_name(text: str, what: str) -> str:
    """Like ``check_name``, but never repeats the text: a seed that stands in the wrong field must
    not reach a log."""
    if not is_name(text):
        raise InvalidInput(f"{what} is not a name", hint=NAME_HINT)
    return text
