"""The bus's own private keys: one small file that only the relays can read.

::

    # .sealbus/relay.toml, mode 0600
    bus_seed = "SN…"      # seals stamps; its public half is in every bot's credentials
    issuer_seed = "SA…"   # signs the NATS sessions that the relay grants; its public half is in nats.conf
    relay_seed = "SU…"    # the relays' own login at NATS; its public half is in nats.conf
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealbus.errors import InvalidInput
from sealbus.keys import KeyKind, SigningKey
from sealbus_broker.relay.errors import SecretsUnusable

MAX_FILE_BYTES: Final = 16 * 1024
"""Three keys are under 300 bytes; the cap keeps a wrong path from reading a disk image."""

_KINDS: Final = {"bus_seed": KeyKind.BUS, "issuer_seed": KeyKind.ISSUER, "relay_seed": KeyKind.BOT}


@dataclass(frozen=True, slots=True)
class BusSecrets:
    """The three private keys. ``repr()`` shows their public halves."""

    bus: SigningKey
    issuer: SigningKey
    relay: SigningKey

    @classmethod
    def generate(cls) -> BusSecrets:
        """New keys for a new bus."""
        return cls(*(SigningKey.generate(kind) for kind in _KINDS.values()))

    def write(self, path: Path) -> None:
        """Write a new file, 0600 in a 0700 folder. Raises :class:`SecretsUnusable`; never overwrites."""
        seeds = zip(_KINDS, (self.bus, self.issuer, self.relay), strict=True)
        text = "# The private keys of this bus. Whoever reads this file can speak as its relay. Keep it secret.\n"
        text += "".join(f'{name} = "{key.seed_text}"\n' for name, key in seeds)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SecretsUnusable(f"{path.parent} cannot be made: {error.strerror}") from None
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            raise SecretsUnusable(
                f"{path} exists already", hint="keys are never overwritten: move the file away"
            ) from None
        except OSError as error:
            raise SecretsUnusable(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> BusSecrets:
        """Read the file. Raises :class:`SecretsUnusable` if it is missing, readable by others, or wrong."""
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            raise SecretsUnusable(
                f"{path} is missing: this bus has no keys yet",
                hint="`sealbus prepare` makes them, as `sealbus up` does",
            ) from None
        except OSError as error:
            raise SecretsUnusable(f"{path} cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise SecretsUnusable(
                f"{path} can be read by others (mode {mode:04o})",
                hint=f"chmod 600 {path}; if somebody may have read it, make a new bus and new credentials",
            )
        try:
            if len(content) > MAX_FILE_BYTES:
                raise InvalidInput(f"larger than {MAX_FILE_BYTES} bytes")
            fields = tomllib.loads(content.decode())
            if set(fields) != set(_KINDS):
                raise InvalidInput(f"expected exactly {', '.join(_KINDS)}")
            return cls(*(SigningKey.parse(str(fields[name]), kind) for name, kind in _KINDS.items()))
        except InvalidInput as error:
            raise SecretsUnusable(f"{path}: {error.what}", hint=error.hint) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise SecretsUnusable(f"{path} is not TOML") from None
