"""The keys that a reader knows: those of a bus's folder, and those of the command line.

A signature that holds says only that somebody made it. The owner of the key counts. A key that
comes with the bytes proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import RELAY
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.policy.loader import load


@dataclass(frozen=True, slots=True)
class Anchors:
    """The known raw public keys: those of the bus, and those of each bot with the bot's name.

    ``None`` in place of a name means that the command line gave the key, without a bot.
    """

    bus: str | None
    """The bus of the folder, if there is a folder."""
    bus_keys: frozenset[bytes]
    bots: Mapping[bytes, str | None]
    revoked: frozenset[bytes]

    @classmethod
    def gather(
        cls, folder: str | None, bot_keys: Iterable[str], bus_keys: Iterable[str]
    ) -> Anchors:
        """The keys of ``folder``, or of the bus that is found here, and the given ones.

        Raises :class:`InvalidInput` if a given text is not a key.
        """
        bus_raw = {PublicKey.parse(text, KeyKind.BUS).raw for text in bus_keys}
        bots: dict[bytes, str | None] = {
            PublicKey.parse(text, KeyKind.BOT).raw: None for text in bot_keys
        }
        try:
            found = BusFolder.find(folder)
        except Unusable:
            if folder is not None:
                raise
            return cls(None, frozenset(bus_raw), bots, frozenset())
        facts = found.bus_file()
        if facts is not None:
            # Those of before too, because an old stamp is looked at as well.
            bus_raw |= {key.raw for key in facts.bus_keys} | {link.old for link in facts.chain}
        policy = load(found.path).policy
        if policy is None:
            click.echo(
                f"note: {found.path} does not load, so its keys are not known; `sealbus "
                "check` says why",
                err=True,
            )
            return cls(facts.name if facts else None, frozenset(bus_raw), bots, frozenset())
        now_ms = datetime.now(UTC).timestamp() * 1000
        keys = [(bot.name, key) for bot in policy.bots.values() for key in bot.keys.values()]
        bots |= {key.raw: name for name, key in keys}
        revoked = frozenset(
            key.raw for _, key in keys if key.revoked_ms is not None and key.revoked_ms <= now_ms
        )
        return cls(policy.bus, frozenset(bus_raw), bots, revoked)

    def of_bot(self, key: bytes, bot: str) -> list[str]:
        """The objections to ``key`` as the seal of an envelope of ``bot``.

        Empty if the key counts.
        """
        if bot == RELAY and key in self.bus_keys:
            return []
        if key not in self.bots:
            return ["unknown-key: this key is not among the given keys, so the sealer is unknown"]
        if (owner := self.bots[key]) is not None and owner != bot:
            return [f"unknown-key: sealed by {owner}, says it is {bot}"]
        return ["key-revoked: the key is revoked"] if key in self.revoked else []

    def of_bus(self, key: bytes) -> list[str]:
        """The objections to ``key`` as the seal of a stamp. Empty if the key counts."""
        if key in self.bus_keys:
            return []
        return ["unknown-key: not sealed with a given bus key, so anybody may have made it"]

    def of_name(self, bus: str) -> list[str]:
        """The objections to ``bus`` as the bus of an item. Empty if it is the right one."""
        if self.bus is None or bus == self.bus:
            return []
        return [f"wrong-bus: it belongs to the bus {bus}, not to {self.bus}"]
