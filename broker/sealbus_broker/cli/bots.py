"""``sealbus pub``, ``sub`` and ``request``: a bot by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sealbus import Bot, Message
from sealbus.errors import InvalidInput
from sealbus.outcomes import Refused, Unresolved
from sealbus_broker.cli.folder import bot_options, find_credentials
from sealbus_broker.printable import printable

IN_FLIGHT: Final = 512
"""Messages published at once: enough to be sealed in batches, few enough to keep order in memory."""

MAX_LINE_CHARS: Final = 1024 * 1024


@click.command()
@click.argument("subject")
@click.argument("payload", required=False)
@click.option("--file", "-f", "file", metavar="FILE", help="Publish each line of FILE (JSON Lines); - reads stdin.")
@click.option("--live", is_flag=True, help="The policy declares the subject as live.")
@click.option("--schema", metavar="NAME", help="Such as orders.placed.v1. [default: the subject's first]")
@click.option("--json", "as_json", is_flag=True, help="One object a message, with its verdict.")
@bot_options
def pub(
    subject: str,
    payload: str | None,
    file: str | None,
    live: bool,
    schema: str | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> int:
    """Publish on SUBJECT: the JSON document PAYLOAD, or each line of a file.

    Exit code 0 if all was accepted, 3 if something was refused, 1 if something is without verdict.
    """
    if (payload is None) == (file is None):
        raise click.UsageError("give either PAYLOAD or --file")
    speaker = Bot(find_credentials(folder, bot, credentials))
    if payload is not None:
        stamp = asyncio.run(_publish_one(speaker, subject, _parse(payload, "PAYLOAD"), live, schema))
        click.echo(json.dumps(stamp) if as_json else f"accepted {stamp['nonce']}")
        return 0
    assert file is not None
    counts = asyncio.run(_publish_file(speaker, subject, file, live, schema, as_json))
    click.echo(
        ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())) or "nothing to publish", err=True
    )
    if counts["unresolved"]:
        return 1
    return 3 if set(counts) - {"accepted"} else 0


async def _publish_one(bot: Bot, subject: str, payload: Any, live: bool, schema: str | None) -> dict[str, Any]:
    async with bot:
        stamp = await bot.publish(subject, payload, live=live, schema=schema)
    return {"subject": subject, "verdict": stamp.verdict.value, "nonce": stamp.nonce.hex(), "relay": stamp.relay}


async def _publish_file(
    bot: Bot, subject: str, file: str, live: bool, schema: str | None, as_json: bool
) -> Counter[str]:
    counts: Counter[str] = Counter()
    lines = list(_read_lines(file)) if file != "-" else None
    total = len(lines) if lines is not None else None
    window = asyncio.Semaphore(IN_FLIGHT)
    progress = Progress(
        TextColumn("publishing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )

    async def send(number: int, document: Any) -> None:
        row: dict[str, Any] = {"line": number}
        try:
            stamp = await bot.publish(subject, document, live=live, schema=schema)
            row |= {"verdict": stamp.verdict.value, "nonce": stamp.nonce.hex()}
        except Refused as error:
            row |= {"verdict": error.stamp.verdict.value, "reason": error.reason.value, "detail": error.detail}
            if not as_json:
                click.echo(f"line {number}: {error.what}", err=True)
        except Unresolved as error:
            row |= {"verdict": "unresolved", "nonce": error.nonce.hex()}
        except InvalidInput as error:
            row |= {"verdict": "invalid", "detail": error.what}
            click.echo(f"line {number}: {error.what}", err=True)
        finally:
            window.release()
        counts[row["verdict"]] += 1
        progress.advance(task)
        if as_json:
            click.echo(json.dumps(row))

    async with bot:
        with progress:
            task = progress.add_task("", total=total)
            async with asyncio.TaskGroup() as group:
                async for number, line in _lines(lines):
                    await window.acquire()
                    try:
                        document = _parse(line, f"line {number}")
                    except InvalidInput as error:
                        window.release()
                        counts["invalid"] += 1
                        click.echo(f"{error.what}", err=True)
                        continue
                    group.create_task(send(number, document))
    return counts


def _read_lines(file: str) -> Iterator[tuple[int, str]]:
    try:
        with Path(file).open(encoding="utf-8") as opened:
            yield from _numbered(opened)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{file} is not UTF-8 text", hint="JSON Lines is UTF-8, one document a line") from None


def _numbered(opened: TextIO) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(opened, 1):
        if line.strip():
            yield number, line


async def _lines(lines: list[tuple[int, str]] | None) -> AsyncIterator[tuple[int, str]]:
    if lines is not None:
        for item in lines:
            yield item
        return
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        number += 1
        if line.strip():
            yield number, line


def _parse(text: str, what: str) -> Any:
    if len(text) > MAX_LINE_CHARS:
        raise InvalidInput(f"{what} is longer than {MAX_LINE_CHARS} characters")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" at column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput(
            f"{what} is not JSON{place}", hint="""quote it for the shell: '{"text": "hello"}'"""
        ) from None


@click.command()
@click.argument("pattern")
@click.option("--live", is_flag=True, help="Listen to what passes by, instead of what is stored.")
@click.option("--durable", default="cli", show_default=True, metavar="NAME", help="The place that is remembered.")
@click.option(
    "--from",
    "start",
    type=click.Choice(["new", "all"]),
    default="new",
    show_default=True,
    help="Where a new place begins.",
)
@click.option("--count", "-n", type=click.IntRange(1), help="Stop after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="One object a message, with sender, subject and time.")
@bot_options
def sub(
    pattern: str,
    live: bool,
    durable: str,
    start: str,
    count: int | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """Print the messages that PATTERN stands for, until Ctrl-C. Each was verified before it is shown."""
    listener = Bot(find_credentials(folder, bot, credentials))

    async def listen() -> None:
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, me.cancel)
        left = count
        async with listener:
            click.echo(f"connected as {listener.name}, waiting for {pattern}", err=True)
            async for message in listener.messages(pattern, live=live, durable=durable, start=start):
                _show(message, as_json)
                left = None if left is None else left - 1
                if left == 0:
                    break

    # Being told to stop is how listening ends, not an error.
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(listen())


def _show(message: Message, as_json: bool) -> None:
    row = {
        "subject": message.subject,
        "bot": message.bot,
        "issued_at_ms": message.issued_at_ms,
        "nonce": message.nonce.hex(),
        "payload": message.payload,
    }
    # json.dumps escapes everything that could steer a terminal.
    click.echo(json.dumps(row) if as_json else f"{message.subject}  {message.bot}  {json.dumps(message.payload)}")


@click.command()
@click.argument("subject")
@click.argument("payload")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the answer.")
@click.option("--schema", metavar="NAME", help="Such as stock.check.v1. [default: the subject's first]")
@bot_options
def request(
    subject: str,
    payload: str,
    timeout: float,
    schema: str | None,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """Ask on the live subject SUBJECT and print the answer's payload."""
    asker = Bot(find_credentials(folder, bot, credentials))

    async def ask() -> Message:
        async with asker:
            return await asker.request(subject, _parse(payload, "PAYLOAD"), schema=schema, timeout=timeout)

    answer = asyncio.run(ask())
    click.echo(json.dumps(answer.payload))
    click.echo(f"answered by {printable(answer.bot)}", err=True)
