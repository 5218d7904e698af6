"""``sealbus keys sessions``: who is on the bus now, from where, with which key and certificate,
until when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.operator import table
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, run
from sealbus_broker.escape import json_line, readable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.connections import Listing, LiveSession, list_sessions
from sealbus_broker.policy.problems import nearest

HEAD: Final = (
    "bot",
    "from",
    "since (UTC)",
    "until (UTC)",
    "sent",
    "received",
    "node",
    "key",
    "certificate",
)


SHOWN: Final = 200
"""How many characters of a column are shown. A subject may be long."""


@click.command()
@click.argument("bot", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a session, one a line."
)
@server_option
@dir_option
def sessions(bot: str | None, as_json: bool, servers: tuple[str, ...], folder: str | None) -> None:
    """Show the sessions of BOT, or of all bots: from where, with which key and certificate, since
    and until when.

    "until" is the time at which the session ends by the policy of this folder, if the bot does not
    renew it. It ends earlier if its TLS certificate does. "sent" and
    "received" count NATS messages of this session. "node" is the name of its nats-server. "key" is
    the bot's enrolled key. "certificate" is the subject of the TLS certificate that nats-server has
    verified, or "-" without one. With --json you also see its SHA-256, the session key, and until
    when that is certified. `sealbus keys revoke` ends the sessions of a key, and `sealbus keys
    void` those of all session keys of a bot.
    """
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    policy = bus.policy()

    async def ask(_: Stop) -> Listing:
        tls = bus.tls(servers)
        async with as_relay(bus.servers(servers), secrets, "sealbus keys", CONNECT_S, tls) as nc:
            return await list_sessions(nc, certificates=True)

    listing = run(ask)
    if listing.unheard:
        nodes = ", ".join(readable(name, 80) for name in listing.unheard)
        click.echo(f"note: no answer from {nodes}, whose sessions are not shown", err=True)
    rows = [
        _row(one, listing.nodes[one.node].name, policy)
        for one in listing.sessions
        if bot in (None, one.bot)
    ]
    rows.sort(key=lambda row: (row["bot"], row["since"]))
    if as_json:
        for row in rows:
            click.echo(json_line(row))
        return
    for line in table(HEAD, [_columns(row) for row in rows]):
        click.echo(line)
    if not rows and bot is not None and bot not in policy.bots:
        raise Unusable(
            f"policy.yaml declares no bot {readable(bot, 80)}", hint=nearest(bot, policy.bots)
        )
    count = "1 session" if len(rows) == 1 else f"{len(rows)} sessions"
    click.echo(count if rows else "there are no sessions", err=True)


def _row(session: LiveSession, node: str, policy: Policy) -> dict[str, Any]:
    told = session.told
    certified = _certified_until_ms(session, policy)
    certificate = _certificate(session)
    return {
        "bot": session.bot,
        "key": session.key,
        "session_key": session.certified.key if session.certified else None,
        "certified_until": None if certified is None else _text(certified),
        "certificate": certificate.get("subject"),
        "certificate_sha256": certificate.get("cert_sha256"),
        "from": f"{told.get('ip', '')}:{told.get('port', '')}",
        "since": _text(session.began_us // 1000),
        "until": _text(_until_ms(session, policy)),
        "sent": told.get("in_msgs", 0),
        "received": told.get("out_msgs", 0),
        "client": f"{told.get('lang', '')} {told.get('version', '')}".strip(),
        "node": node,
        "connection": session.number,
    }


def _until_ms(session: LiveSession, policy: Policy) -> int:
    """When the session ends, by the policy of the folder."""
    ends = session.began_us // 1000 + policy.limits.session_ms
    keys = policy.bots[session.bot].keys.values() if session.bot in policy.bots else ()
    own = [key for key in keys if PublicKey(key.raw, KeyKind.BOT).text == session.key]
    certified = _certified_until_ms(session, policy)
    key_ends = [key.ends_for(policy.limits.clock_skew_ms) for key in own]
    return min([ends, *key_ends, *([] if certified is None else [certified])])


def _certified_until_ms(session: LiveSession, policy: Policy) -> int | None:
    """When its session key ends, by the policy of the folder. ``None``: it has none."""
    told = session.certified
    if told is None:
        return None
    return told.not_before_ms + min(told.life_ms, policy.limits.session_key_ms)


def _certificate(session: LiveSession) -> dict[str, Any]:
    """What nats-server tells of the session's TLS certificate: its subject, and its SHA-256.

    nats-server tells only of certificates that it has verified: it asks for no others (2.15.1). It
    does not tell the names in them.
    """
    told = session.told.get("tls_peer_certs")
    # The first is the client's own.
    first = told[0] if isinstance(told, list) and told else None
    return first if isinstance(first, dict) else {}


def _columns(row: dict[str, Any]) -> list[str]:
    names = ("bot", "from", "since", "until", "sent", "received", "node", "key", "certificate")
    return [readable("-" if row[name] is None else str(row[name]), SHOWN) for name in names]


def _text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
