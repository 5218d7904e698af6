"""The bus's own private keys, in one small file that only the relays can read.

::

    # .sealbus/relay.toml, mode 0600
    bus_seed = "SN…"     # seals stamps. Its public half is in every bot's credentials
    issuer_seed = "SA…"  # signs the NATS sessions of bots. Its public half is in nats.conf
    relay_seed = "SU…"   # the relays' own login at NATS. Its public half is in nats.conf
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class BusSecrets:
    """The three private keys. Its ``repr()`` shows their public halves."""

    bus: SigningKey
    issuer: SigningKey
    relay: SigningKey

    @classmethod
    def generate(cls) -> BusSecrets:
        """Make the keys of a new bus."""
        return cls(*(SigningKey.generate(kind) for kind in _KINDS.values()))

    def write(self, path: Path) -> None:
        """Write a new file, 0600 in a 0700 folder. Raises :class:`SecretsUnusable`, also if there
        is one."""
        seeds = zip(_KINDS, (self.bus, self.issuer, self.relay), strict=True)
        text = (
            "# The private keys of this bus. Its reader can speak as its relay. Keep it secret.\n"
        )
        text += "".join(f'{name} = "{key.seed_text}"\n' for name, key in seeds)
        _FILE.write(path, text)

    @classmethod
    def load(cls, path: Path) -> BusSecrets:
        """Read the file. Raises :class:`SecretsUnusable` if it is missing, readable by others, or
        invalid."""
        content = _FILE.read(path)
        try:
            fields = tomllib.loads(decode_text(content))
            if set(fields) != set(_KINDS):
                raise InvalidInput(f"expected exactly {', '.join(_KINDS)}")
            return cls(
                *(SigningKey.parse(str(fields[name]), kind) for name, kind in _KINDS.items())
            )
        except InvalidInput as error:
            raise SecretsUnusable(f"{path}: {error.what}", hint=error.hint) from None
        except (
            ValueError,
            RecursionError,
        ):  # not TOML, a number too long or nesting too deep for Python
            raise SecretsUnusable(f"{path} is not TOML") from None
