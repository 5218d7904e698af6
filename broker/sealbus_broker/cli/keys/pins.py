"""``sealbus keys pins``: the table ``[senders]`` for the credentials of a bot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.subjects import overlap
from sealbus_broker.cli.keys.files import check_declared
from sealbus_broker.cli.shared.bus_options import dir_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.gate.policy import BotRule, Policy


@click.command()
@click.argument("bot")
@dir_option
def pins(bot: str, folder: str | None) -> None:
    """Print the keys of all bots that BOT may hear, as the table [senders] of its credentials.

    With this table, BOT verifies the seal of each sender itself. It then believes nothing in the
    name of these bots that they have not sealed, also if somebody steals the bus key. Keys that are
    not valid yet are in the table, and keys that have ended are not. Append it to the credentials
    file, or put it in place of the old table. A pin follows its sender through `sealbus keys
    rotate`. Print the table again after a key that has no link (`sealbus keys show`), and after a
    key was revoked.
    """
    bus = BusFolder.find(folder)
    check_declared(bus, bot)
    policy = bus.policy()
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    lines = []
    for sender in _heard(policy, policy.bots[bot]):
        keys = [
            PublicKey(raw, KeyKind.BOT).text
            for raw, key in sender.keys.items()
            if key.ends_ms > now_ms
        ]
        if keys:
            lines.append(f"{sender.name} = {json.dumps(sorted(keys))}")
    if not lines:
        raise Unusable(
            f"{bot} may hear no bot that has a key",
            hint="give it a `subscribe` grant in policy.yaml, or make keys for its senders:"
            " `sealbus check` names the bots without a valid key",
        )
    click.echo(f"\n# Whose seals {bot} verifies itself: `sealbus keys pins {bot}` makes this.")
    click.echo("\n".join(["[senders]", *lines]))


def _heard(policy: Policy, bot: BotRule) -> Iterator[BotRule]:
    """The other bots that may send to ``bot``: messages on a subject that it may receive, or
    answers to its requests."""
    asks = [
        rule.pattern
        for rule in policy.subjects
        if rule.reply is not None and _meet(bot.publish, [rule.pattern])
    ]
    for other in policy.bots.values():
        answers = _meet(other.subscribe, asks)
        if other.name != bot.name and (_meet(other.publish, bot.subscribe) or answers):
            yield other


def _meet(some: tuple[str, ...], others: tuple[str, ...] | list[str]) -> bool:
    return any(overlap(one, other) for one in some for other in others)
