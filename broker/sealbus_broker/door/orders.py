"""The orders of the process that admits bots: where NATS is, with which keys, and who may come in.

They are one line of JSON on its standard input, which nobody else can read. Others can read a
command line and an environment. The bus key is not among them, so a fault at the door lets nobody
stamp a message. The session-issuer key is, so such a fault could certify session keys of bots with
identities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealbus.errors import InvalidInput, Malformed
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.gate.policy import BotKey, BotRule, Invitation, Limits, Policy

MAX_BYTES: Final = 64 * 1024 * 1024
"""The largest orders. A bot with some keys and grants has about 400 bytes, so these have more than
a hundred thousand bots."""

_LIMITS: Final = ("session_ms", "session_key_ms", "clock_skew_ms", "connections")
"""The limits that the door needs."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Everything that the door needs. Its ``repr()`` shows no seed."""

    servers: tuple[str, ...]
    """NATS URLs."""
    relay: str
    """The relay's name, for the log of nats-server."""
    login: SigningKey
    """The key of the relays' own login."""
    issuer: SigningKey
    """The key that signs sessions."""
    policy: Policy
    """It has only the bots, and the limits of sessions. The door judges no message."""
    tls: TlsFiles | None = None
    """The certificates of the relay's connections."""
    session_issuer: SigningKey | None = None
    """The key that certifies session keys in exchange for tokens. ``None``: there is none."""

    def encode(self) -> bytes:
        """Return one line, with its end."""
        limits = self.policy.limits
        bots = {
            name: {
                "keys": _key_rows(rule.keys),
                "seals_directly": rule.seals_directly,
                "subscribe": list(rule.subscribe),
                "certificate_names": list(rule.certificate_names),
                "invitations": [
                    [one.raw.hex(), one.not_before_ms, one.not_after_ms]
                    for one in rule.invitations.values()
                ],
                "identities": [
                    [one.provider.name, one.subject, one.claims] for one in rule.identities
                ],
            }
            for name, rule in self.policy.bots.items()
        }
        providers = {
            one.provider.name: one.provider
            for rule in self.policy.bots.values()
            for one in rule.identities
        }
        fields = {
            "servers": list(self.servers),
            "tls": None if self.tls is None else [str(one) for one in self._tls_files()],
            "relay": self.relay,
            "login": self.login.seed_text,
            "issuer": self.issuer.seed_text,
            "bus": self.policy.bus,
            "digest": self.policy.digest.hex(),
            "limits": {name: getattr(limits, name) for name in _LIMITS},
            "session_issuer": self.session_issuer and self.session_issuer.seed_text,
            "session_issuers": _key_rows(self.policy.session_issuers),
            "providers": [
                [one.name, one.issuer, one.audience, one.algorithm, one.ca, one.token_life_ms]
                for one in providers.values()
            ],
            "bots": bots,
        }
        return json.dumps(fields).encode() + b"\n"

    def _tls_files(self) -> tuple[Path, ...]:
        tls = self.tls
        return () if tls is None else tuple(one for one in (tls.ca, tls.cert, tls.key) if one)

    @classmethod
    def decode(cls, line: bytes) -> Orders:
        """Read one line. Raises :class:`Malformed`, whose text has nothing of the line."""
        try:
            fields = json.loads(line)
            providers = {row[0]: Provider(*row) for row in fields["providers"]}
            bots = {
                name: BotRule(
                    name,
                    _read_keys(bot["keys"]),
                    subscribe=tuple(bot["subscribe"]),
                    seals_directly=bot["seals_directly"],
                    certificate_names=tuple(bot["certificate_names"]),
                    invitations={
                        bytes.fromhex(raw): Invitation(bytes.fromhex(raw), *times)
                        for raw, *times in bot["invitations"]
                    },
                    identities=tuple(
                        Identity(providers[name], subject, tuple(map(tuple, claims)))
                        for name, subject, claims in bot["identities"]
                    ),
                )
                for name, bot in fields["bots"].items()
            }
            limits = Limits(**{name: fields["limits"][name] for name in _LIMITS})
            return cls(
                tuple(fields["servers"]),
                fields["relay"],
                SigningKey.parse(fields["login"], KeyKind.BOT),
                SigningKey.parse(fields["issuer"], KeyKind.ISSUER),
                Policy(
                    fields["bus"],
                    bytes.fromhex(fields["digest"]),
                    frozenset(),
                    bots,
                    (),
                    limits,
                    session_issuers=_read_keys(fields["session_issuers"]),
                ),
                None if fields["tls"] is None else TlsFiles(*map(Path, fields["tls"])),
                None
                if fields["session_issuer"] is None
                else SigningKey.parse(fields["session_issuer"], KeyKind.BOT),
            )
        except (ValueError, KeyError, TypeError, AttributeError, InvalidInput, RecursionError):
            raise Malformed("not the orders of a relay") from None


def _key_rows(keys: Mapping[bytes, BotKey]) -> list[list[str | int | None]]:
    return [
        [
            key.raw.hex(),
            key.not_before_ms,
            key.not_after_ms,
            key.revoked_ms,
            key.sessions_from_ms,
        ]
        for key in keys.values()
    ]


def _read_keys(rows: list[Any]) -> dict[bytes, BotKey]:
    return {bytes.fromhex(raw): BotKey(bytes.fromhex(raw), *times) for raw, *times in rows}
