"""``bus.json`` of a backup: the bus that it is of, and its files, signed by the bus.

::

    {
      "bus": "shop",
      "bus_keys": ["N…"],          the bus's own public keys at that time
      "made": "2026-11-28T03:00:00Z",
      "files": {"ACCEPTED/backup.json": {"bytes": 2114, "sha256": "…"}, …},
      "signature": "…"             of all of that, by the key that signs sessions, in base64
    }

:func:`check` refuses a backup of another bus, and one of which any file was cut short or changed.
It is called before anything is restored. A backup has the ledger and each message, so whoever could
change it could have a message accepted twice, or take one away. The signature is by the issuer's
key, because that key stays the same when the bus gets another key of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey, verify
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.escape import readable
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.relay.secrets import BusSecrets

NAME: Final = "bus.json"

MAX_BYTES: Final = 64 * 1024
"""The largest such file. It has some 3 KB. The limit keeps a wrong folder from being read whole."""

_PREFIX: Final = b"sealbus backup\0"
"""Begins the signed bytes. No token of NATS, which the same key signs, has a zero byte."""

_HINT: Final = "use a whole folder that `sealbus backup` has written"


def write(folder: Path, bus: str, secrets: BusSecrets, made: str) -> None:
    """Describe the files in ``folder``. Raises ``OSError``.

    Args:
        folder: Has all streams.
        bus: The name of the bus.
        secrets: Its own keys.
        made: The time, for people.
    """
    paths = sorted(one for one in folder.rglob("*") if one.is_file())
    fields = {
        "bus": bus,
        "bus_keys": [key.text for key in secrets.publics],
        "made": made,
        "files": {str(one.relative_to(folder)): _facts(one) for one in paths},
    }
    signature = base64.b64encode(secrets.issuer.sign(_signed(fields))).decode()
    path = folder / NAME
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(json.dumps(fields | {"signature": signature}, indent=2) + "\n")


def check(folder: Path, facts: BusFile | None, secrets: BusSecrets) -> str:
    """See that the backup in ``folder`` is of this bus, and that each file is as it was.

    Args:
        folder: As ``sealbus backup`` writes it.
        facts: The content of ``bus.toml``, with the keys that followed others.
        secrets: The bus's own keys.

    Returns:
        The time at which it was made.

    Raises:
        Unusable: It is not.
        OSError: A file cannot be read.
    """
    path = folder / NAME
    fields, signature = _read(path)
    keys = frozenset(PublicKey.parse(one, KeyKind.BUS).raw for one in fields["bus_keys"])
    ours = frozenset(key.raw for key in secrets.publics)
    if not (keys if facts is None else facts.trusted(keys) | keys) & ours:
        theirs = " ".join(fields["bus_keys"])
        here = " ".join(key.text for key in secrets.publics)
        raise Unusable(
            f"{path} is of the bus {readable(fields['bus'], 80)} with the key {theirs}; this folder"
            f" is of a bus with the key {here}",
            hint="name the folder of that bus with --dir: subscribers would believe no message of"
            " another bus",
        )
    if not verify(secrets.issuer.public.raw, _signed(fields), signature):
        raise Unusable(f"{path} was changed: this bus has not signed it", hint=_HINT)
    for name, expected in fields["files"].items():
        one = folder / name
        if not one.is_file():
            raise Unusable(f"{one} is missing", hint=_HINT)
        if (got := _facts(one)) != expected:
            what = f"{got['bytes']} bytes" if got["bytes"] != expected["bytes"] else "other content"
            raise Unusable(
                f"{one} is not the file that was saved: it has {what}; expected"
                f" {expected['bytes']} bytes with the digest {expected['sha256'][:16]}",
                hint=_HINT,
            )
    made: str = fields["made"]
    return made


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    if not path.is_file():
        raise Unusable(f"{path} is missing", hint=_HINT)
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    other = (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput)
    with contextlib.suppress(*other):
        fields: dict[str, Any] = json.loads(content)
        signature = base64.b64decode(fields.pop("signature"), validate=True)
        is_one = all(isinstance(fields[name], str) for name in ("bus", "made")) and all(
            isinstance(one["bytes"], int)
            and isinstance(one["sha256"], str)
            # A path that leads elsewhere is no file of a backup.
            and not Path(name).is_absolute()
            and ".." not in Path(name).parts
            for name, one in fields["files"].items()
        )
        for key in fields["bus_keys"]:
            PublicKey.parse(key, KeyKind.BUS)
        if is_one and len(content) <= MAX_BYTES:
            return fields, signature
    raise Unusable(f"{path} is not the description of a backup", hint=_HINT)


def _facts(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _signed(fields: Mapping[str, Any]) -> bytes:
    return _PREFIX + json.dumps(fields, sort_keys=True).encode()
