"""``sealbus quarantine``: what was refused and kept, as an operator sees it. Its bytes are hostile: nothing is shown raw."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from sealbus import Bot, Reason
from sealbus.errors import InvalidInput
from sealbus_broker.cli.folder import bot_options, find_credentials
from sealbus_broker.printable import printable

LIST: Final = "sealbus.quarantine.list"
SHOW: Final = "sealbus.quarantine.show"
OPERATOR: Final = "operator"


@click.group()
def quarantine() -> None:
    """Look at what was refused and kept. Asks over the bus, as an operator's bot (by default `operator`)."""


@quarantine.command("ls")
@click.option("--reason", type=click.Choice([reason.value for reason in Reason]), help="Only with this reason.")
@click.option("--bot", "session", metavar="BOT", help="Only what BOT's session sent.")
@click.option("--subject", metavar="SUBJECT", help="Only what names this subject.")
@click.option("--limit", "-n", default=50, show_default=True, type=click.IntRange(1, 100_000), help="Newest so many.")
@click.option("--json", "as_json", is_flag=True, help="One object a record, a line each.")
@bot_options
def ls(
    reason: str | None,
    session: str | None,
    subject: str | None,
    limit: int,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """List the newest records: when, from whom, on what, why."""
    operator = Bot(find_credentials(folder, bot, credentials, OPERATOR))
    wanted = {"reason": reason, "bot": session, "subject": subject}
    ask = {name: value for name, value in wanted.items() if value is not None}

    async def run() -> tuple[list[dict[str, Any]], int]:
        async with operator:
            records = [record async for record in _pages(operator, ask, limit)]
            total = (await _ask(operator, LIST, {**ask, "limit": 1}))["total"]
        return records, total

    records, total = asyncio.run(run())
    if as_json:
        for record in records:
            click.echo(json.dumps(record))
        return
    table = Table(
        "sequence", "when (UTC)", "session", "claims", "proven", "subject", "reason", "bytes", box=None, pad_edge=False
    )
    for row in records:
        when = datetime.fromtimestamp(row["judged_at_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        proven = "yes" if row["proven"] else "no"
        texts = [
            str(row["sequence"]),
            when,
            row["session"],
            row["claimed"] or "-",
            proven,
            row["subject"] or "-",
            row["reason"],
        ]
        table.add_row(*(printable(text, 60) for text in texts), str(row["size"]))
    console = Console(width=None if sys.stdout.isatty() else 160)
    if records:
        console.print(table)
    click.echo(f"{len(records)} of {total} shown" if records else "the quarantine holds nothing that matches", err=True)


async def _pages(operator: Bot, ask: dict[str, Any], limit: int) -> AsyncIterator[dict[str, Any]]:
    before: int | None = None
    while limit > 0:
        page = await _ask(operator, LIST, {**ask, "limit": min(limit, 200), **({"before": before} if before else {})})
        for record in page["records"]:
            yield record
        limit -= len(page["records"])
        before = page["next"]
        if before is None:
            return


@quarantine.command("show")
@click.argument("sequence", type=click.IntRange(1))
@click.option("--out", metavar="FILE", help="Write the raw bytes to a new FILE, for `sealbus inspect`.")
@click.option("--json", "as_json", is_flag=True, help="One object; the bytes in base64.")
@bot_options
def show(
    sequence: int, out: str | None, as_json: bool, folder: str | None, credentials: str | None, bot: str | None
) -> None:
    """Show one record and its bytes, as a hex dump."""
    operator = Bot(find_credentials(folder, bot, credentials, OPERATOR))
    record, data = asyncio.run(_fetch(operator, sequence))
    if out is not None:
        try:
            with Path(out).open("xb") as file:
                file.write(data)
        except OSError as error:
            raise InvalidInput(f"{out} cannot be written: {error.strerror}", hint="it must not exist yet") from None
    if as_json:
        click.echo(json.dumps({**record, "data": base64.b64encode(data).decode()}))
        return
    for name, value in record.items():
        # json.dumps escapes everything that could steer a terminal.
        click.echo(f"{name:<16}{value if isinstance(value, int) else json.dumps(value)}")
    click.echo()
    _dump(data)


async def _fetch(operator: Bot, sequence: int) -> tuple[dict[str, Any], bytes]:
    data, record = b"", {}
    async with operator:
        while True:
            part = await _ask(operator, SHOW, {"sequence": sequence, "offset": len(data)})
            record = part["record"]
            chunk = base64.b64decode(part["data"])
            data += chunk
            if not chunk or len(data) >= part["size"]:
                return record, data


async def _ask(operator: Bot, subject: str, payload: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await operator.request(subject, payload)).payload
    if "error" in answer:
        raise InvalidInput(printable(str(answer["error"]), 200))
    return answer


_DUMPED: Final = 1024


def _dump(data: bytes) -> None:
    for at in range(0, min(len(data), _DUMPED), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        click.echo(f"{at:08x}  {row.hex(' '):<47}  {text}")
    if len(data) > _DUMPED:
        click.echo(f"… {len(data) - _DUMPED} more bytes: --out FILE writes them all")
