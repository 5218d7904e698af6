"""The bus's own private keys, in one small file that only the relays can read.

::

    # .sealbus/relay.toml, mode 0600
    bus_seed = "SN…"     # seals stamps. Its public half is in every bot's credentials
    issuer_seed = "SA…"  # signs the NATS sessions of bots. Its public half is in nats.conf
    relay_seed = "SU…"   # the relays' own login at NATS. Its public half is in nats.conf
    session_issuer_seed = "SU…"  # certifies session keys of bots that have a token of an identity
                                 # provider. Its public half is in keys/sealbus.yaml. A file of an
                                 # older version lacks it: `sealbus keys issuer` adds it
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.secret_file import SecretFile
from sealbus.text_file import decode_text
from sealbus_broker.errors import SecretsUnusable

MAX_FILE_BYTES: Final = 16 * 1024
"""The largest file. Three keys have under 300 bytes. The limit keeps a wrong path from reading a
disk image."""

_FILE: Final = SecretFile(
    MAX_FILE_BYTES,
    SecretsUnusable,
    missing="this bus has no keys here yet: `sealbus up` and `sealbus prepare` make them",
    exposed="or mount it read-only; if others may have read it, make a new bus and new credentials",
)

# nats-server knows relays and bots alike as users, so a relay's login has a bot's kind of key.
_KINDS: Final = {"bus_seed": KeyKind.BUS, "issuer_seed": KeyKind.ISSUER, "relay_seed": KeyKind.BOT}

_SESSION_ISSUER: Final = "session_issuer_seed"
"""The field that a file may lack. A certificate by this key has the place of one by a bot's
enrolled key, so it has a bot's kind of key too."""


@dataclass(frozen=True, slots=True)
class BusSecrets:
    """The private keys. Its ``repr()`` shows their public halves."""

    bus: SigningKey
    issuer: SigningKey
    relay: SigningKey
    session_issuer: SigningKey | None = None
    """Signs session certificates for identities. ``None``: the file has none yet."""

    @classmethod
    def generate(cls) -> BusSecrets:
        """Make the keys of a new bus."""
        made = [SigningKey.generate(kind) for kind in (*_KINDS.values(), KeyKind.BOT)]
        return cls(*made)

    def write(self, path: Path) -> None:
        """Write a new file, 0600 in a 0700 folder. Raises :class:`SecretsUnusable`, also if there
        is one."""
        _FILE.write(path, self._text())

    def with_session_issuer(self, path: Path, *, new: bool = False) -> BusSecrets:
        """Return these keys with a session-issuer key: the present one, or one that is made and
        written into the file at ``path``. Raises :class:`SecretsUnusable`.

        ``new``: whether to make another one where there is one.
        """
        if self.session_issuer is not None and not new:
            return self
        whole = replace(self, session_issuer=SigningKey.generate(KeyKind.BOT))
        _FILE.replace(path, whole._text())  # noqa: SLF001  # of its own class
        return whole

    def _text(self) -> str:
        seeds = dict(zip(_KINDS, (self.bus, self.issuer, self.relay), strict=True))
        if self.session_issuer is not None:
            seeds[_SESSION_ISSUER] = self.session_issuer
        text = (
            "# The private keys of this bus. Its reader can speak as its relay. Keep it secret.\n"
        )
        return text + "".join(f'{name} = "{key.seed_text}"\n' for name, key in seeds.items())

    @classmethod
    def load(cls, path: Path) -> BusSecrets:
        """Read the file. Raises :class:`SecretsUnusable` if it is missing, readable by others, or
        invalid."""
        content = _FILE.read(path)
        try:
            fields = tomllib.loads(decode_text(content))
            if set(fields) - {_SESSION_ISSUER} != set(_KINDS):
                raise InvalidInput(
                    f"expected exactly {', '.join(_KINDS)}, and perhaps {_SESSION_ISSUER}"
                )
            kinds = {**_KINDS, _SESSION_ISSUER: KeyKind.BOT}
            return cls(
                *(
                    SigningKey.parse(str(fields[name]), kind)
                    for name, kind in kinds.items()
                    if name in fields
                )
            )
        except InvalidInput as error:
            raise SecretsUnusable(f"{path}: {error.what}", hint=error.hint) from None
        except (
            ValueError,
            RecursionError,
        ):  # not TOML, a number too long or nesting too deep for Python
            raise SecretsUnusable(f"{path} is not TOML") from None
