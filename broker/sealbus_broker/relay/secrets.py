"""The bus's own private keys, in one small file that only the relays can read.

::

    # .sealbus/relay.toml, mode 0600
    bus_seed = "SN…"       # seals stamps. Its public half is in every bot's credentials
    issuer_seed = "SA…"    # signs the NATS sessions of bots. Its public half is in nats.conf
    relay_seed = "SU…"     # the relays' own login at NATS. Its public half is in nats.conf
    session_issuer_seed = "SU…"  # certifies session keys of bots that have a token of an identity
                                 # provider. Its public half is in keys/sealbus.yaml. A file of an
                                 # older version lacks it: `sealbus keys issuer` adds it

    # Of `sealbus keys rotate-bus` alone:
    next_bus_seed = "SN…"  # follows bus_seed at the time in the last link
    previous_bus_keys = ["N…"]  # of before, without their private halves
    links = ["…"]          # from each key to the next, in base64: see sealbus.protocol.keyring

A rotation of the bus key has two steps, and each replaces the file as a whole. :meth:`rotated` adds
the next key, and the link to it, which the present key seals. :meth:`finished` lets the next key
take the place of the present one, whose private half is gone then. A command that is killed before,
between or behind them leaves a file that works, and can be said again.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.protocol.bus_keys import BusKeys, end_of
from sealbus.protocol.keyring import Link, check_chain, open_link, pack_keyring, seal_link
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.limits import MAX_LINKS
from sealbus.secret_file import SecretFile
from sealbus.text_file import decode_text
from sealbus.trust import follow
from sealbus_broker.errors import SecretsUnusable
from sealbus_broker.policy.links import link_list, read_links

MAX_FILE_BYTES: Final = 32 * 1024
"""The largest file. Three keys have under 300 bytes, and the most links 11,000. The limit keeps a
wrong path from reading a disk image."""

MAX_PREVIOUS: Final = 2
"""The most keys of before whose stamps still count. With the present key and the next one they are
as many as ``bus.toml`` names."""

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

_NEXT, _PREVIOUS, _LINKS = "next_bus_seed", "previous_bus_keys", "links"
_MORE: Final = (_SESSION_ISSUER, _NEXT, _PREVIOUS, _LINKS)


@dataclass(frozen=True, slots=True)
class BusSecrets:
    """The private keys, and the public past of the bus key. Its ``repr()`` shows public halves."""

    bus: SigningKey
    issuer: SigningKey
    relay: SigningKey
    session_issuer: SigningKey | None = None
    """Signs session certificates for identities. ``None``: the file has none yet."""
    next: SigningKey | None = None
    """The bus key that follows, while a rotation is under way."""
    previous: tuple[PublicKey, ...] = ()
    """Bus keys of before, whose stamps still count. The oldest is the first."""
    links: tuple[bytes, ...] = ()
    """The sealed links from the bus's first key (or the oldest that is kept) to its newest one."""

    @classmethod
    def generate(cls) -> BusSecrets:
        """Make the keys of a new bus."""
        bus, issuer, relay = (SigningKey.generate(kind) for kind in _KINDS.values())
        return cls(bus, issuer, relay, SigningKey.generate(KeyKind.BOT))

    # ---- the file --------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write a new file, 0600 in a 0700 folder. Raises :class:`SecretsUnusable`, also if there
        is one."""
        _FILE.write(path, self._text())

    def rewrite(self, path: Path) -> None:
        """Replace the file as a whole. Raises :class:`SecretsUnusable`."""
        _FILE.replace(path, self._text())

    def with_session_issuer(self, path: Path, key: SigningKey) -> BusSecrets:
        """Return these keys with another session-issuer key, which is written into the file at
        ``path``. Raises :class:`SecretsUnusable`."""
        whole = replace(self, session_issuer=key)
        whole.rewrite(path)
        return whole

    def _text(self) -> str:
        seeds = dict(zip(_KINDS, (self.bus, self.issuer, self.relay), strict=True))
        if self.session_issuer is not None:
            seeds[_SESSION_ISSUER] = self.session_issuer
        if self.next is not None:
            seeds[_NEXT] = self.next
        text = (
            "# The private keys of this bus. Its reader can speak as its relay. Keep it secret.\n"
        )
        text += "".join(f'{name} = "{key.seed_text}"\n' for name, key in seeds.items())
        if self.previous:
            text += f"{_PREVIOUS} = {json.dumps([key.text for key in self.previous])}\n"
        if self.links:
            text += f"{_LINKS} = {link_list(self.links)}\n"
        return text

    @classmethod
    def load(cls, path: Path) -> BusSecrets:
        """Read the file. Raises :class:`SecretsUnusable` if it is missing, readable by others, or
        invalid."""
        content = _FILE.read(path)
        try:
            fields = tomllib.loads(decode_text(content))
            if not _KINDS.keys() <= fields.keys() <= {*_KINDS, *_MORE}:
                raise InvalidInput(
                    f"expected exactly {', '.join(_KINDS)}, and perhaps {', '.join(_MORE)}"
                )
            bus, issuer, relay = (
                SigningKey.parse(str(fields[name]), kind) for name, kind in _KINDS.items()
            )
            return cls(bus, issuer, relay, *_read_more(fields)).checked()
        except InvalidInput as error:
            raise SecretsUnusable(f"{path}: {error.what}", hint=error.hint) from None
        except Malformed as error:
            hint = "put back a copy of the file; `sealbus keys rotate-bus` wrote it"
            raise SecretsUnusable(f"{path}: {_LINKS}: {error.what}", hint=hint) from None
        except (
            ValueError,
            RecursionError,
        ):  # not TOML, a number too long or nesting too deep for Python
            raise SecretsUnusable(f"{path} is not TOML") from None

    def checked(self) -> BusSecrets:
        """These, if they belong together. Raises :class:`Malformed`."""
        chain = self.chain
        if chain:
            check_chain(chain, chain[0].bus)
        newest = self.bus if self.next is None else self.next
        if chain and chain[-1].new != newest.public.raw:
            raise Malformed("the last of its links leads to another bus key than the newest")
        if self.next is not None and (not chain or chain[-1].old != self.bus.public.raw):
            raise Malformed(f"{_NEXT} has no link from bus_seed")
        if not {key.raw for key in self.previous} <= {link.old for link in chain}:
            raise Malformed(f"{_PREVIOUS} names a key that no link leads on from")
        return self

    # ---- the bus key -----------------------------------------------------------------------------

    @property
    def chain(self) -> tuple[Link, ...]:
        """The links, taken apart."""
        return tuple([open_link(link) for link in self.links])

    @property
    def keyring(self) -> bytes | None:
        """The list for bots. ``None``: the bus has never had another key."""
        return pack_keyring(self.links) if self.links else None

    @property
    def publics(self) -> tuple[PublicKey, ...]:
        """The keys whose stamps count: those of before, the present one, and the next one."""
        newest = () if self.next is None else (self.next.public,)
        return (*self.previous, self.bus.public, *newest)

    @property
    def trusted(self) -> BusKeys:
        """The same, raw and with their ends."""
        return follow(self.chain, frozenset(key.raw for key in self.publics))

    def signing(self, now_ms: int) -> SigningKey:
        """The key that seals at ``now_ms`` (ms since 1970)."""
        is_due = self.next is not None and self.chain[-1].from_ms <= now_ms
        return self.next if is_due and self.next is not None else self.bus

    def rotated(
        self, bus: str, *, now_ms: int, from_ms: int, end_ms: int, kept_ms: int
    ) -> BusSecrets:
        """These with a next bus key, and the link to it.

        Args:
            bus: The bus's name.
            now_ms: The time (ms since 1970, as all others).
            from_ms: When relays begin to seal with it.
            end_ms: The end of the present one, and not before that of the one before it.
            kept_ms: How long after the end of a key there are messages that it has stamped.

        Raises:
            InvalidInput: A rotation is under way, or too many keys of before are still needed.
        """
        if self.next is not None:
            raise InvalidInput("another rotation of the bus key is under way", hint="finish it")
        ends = self.trusted
        previous = [key for key in self.previous if (end_of(ends, key.raw) or 0) + kept_ms > now_ms]
        if len(previous) >= MAX_PREVIOUS:
            until = (end_of(ends, previous[0].raw) or 0) + kept_ms
            hours = -(-(until - now_ms) // 3_600_000)
            raise InvalidInput(
                f"{len(previous)} bus keys of before still have messages in the streams; "
                f"expected fewer than {MAX_PREVIOUS}",
                hint=f"rotate again in {hours} hours, when the streams have forgotten the first",
            )
        key = SigningKey.generate(KeyKind.BUS)
        chain = self.chain
        number = chain[-1].number + 1 if chain else 1
        # An older key does not outlive a later one.
        end_ms = max(end_ms, chain[-1].end_ms) if chain else end_ms
        link = Link(bus, number, self.bus.public.raw, key.public.raw, from_ms, end_ms)
        # Without the oldest: a bot with so old a key needs new credentials.
        links = (*self.links, seal_link(self.bus, link))[-MAX_LINKS:]
        return replace(self, next=key, previous=tuple(previous), links=links).checked()

    def finished(self) -> BusSecrets:
        """These without the private half of the present bus key, which the next one follows."""
        if self.next is None:
            return self
        previous = (*self.previous, self.bus.public)
        return replace(self, bus=self.next, next=None, previous=previous)


def _read_more(
    fields: Mapping[str, Any],
) -> tuple[SigningKey | None, SigningKey | None, tuple[PublicKey, ...], tuple[bytes, ...]]:
    previous = fields.get(_PREVIOUS, [])
    if not isinstance(previous, list) or len(previous) > MAX_PREVIOUS:
        raise InvalidInput(f"{_PREVIOUS} is not a list of at most {MAX_PREVIOUS} bus keys")
    return (
        _seed(fields, _SESSION_ISSUER, KeyKind.BOT),
        _seed(fields, _NEXT, KeyKind.BUS),
        tuple([PublicKey.parse(str(key), KeyKind.BUS) for key in previous]),
        read_links(fields.get(_LINKS, [])),
    )


def _seed(fields: Mapping[str, Any], name: str, kind: KeyKind) -> SigningKey | None:
    given = fields.get(name)
    return None if given is None else SigningKey.parse(str(given), kind)
