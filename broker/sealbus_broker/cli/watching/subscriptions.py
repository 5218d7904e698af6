"""``sealbus subscriptions``: the durable subscriptions of a bus, for an operator.

A durable subscription remains after its bot is gone, with its place in the stream. The bus has room
for a number of them, and so has each bot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from sealbus import Bot, NoReply, Unresolved
from sealbus.own import SUBSCRIPTIONS_LIST, SUBSCRIPTIONS_REMOVE
from sealbus.protocol.subjects import check_name, consumer_owner
from sealbus_broker.cli.shared.bus_options import find_credentials
from sealbus_broker.cli.shared.errors import AnsweredNo, CommandStopped
from sealbus_broker.cli.shared.operator import (
    ANSWER_S,
    OPERATOR,
    PAGE,
    ask,
    operator_options,
    table,
)
from sealbus_broker.cli.shared.question import confirm
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, connected, run
from sealbus_broker.escape import json_line, readable

HEAD: Final = (
    "consumer",
    "bot",
    "pattern",
    "durable",
    "waiting",
    "in hand",
    "listening",
    "last delivery (UTC)",
)


@click.group()
def subscriptions() -> None:
    """List and remove durable subscriptions. Asks over the bus, as an operator's bot.

    The bot is `operator` by default.
    """


@subscriptions.command("ls")
@click.option("--of", "owner", metavar="BOT", help="Show only the subscriptions of BOT.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a subscription, one a line."
)
@operator_options
def ls(
    owner: str | None,
    timeout: float | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """List the durable subscriptions: bot, pattern, waiting messages, and whether a bot listens.

    The last delivery is "-" if nothing was delivered since nats-server started.
    """
    if owner is not None:
        check_name(owner)
    operator = Bot(find_credentials(folder, bot, credentials, OPERATOR))

    async def read(_: Stop) -> list[dict[str, Any]]:
        async with connected(operator, timeout or CONNECT_S):
            return [row async for row in _rows(operator, owner, timeout or ANSWER_S)]

    rows = run(read)
    if as_json:
        for row in rows:
            click.echo(json_line(row))
        return
    for line in table(HEAD, [_columns(row) for row in rows]):
        click.echo(line)
    click.echo(
        f"{len(rows)} durable subscriptions" if rows else "there are no durable subscriptions",
        err=True,
    )


@subscriptions.command("rm")
@click.argument("consumer")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show the subscription, and remove nothing.")
@operator_options
def rm(
    consumer: str,
    yes: bool,
    dry_run: bool,
    timeout: float | None,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """Remove the durable subscription CONSUMER, with its place in the stream.

    `sealbus subscriptions ls` shows the name. A bot that still listens makes the subscription
    again. It then begins with new messages, or with all stored ones, as the bot says.
    """
    operator = Bot(find_credentials(folder, bot, credentials, OPERATOR))
    answer_s = timeout or ANSWER_S

    async def find(_: Stop) -> dict[str, Any]:
        async with connected(operator, timeout or CONNECT_S):
            async for row in _rows(operator, consumer_owner(consumer), answer_s):
                if row["consumer"] == consumer:
                    return row
        raise AnsweredNo(
            f"there is no durable subscription {consumer}",
            hint="`sealbus subscriptions ls` lists them",
        )

    async def remove(_: Stop) -> None:
        again = Bot(find_credentials(folder, bot, credentials, OPERATOR))
        async with connected(again, timeout or CONNECT_S):
            await ask(again, SUBSCRIPTIONS_REMOVE, {"consumer": consumer}, answer_s)

    row = run(find)
    place = f"{readable(row['durable'])} of {readable(row['bot'])} to {readable(row['pattern'])}"
    waiting = row["waiting"] + row["in_hand"]
    listening = "; a bot listens, and would make it again" if row["listening"] else ""
    click.echo(f"the subscription {place}, with {waiting} messages to deliver{listening}", err=True)
    if dry_run:
        return
    confirm("Remove it?", yes=yes)
    try:
        run(remove)
    except (NoReply, Unresolved, CommandStopped):
        click.echo(f"{consumer} may be removed, or not: `sealbus subscriptions ls` tells", err=True)
        raise
    click.echo(f"removed {consumer}", err=True)


async def _rows(
    operator: Bot, owner: str | None, timeout_s: float
) -> AsyncIterator[dict[str, Any]]:
    offset: int | None = 0
    while offset is not None:
        wanted = {"offset": offset, "limit": PAGE} | ({"bot": owner} if owner else {})
        page = await ask(operator, SUBSCRIPTIONS_LIST, wanted, timeout_s)
        for row in page["subscriptions"]:
            yield row
        offset = page["next"]


def _columns(row: dict[str, Any]) -> tuple[str, ...]:
    names = [readable(str(row[name])) for name in ("consumer", "bot", "pattern", "durable")]
    at = row["delivered_ms"]
    when = (
        "-" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    )
    return (
        *names,
        f"{row['waiting']}",
        f"{row['in_hand']}",
        "yes" if row["listening"] else "no",
        when,
    )
