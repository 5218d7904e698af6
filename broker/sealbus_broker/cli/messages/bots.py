"""``sealbus pub``, ``sub`` and ``request``: a bot by hand."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from typing import Any, Final

import click

from sealbus import Bot, Message
from sealbus.errors import ConnectionFailed, InvalidInput
from sealbus.protocol.subjects import check_pattern, check_subject
from sealbus_broker.cli.messages.bulk import MAX_NAMED, Bulk, Sending, told
from sealbus_broker.cli.messages.json_lines import Lines, parse_json
from sealbus_broker.cli.shared import output
from sealbus_broker.cli.shared.bus_options import bot_options, find_credentials
from sealbus_broker.cli.shared.errors import CommandStopped, OutputFailed, TooFew, exit_code
from sealbus_broker.cli.shared.options import WholeNumber, seconds
from sealbus_broker.cli.shared.options import nonce as as_nonce
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, connected, run
from sealbus_broker.cli.shared.talk import say_error
from sealbus_broker.escape import json_line, readable, readable_json

VERDICT_S: Final = 30.0
"""How long to wait for a verdict by default, as the library does."""

FORGET_S: Final = 300
"""How long the bus keeps a place without a name after the last request for its messages.

A relay or a network that restarts is away for a shorter time. And a bot that listens now and then
does not run out of places.
"""

ANSWER_S: Final = 5.0


@click.command()
@click.argument("subject")
@click.argument("payload", required=False)
@click.option(
    "--file",
    "-f",
    "file",
    metavar="FILE",
    help="Publish each line of FILE (JSON Lines). - reads stdin.",
)
@click.option(
    "--from-line",
    type=WholeNumber(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Begin at line N of --file.",
)
@click.option(
    "--live",
    is_flag=True,
    help="The subject is live. Not needed, because the bus says which subjects are live.",
)
@click.option(
    "--schema",
    metavar="NAME",
    help="Schema of the payload, such as orders.placed.v1. [default: the subject's first]",
)
@click.option(
    "--nonce",
    type=as_nonce,
    metavar="HEX",
    help="Nonce of an earlier attempt without verdict: send it again, or learn its verdict.",
)
@click.option(
    "--timeout",
    type=seconds,
    metavar="SECONDS",
    help="Longest wait for the bus, and for each verdict. [default: 10 and 30]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a message, with its verdict."
)
@bot_options
def pub(
    subject: str,
    payload: str | None,
    file: str | None,
    from_line: int,
    live: bool,
    schema: str | None,
    nonce: bytes | None,
    timeout: float | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> int:
    """Publish on SUBJECT the JSON document PAYLOAD, or each line of a file.

    The exit code is 0 if every message was accepted, 3 if one was refused, and 1 if one has no
    verdict. An invalid PAYLOAD gives 2, and an invalid line of a file gives 3. A message without
    verdict may have been accepted. Publish PAYLOAD again with its --nonce within two minutes, or
    within 30 s on a live subject: it is then accepted once.

    Lines of a file share envelopes. Such a line has the nonce of its envelope, so it cannot be
    published again with --nonce.
    """
    if (payload is None) == (file is None):
        raise click.UsageError("give either PAYLOAD or --file")
    if file is not None and nonce is not None:
        raise click.UsageError("--nonce is for one PAYLOAD, not for --file")
    if payload is not None and from_line != 1:
        raise click.UsageError("--from-line is for --file")
    check_subject(subject)
    sending = Sending(subject, live or None, schema, timeout or VERDICT_S)
    try:
        document = None if payload is None else _parse(payload)
    except InvalidInput as error:
        if not as_json:
            raise
        click.echo(json_line(sending.invalid(error)))
        say_error(error)
        return exit_code(error)
    speaker = Bot(find_credentials(folder, bot, credentials))
    if file is not None:
        return _publish_lines(
            Bulk(speaker, sending, Lines(file), first=from_line, as_json=as_json), timeout
        )
    return _publish_one(speaker, sending, document, nonce, timeout, as_json)


def _publish_one(
    speaker: Bot,
    sending: Sending,
    document: Any,
    nonce: bytes | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    async def publish(stop: Stop) -> tuple[dict[str, Any], int | None]:
        async with connected(speaker, timeout or CONNECT_S, stop):
            publishing = asyncio.ensure_future(sending.publish(speaker, document, nonce))
            await stop.before(asyncio.wait({publishing}))
        # After a signal, closing the bot has ended the wait for a verdict. The nonce is shown
        # all the same.
        return await publishing, stop.signal

    row, stopped_by = run(publish, gentle=True)
    verdict = row["verdict"]
    if verdict != "accepted":
        click.echo(f"{click.style('error:', fg='red')} {sending.subject}: {told(row)}", err=True)
    if verdict == "unresolved" and row["nonce"] is not None:  # else nothing was sent
        hint = (
            f"it may have been accepted: publish it again with --nonce {row['nonce']}; is a "
            "relay running?"
        )
        click.echo(f"{click.style('hint:', fg='yellow')} {hint}", err=True)
    if as_json:
        click.echo(json_line(row))
    elif verdict == "accepted":
        try:
            click.echo(f"accepted {row['nonce']}")
        except OutputFailed:
            click.echo(
                f"accepted {row['nonce']}", err=True
            )  # the sender must know, even if stdout is lost
            raise
    if verdict == "unresolved" and stopped_by is not None:
        raise CommandStopped(stopped_by)
    return {"accepted": 0, "unresolved": 1, "invalid": 2}.get(verdict, 3)


def _publish_lines(bulk: Bulk, timeout: float | None) -> int:
    async def publish(stop: Stop) -> Stop:
        await bulk.run(stop, timeout or CONNECT_S)
        return stop

    try:
        stop = run(publish, gentle=True)
    except CommandStopped:
        # A second signal, or one before the bus was there. The lines are over by now.
        _tell_account(bulk)
        raise
    _tell_account(bulk)
    for error in (bulk.lost, bulk.failed):
        if error is not None:
            raise error
    if not bulk.is_whole and stop.signal is not None:
        raise CommandStopped(stop.signal)
    if bulk.counts["unresolved"]:
        return 1
    return 3 if set(bulk.counts) - {"accepted"} else 0


def _tell_account(bulk: Bulk) -> None:
    """Say on stderr how far the lines came, and how to go on."""
    nothing = "nothing to publish" if bulk.is_whole else "nothing was published"
    click.echo(bulk.summary() or nothing, err=True)
    if bulk.without_verdict:
        named = ", ".join(f"{number}" for number in sorted(bulk.without_verdict)[:MAX_NAMED])
        more = ", …" if len(bulk.without_verdict) > MAX_NAMED else ""
        click.echo(f"without verdict, perhaps accepted: line {named}{more}", err=True)
    if not bulk.is_whole:
        click.echo(
            f"not sent: line {bulk.next_line} and all after it; go on with --from-line "
            f"{bulk.next_line}",
            err=True,
        )


def _parse(payload: str) -> Any:
    try:
        return parse_json(payload)
    except InvalidInput as error:
        raise InvalidInput(
            f"PAYLOAD, {error.what}", hint="""quote it for the shell: '{"text": "hello"}'"""
        ) from None


@click.command()
@click.argument("pattern")
@click.option(
    "--live", is_flag=True, help="Receive messages only as they pass, also on stored subjects."
)
@click.option(
    "--durable",
    metavar="NAME",
    help="Share the place in the stream under this name. [default: a place of its own]",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["new", "all"]),
    default="new",
    show_default=True,
    help="Begin a new place at new messages, or at all stored ones.",
)
@click.option("--count", "-n", type=WholeNumber(1), metavar="N", help="Stop after N messages.")
@click.option(
    "--idle", type=seconds, metavar="SECONDS", help="Stop after this time without a message."
)
@click.option(
    "--timeout",
    type=seconds,
    default=CONNECT_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for the bus, until it has made the subscription.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object a message, with sender, subject and time.",
)
@bot_options
def sub(
    pattern: str,
    live: bool,
    durable: str | None,
    start: str,
    count: int | None,
    idle: float | None,
    timeout: float,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> int:
    """Print the messages that match PATTERN, until Ctrl-C. Each is verified before it is shown.

    Without --durable, each call has a place of its own in the stream: two terminals both show every
    message. The bus forgets the place a few minutes after the end. The exit code is 1 if --idle
    ends the command before --count is reached, or if there is no subscription after --timeout.
    --timeout bounds no wait for messages. --idle does.
    """
    if live and (durable is not None or start != "new"):
        named = "--from" if durable is None else "--durable"
        raise click.UsageError(f"{named} has no meaning with --live: nothing is stored")
    check_pattern(pattern)
    listener = Bot(find_credentials(folder, bot, credentials))
    shown = 0

    async def listen(_: Stop) -> None:
        nonlocal shown
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        async with (
            connected(listener, timeout),
            asyncio.timeout(None) as silence,
            AsyncExitStack() as block,
        ):
            try:
                async with asyncio.timeout_at(deadline):
                    place = await _place(listener, pattern, live=live, durable=durable)
                    messages = await block.enter_async_context(
                        listener.messages(pattern, start=start, **place)
                    )
            except TimeoutError:
                raise ConnectionFailed(
                    f"{listener.name} is connected, and has no subscription to {pattern} after "
                    f"{timeout:g} s",
                    hint="is a relay running? `sealbus ping` tells",
                ) from None
            # From here on, no published message is missed.
            click.echo(f"connected as {listener.name}, waiting for {pattern}", err=True)
            silence.reschedule(loop.time() + idle if idle else None)
            async for message in messages:
                silence.reschedule(None)
                await output.put_line(_shown(message, as_json))
                shown += 1
                if shown == count:
                    break
                silence.reschedule(loop.time() + idle if idle else None)

    try:
        run(listen)
    except TimeoutError:
        if count is not None:
            raise TooFew(f"{shown} of {count} messages, and none for {idle:g} s") from None
    except CommandStopped:
        # A signal is the usual end of listening, unless --count gives it an end of its own.
        if count is not None:
            raise
    return 0


async def _place(listener: Bot, pattern: str, *, live: bool, durable: str | None) -> dict[str, Any]:
    """The arguments of ``messages()`` for the place of ``sub``: live, named, or its own."""
    if live:
        return {"live": True}
    if durable is not None:
        return {"durable": durable}
    if (await listener.grants()).is_live(pattern):
        return {}  # nothing is stored, so there is no place
    return {"durable": f"sub-{secrets.token_hex(8)}", "forget_s": FORGET_S}


def _shown(message: Message, as_json: bool) -> str:
    if not as_json:
        return f"{message.subject}  {message.bot}  {readable_json(message.payload)}"
    row = {
        "subject": message.subject,
        "bot": message.bot,
        "issued_at_ms": message.issued_at_ms,
        "nonce": message.nonce.hex(),
        "payload": message.payload,
    }
    return json_line(row)


@click.command()
@click.argument("subject")
@click.argument("payload")
@click.option(
    "--timeout",
    type=seconds,
    metavar="SECONDS",
    help="Longest wait for the bus, and for the answer. [default: 10 and 5]",
)
@click.option(
    "--schema",
    metavar="NAME",
    help="Schema of the payload, such as stock.check.v1. [default: the subject's first]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object, with the answer's sender and nonce.",
)
@bot_options
def request(
    subject: str,
    payload: str,
    timeout: float | None,
    schema: str | None,
    as_json: bool,
    folder: str | None,
    credentials: str | None,
    bot: str | None,
) -> None:
    """Ask on the live subject SUBJECT, and print the payload of the answer."""
    check_subject(subject)
    question = _parse(payload)
    asker = Bot(find_credentials(folder, bot, credentials))

    async def ask(_: Stop) -> Message:
        async with connected(asker, timeout or CONNECT_S):
            return await asker.request(
                subject, question, schema=schema, timeout=timeout or ANSWER_S
            )

    answer = run(ask)
    if as_json:
        click.echo(_shown(answer, as_json=True))
    else:
        click.echo(readable_json(answer.payload))
        click.echo(f"answered by {readable(answer.bot)}", err=True)
