"""The token of an invitation: everything that a bot's host needs to join a bus, in one line.

::

    sealbus-join-1-<base64url of the body and its CRC-32, without padding>

``1`` is the version. The body is a msgpack array::

    bus str · bot str · seed of J bin(32) · bus keys bin(32 each) · servers str · end int (ms)

J is the key of the invitation (:mod:`sealbus.protocol.joining`). The bus keys are those whose
stamps the bot will believe, so whoever answers at the address cannot pretend to be the bus. The
servers are joined by spaces. The CRC-32 (that of zlib, big-endian) is over everything before it,
the beginning of the text included. It finds mistakes in copying, and protects from nobody.

Whoever has the token may choose the key of the bot, until a key was chosen. The seed in it never
leaves the host that it is used on. Nothing here keeps a state.
"""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass, field
from typing import Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.addresses import check_servers
from sealbus.protocol.codec import FieldTypes, pack_fields, unpack_array
from sealbus.protocol.keys import KEY_BYTES, KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_TIME_MS
from sealbus.protocol.subjects import is_name

VERSION: Final = 1

MAX_CHARS: Final = 2048
"""The longest token. One with four bus keys and a server has up to 370 characters. More servers
than fit can be written into the credentials afterwards."""

MAX_BUS_KEYS: Final = 4
"""The most bus keys, as in ``bus.toml``."""

_BEGIN: Final = f"sealbus-join-{VERSION}-"
_ANY_VERSION: Final = re.compile(r"sealbus-join-([0-9]{1,4})-")
_CRC_BYTES: Final = 4
_TYPES: Final = FieldTypes(((str,), (str,), (bytes,), (bytes,), (str,), (int,)))
_AGAIN: Final = "copy it again, whole and in one line"
_NEW: Final = "have an operator make another with `sealbus invite BOT`"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A token, taken apart. ``repr()`` does not show the seed."""

    bus: str
    bot: str
    key: SigningKey = field(repr=False)
    """J."""
    bus_keys: frozenset[bytes] = field(repr=False)
    """Raw public keys (32 bytes each) of the bus."""
    servers: tuple[str, ...]
    """Addresses of nats-server, all with TLS or all without."""
    ends_ms: int
    """When the invitation ends (ms since 1970), by the clock of the bus."""

    def encode(self) -> str:
        """The text. Raises :class:`InvalidInput` if it were too long."""
        body = pack_fields(
            (
                self.bus,
                self.bot,
                self.key.raw_seed,
                b"".join(sorted(self.bus_keys)),
                " ".join(self.servers),
                self.ends_ms,
            )
        )
        text = _BEGIN + base64.urlsafe_b64encode(body + _crc(body)).decode().rstrip("=")
        if len(text) > MAX_CHARS:
            raise InvalidInput(
                f"the token would have {len(text)} characters, which is more than {MAX_CHARS}",
                hint="name fewer servers with --server; the bot's file can name more of them later",
            )
        return text

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Read a text. Space around it is ignored.

        Raises :class:`InvalidInput`, which names the problem and never repeats the text.
        """
        data = _read(text.strip())
        try:
            bus, bot, seed, keys, servers, ends_ms = unpack_array(data, _TYPES)
        except Malformed:
            raise _unusable("it is not what `sealbus invite` writes") from None
        if not (is_name(bus) and is_name(bot)):
            raise _unusable("the bus or the bot in it is not a name")
        if len(seed) != KEY_BYTES:
            raise _unusable(f"its seed has {len(seed)} bytes; expected {KEY_BYTES}")
        if not 0 <= ends_ms <= MAX_TIME_MS:
            raise _unusable("its end is not a time")
        try:
            checked = check_servers(servers.split(" "))
        except InvalidInput as error:
            raise _unusable(error.what) from None
        return cls(bus, bot, SigningKey(seed, KeyKind.BOT), _keys(keys), checked, ends_ms)


def _read(text: str) -> bytes:
    """The body. Raises :class:`InvalidInput`."""
    version = _ANY_VERSION.match(text)
    if version is None:
        raise InvalidInput(
            f"the token does not begin with {_BEGIN}", hint=f"{_AGAIN}; `sealbus invite` prints it"
        )
    if version[0] != _BEGIN:
        raise InvalidInput(
            f"the token has version {version[1]}; expected {VERSION}",
            hint="use the same version of Sealbus here and beside the bus's folder",
        )
    if len(text) > MAX_CHARS:
        raise InvalidInput(
            f"the token has {len(text)} characters; expected at most {MAX_CHARS}", hint=_AGAIN
        )
    coded = text.removeprefix(_BEGIN)
    if (odd := re.search(r"[^A-Za-z0-9_-]", coded)) is not None:
        at = len(_BEGIN) + odd.start() + 1
        raise InvalidInput(f"the token has an unknown character at place {at}", hint=_AGAIN)
    try:
        data = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except ValueError:
        data = b""
    body, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    # Also where the last letter has stray bits: one text for one token.
    if crc != _crc(body) or base64.urlsafe_b64encode(data).decode().rstrip("=") != coded:
        raise InvalidInput(
            "the token has a wrong checksum: a character is wrong or missing", hint=_AGAIN
        )
    return body


def _keys(joined: bytes) -> frozenset[bytes]:
    keys = [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]
    if not 1 <= len(keys) <= MAX_BUS_KEYS:
        raise _unusable(f"its bus keys are not 1 to {MAX_BUS_KEYS} keys")
    try:
        for raw in keys:
            PublicKey.parse(PublicKey(raw, KeyKind.BUS).text, KeyKind.BUS)
    except InvalidInput:
        raise _unusable("a bus key in it is not a valid Ed25519 key") from None
    return frozenset(keys)


def _crc(body: bytes) -> bytes:
    return zlib.crc32(_BEGIN.encode() + body).to_bytes(_CRC_BYTES, "big")


def _unusable(why: str) -> InvalidInput:
    return InvalidInput(f"the token cannot be used: {why}", hint=_NEW)
