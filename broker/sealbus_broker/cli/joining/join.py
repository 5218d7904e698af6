"""``sealbus join``: make a bot's key on its own host, and have the bus enrol it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from sealbus.errors import InvalidInput
from sealbus.invitation import MAX_CHARS, JoinToken
from sealbus.joining import JOIN_S, Joined
from sealbus.joining import join as join_bus
from sealbus.nats.tls_files import TlsFiles
from sealbus.secret_file import SecretFile
from sealbus.text_file import decode_text
from sealbus_broker.cli.shared.errors import InputFailed
from sealbus_broker.cli.shared.options import seconds
from sealbus_broker.cli.shared.signals import Stop, run
from sealbus_broker.escape import json_line, readable

MAX_SAID_CHARS: Final = 1000
"""The longest line of progress. Parts of it may come from a server."""

_FILE: Final = SecretFile(
    2 * MAX_CHARS,
    InputFailed,
    missing="`sealbus invite BOT` prints a token",
    exposed="and if somebody may have read it, have an operator withdraw it: `sealbus invites rm`",
)


@click.command()
@click.argument("token", required=False)
@click.option("--token-file", metavar="FILE", help="File with the token, mode 0600.")
@click.option(
    "--out", metavar="FILE", help="File for the credentials. [default: BOT.toml in this folder]"
)
@click.option("--ca", metavar="FILE", help="PEM: the authorities of the server, for tls://.")
@click.option("--cert", metavar="FILE", help="PEM: the certificate to show.")
@click.option("--cert-key", metavar="FILE", help="PEM: its private key.")
@click.option(
    "--timeout",
    type=seconds,
    default=JOIN_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait until the bus admits the key.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def join(
    token: str | None,
    token_file: str | None,
    out: str | None,
    ca: str | None,
    cert: str | None,
    cert_key: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Make the key of a bot here, and have the bus of TOKEN enrol it.

    TOKEN is the line that `sealbus invite` prints. With - it comes from standard input, which keeps
    it out of the history of the shell. The command writes the credentials first, and then waits
    until the bus admits the key. The private key never leaves this machine. The command may be
    stopped and said again: the same token and the same file go on. It prints the path of the
    credentials.
    """
    tls = _tls(ca, cert, cert_key)
    said = JoinToken.decode(_read(token, token_file))
    file = Path(out) if out else Path(f"{said.bot}.toml")

    async def work(_: Stop) -> Joined:
        return await join_bus(said, file, tls=tls, timeout_s=timeout, tell=_say)

    joined = run(work)
    if as_json:
        row = {
            "bus": joined.bus,
            "bot": joined.bot,
            "key": joined.key.text,
            "file": str(joined.file),
        }
        click.echo(json_line(row))
    else:
        click.echo(joined.file)
    click.echo(f"{joined.bot} has joined the bus {joined.bus}", err=True)


def _say(text: str) -> None:
    click.echo(readable(text, MAX_SAID_CHARS), err=True)


def _read(token: str | None, file: str | None) -> str:
    if (token is None) == (file is None):
        raise click.UsageError("give either TOKEN (- for standard input) or --token-file")
    if file is not None:
        content = _FILE.read(Path(file))
    elif token == "-" and sys.stdin is not None and sys.stdin.isatty():
        return str(click.prompt("Token", hide_input=True, err=True))
    elif token == "-":
        content = sys.stdin.buffer.readline(2 * MAX_CHARS) if sys.stdin is not None else b""
    else:
        return str(token)
    try:
        return decode_text(content)
    except InvalidInput as error:
        raise InputFailed(f"the token {error.what}", hint=error.hint) from None


def _tls(ca: str | None, cert: str | None, cert_key: str | None) -> TlsFiles | None:
    if (cert is None) != (cert_key is None):
        raise click.UsageError("--cert and --cert-key are needed together")
    if ca is None:
        if cert is not None:
            raise click.UsageError("--cert needs --ca, which names the authority of the server")
        return None
    return TlsFiles(Path(ca), Path(cert) if cert else None, Path(cert_key) if cert_key else None)
