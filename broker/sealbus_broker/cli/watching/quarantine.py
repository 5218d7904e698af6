"""``sealbus quarantine``: refused messages that were kept, for an operator.

Their bytes are hostile: nothing is shown raw.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from sealbus import Bot
from sealbus.errors import InvalidInput, Malformed
from sealbus.own import QUARANTINE_LIST, QUARANTINE_SHOW, RECORD_REASONS
from sealbus.protocol.codec import unpack_json
from sealbus.protocol.envelope import Envelope
from sealbus.protocol.limits import MAX_INTEGER
from sealbus.protocol.subjects import check_name, check_subject
from sealbus_broker.cli.shared.bus_options import find_credentials
from sealbus_broker.cli.shared.errors import InputFailed
from sealbus_broker.cli.shared.files import write_new
from sealbus_broker.cli.shared.operator import (
    ANSWER_S,
    OPERATOR,
    PAGE,
    ask,
    operator_options,
    table,
)
from sealbus_broker.cli.shared.options import DIGITS, WholeNumber
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, connected, run
from sealbus_broker.escape import json_line, readable, readable_json, reshown
from sealbus_broker.nats.config import MAX_PAYLOAD_BYTES

DUMPED: Final = 1024
"""Bytes that a hex dump shows. --out writes all."""


@click.group()
def quarantine() -> None:
    """Show the messages that were refused and kept. Asks over the bus, as an operator's bot.

    The bot is `operator` by default.
    """


@quarantine.command("ls")
@click.option(
    "--reason", type=click.Choice(RECORD_REASONS), help="Show only records with this reason."
)
@click.option("--bot", "session", metavar="BOT", help="Show only messages from BOT's session.")
@click.option("--subject", metavar="SUBJECT", help="Show only messages that name this subject.")
@click.option(
    "--limit",
    "-n",
    default=50,
    show_default=True,
    type=WholeNumber(1, 100_000),
    metavar="N",
    help="Show the newest N records.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a record, one a line.")
@operator_options
def ls(
    reason: str | None,
    session: str | None,
    subject: str | None,
    limit: int,
    timeout: float | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """List the newest records: time, sender, reason, size and subject.

    Each record has a line. A second line has the detail, and the name that the bytes claim, where
    these exist.
    """
    if session is not None:
        check_name(session)
    if subject is not None:
        check_subject(subject)
    operator = Bot(find_credentials(folder, bot, credentials, OPERATOR))
    wanted = {"reason": reason, "bot": session, "subject": subject}
    filters = {name: value for name, value in wanted.items() if value is not None}

    async def read(_: Stop) -> tuple[list[dict[str, Any]], int]:
        async with connected(operator, timeout or CONNECT_S):
            records = [
                record async for record in _pages(operator, filters, limit, timeout or ANSWER_S)
            ]
            total = (
                await ask(operator, QUARANTINE_LIST, {**filters, "limit": 1}, timeout or ANSWER_S)
            )["total"]
        return records, total

    records, total = run(read)
    if as_json:
        for record in records:
            click.echo(json_line(record))
        return
    for line in table(
        HEAD, [_columns(record) for record in records], [_remark(record) for record in records]
    ):
        click.echo(line)
    # The service counts the records of the reason and the bot. It looks for the subject only in the
    # records that it reads.
    of = "" if subject else f" of {total}"
    click.echo(
        f"{len(records)}{of} shown" if records else "the quarantine holds nothing that matches",
        err=True,
    )


async def _pages(
    operator: Bot, filters: dict[str, Any], limit: int, timeout_s: float
) -> AsyncIterator[dict[str, Any]]:
    before: int | None = None
    while limit > 0:
        more = {"before": before} if before else {}
        page = await ask(
            operator, QUARANTINE_LIST, {**filters, "limit": min(limit, PAGE), **more}, timeout_s
        )
        for record in page["records"]:
            yield record
        limit -= len(page["records"])
        before = page["next"]
        if before is None:
            return


HEAD: Final = ("record", "when (UTC)", "session", "reason", "bytes", "subject")


def _columns(record: dict[str, Any]) -> tuple[str, ...]:
    session, reason, subject = (
        readable(str(record[name] or "-")) for name in ("session", "reason", "subject")
    )
    return (
        f"{record['sequence']}",
        _time(record["judged_at_ms"]),
        session,
        reason,
        f"{record['size']}",
        subject,
    )


def _remark(record: dict[str, Any]) -> str:
    """The detail, the name that the bytes claim if it is another one, and whether the seal held."""
    parts = [reshown(line) for line in (record["detail"] or "").split("\n") if line]
    if record["claimed"] and record["claimed"] != record["session"]:
        parts.append(f"says it is {readable(record['claimed'])}")
    if record["proven"] is None:
        parts.append("no seal of this bot")
    return "; ".join(parts)


@quarantine.command("show")
@click.argument("record_number", metavar="RECORD")
@click.option(
    "--out",
    metavar="FILE",
    help="Write the raw bytes to a new FILE (mode 0600), for `sealbus inspect`.",
)
@click.option("--hex", "as_hex", is_flag=True, help="Show the bytes as a hex dump too.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object, with the bytes in base64, and the readable payloads.",
)
@operator_options
def show(
    record_number: str,
    out: str | None,
    as_hex: bool,
    timeout: float | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """Show one record of the quarantine, with all known facts and its payloads.

    A record has the messages of one envelope that were refused for the same reason. Bytes that are
    not an envelope are shown as a hex dump. The exit code is 3 if the record does not exist.
    """
    sequence = _sequence(record_number)
    operator = Bot(find_credentials(folder, bot, credentials, OPERATOR))

    async def fetch(_: Stop) -> tuple[dict[str, Any], bytes]:
        async with connected(operator, timeout or CONNECT_S):
            return await _fetch(operator, sequence, timeout or ANSWER_S)

    record, data = run(fetch)
    if out is not None:
        write_new(Path(out), data)
    messages, unreadable = _messages(data)
    if as_json:
        told = {
            "messages": messages,
            "unreadable": unreadable,
            "data": base64.b64encode(data).decode(),
        }
        click.echo(json_line({**record, **told}))
        return
    for name, value in record.items():
        click.echo(_field(name, value))
    if unreadable is not None:
        click.echo(f"{'payload':<16}cannot be read: {readable(unreadable)}")
    for message in messages:
        name = f"payload {message['index']}"
        if message["error"] is None:
            click.echo(f"{name:<16}{readable_json(message['payload'])}")
        else:
            click.echo(f"{name:<16}cannot be read: {readable(message['error'])}")
    if as_hex or unreadable is not None or any(message["error"] for message in messages):
        click.echo()
        _dump(data)


def _messages(data: bytes) -> tuple[list[dict[str, Any]], str | None]:
    """Index and payload of each message that ``data`` shows, or why it is no envelope."""
    try:
        shown = Envelope.decode_shown(data).payloads
    except Malformed as error:
        return [], error.what
    messages: list[dict[str, Any]] = []
    for index, payload in enumerate(shown):
        if payload is None:
            continue
        try:
            message = {"index": index, "payload": unpack_json(payload), "error": None}
        except Malformed as error:
            message = {"index": index, "payload": None, "error": error.what}
        messages.append(message)
    return messages, None


def _sequence(text: str) -> int:
    if DIGITS.fullmatch(text) and 0 < (number := int(text)) <= MAX_INTEGER:
        return number
    raise InvalidInput(
        f"RECORD: got {readable(text, 80)}, expected a number from 1 to {MAX_INTEGER:,}",
        hint="`sealbus quarantine ls` shows the numbers in its first column",
    )


def _field(name: str, value: Any) -> str:
    """One line of a record. A time loses the unit from its name, and is written for people."""
    if name.endswith("_at_ms") and isinstance(value, int):
        return f"{name.removesuffix('_ms'):<16}{_time(value)}Z"
    if name == "detail" and value is not None:
        first, *more = (reshown(line) for line in value.split("\n"))
        return "\n".join([f"{name:<16}{first}", *(f"{'':<16}{line}" for line in more)])
    return f"{name:<16}{'-' if value is None else readable(str(value))}"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


async def _fetch(operator: Bot, sequence: int, timeout_s: float) -> tuple[dict[str, Any], bytes]:
    data = b""
    record = {}
    while True:
        part = await ask(
            operator, QUARANTINE_SHOW, {"sequence": sequence, "offset": len(data)}, timeout_s
        )
        record = part["record"]
        if part["size"] > MAX_PAYLOAD_BYTES:
            raise InputFailed(
                f"the relay says that record {sequence} has {part['size']} bytes, and no message of"
                f" NATS has more than {MAX_PAYLOAD_BYTES}",
                hint="has this relay another version than this command?",
            )
        chunk = base64.b64decode(part["data"])
        data += chunk
        if not chunk or len(data) >= part["size"]:
            return record, data


def _dump(data: bytes) -> None:
    for at in range(0, min(len(data), DUMPED), 16):
        row = data[at : at + 16]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        click.echo(f"{at:08x}  {row.hex(' '):<47}  {text}")
    if len(data) > DUMPED:
        click.echo(f"… {len(data) - DUMPED} more bytes: --out FILE writes them all")
