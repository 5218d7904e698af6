"""``sealbus certs``: certificates for TLS, of the bus and of its bots."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, InvalidInput
from sealbus_broker.certificates import Facts, check_hosts, read
from sealbus_broker.cli.keys.files import check_declared
from sealbus_broker.cli.shared.bus_options import dir_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading
from sealbus_broker.cli.shared.folder import BusFolder, encrypted
from sealbus_broker.cli.tls.cert_files import Authority, check_is_here, name_certificates
from sealbus_broker.cli.tls.node_files import NodeAuthority, copy_tls, node_certificates
from sealbus_broker.escape import json_line, readable
from sealbus_broker.policy.bus_file import FILE, BusFile

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"

renew_option = click.option(
    "--renew", is_flag=True, help="Make a new one, also if more than a third of its life is left."
)


@click.group()
def certs() -> None:
    """Make, renew and show the certificates for TLS, of the bus and of its bots."""


@certs.command("init")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="HOST",
    help="Host name or address of nats-server. May be repeated. Earlier names that are not given"
    " again are dropped. [default: those of the present certificate, or from bus.toml]",
)
@renew_option
@dir_option
def init(names: tuple[str, ...], renew: bool, folder: str | None) -> None:
    """Give the bus TLS: an authority, and certificates for the bus and for each bot.

    The authority is made once, for ten years. The other certificates are valid for 90 days. A
    second call renews those that have less than a third of their life left. The addresses in
    bus.toml become tls://. Each bot with a key and credentials in the folder gets a certificate
    beside them, and the addresses in them. Credentials with [oidc] stay as they are.
    The certificate of the bus is always for localhost too. The nodes of a cluster get the new files
    in their folders below DIR/.sealbus/nodes, and a second site in DIR/.sealbus/second-site. A bus
    that runs without TLS has to be started again, and so have its bots.
    """
    bus = BusFolder.find(folder)
    check_hosts(names)
    facts = _facts(bus)
    now = datetime.now(UTC)
    authority, written = Authority.open(bus, facts, now)
    written += authority.certify_bus(facts, names, now, renew=renew)
    _tell(written)
    _certify_nodes(bus, facts, now, renew=renew)
    _copy(bus)
    facts = encrypted(facts)
    with reading(bus.path / "credentials"):
        files = bus.credential_files()
    for file in files:
        try:
            known = Credentials.load(file, unlock=False)
        except CredentialsError as error:
            bus.talk.note(f"{readable(str(file), 300)}: no certificate was made: {error.what}")
            continue
        if known.tokens is None:
            _certify(bus, authority, known.bot, file, facts, now, renew=renew)
        elif file.with_suffix(".pem").exists():  # somebody has made one, with `certs new`
            _tell(authority.certify_bot(known.bot, file, now, renew=renew)[1])
        else:
            _tell(authority.put_ca(file.parent))
    if facts != _facts(bus):
        bus.record(lambda known: encrypted(known or facts))
        click.echo("a bus that runs has no TLS until `sealbus up` is started again", err=True)


@certs.command("new")
@click.argument("bot")
@renew_option
@dir_option
def new(bot: str, renew: bool, folder: str | None) -> None:
    """Make or renew the certificate of BOT, beside its credentials.

    The files are DIR/credentials/BOT.pem and BOT.key, and the certificate of the authority, ca.crt.
    The credentials of BOT name them. Nothing is made if more than a third of the life of the
    present certificate is left. The bot uses a new file within minutes, without a restart.
    """
    bus = BusFolder.find(folder)
    check_declared(bus, bot)
    facts = _facts(bus)
    check_is_here(bus, facts)
    if facts.tls is None and not Authority.exists(bus):
        raise Unusable(
            f"this bus has no authority: {bus.state / 'ca.key'} is missing",
            hint="`sealbus certs init` makes one",
        )
    now = datetime.now(UTC)
    authority, _ = Authority.open(bus, facts, now)
    _certify(bus, authority, bot, bus.credentials(bot), encrypted(facts), now, renew=renew)


@certs.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a certificate.")
@dir_option
def show(as_json: bool, folder: str | None) -> None:
    """List the certificates in this folder: subject, names, times and state.

    A certificate is due when it has less than a third of its life left.
    """
    bus = BusFolder.find(folder)
    now = datetime.now(UTC)
    tls = bus.own_tls()
    found = [] if tls is None else [one for one in (tls.ca, tls.cert) if one is not None]
    with reading(bus.path / "credentials"):
        found += sorted((bus.path / "credentials").glob("[!.]*.pem"))
    if nodes := node_certificates(bus):
        found += [bus.state / "nodes-ca.pem", *nodes]
    with reading(bus.state):
        found += bus.tls_copies()
    if not found:
        raise Unusable(
            f"there is no certificate in {readable(str(bus.path), 300)}",
            hint="`sealbus certs init` makes them",
        )
    for file in found:
        with reading(file):
            content = file.read_bytes()
        try:
            row = _row(file, read(content), now)
        except InvalidInput as error:
            bus.talk.note(f"{readable(str(file), 300)} {error.what}")
            continue
        click.echo(json_line(row) if as_json else _text(row))


def _row(file: Path, facts: Facts, now: datetime) -> dict[str, Any]:
    return {
        "file": str(file),
        "state": facts.state(now).value,
        "subject": facts.subject,
        "issuer": facts.issuer,
        "names": [*facts.names, *facts.uris],
        "begins": facts.begins.strftime(_TIME),
        "ends": facts.ends.strftime(_TIME),
    }


def _text(row: dict[str, Any]) -> str:
    names = ", ".join(row["names"]) or "no names"
    head = f"{row['state']:<14}{row['begins']} to {row['ends']}  {readable(row['file'], 300)}"
    return f"{head}\n{'':14}{readable(row['subject'], 300)}: {readable(names, 1000)}"


def _certify(
    bus: BusFolder,
    authority: Authority,
    bot: str,
    credentials: Path,
    facts: BusFile,
    now: datetime,
    *,
    renew: bool,
) -> None:
    """Give a bot the missing files, and print a line for each."""
    tls, written = authority.certify_bot(bot, credentials, now, renew=renew)
    _tell(written)
    if credentials.exists() and (why := name_certificates(credentials, tls, facts)) is not None:
        shown = readable(str(credentials), 300)
        bus.talk.note(f"{shown}: write ca, cert and cert_key into it yourself: {why}")


def _tell(written: list[Path]) -> None:
    for file in written:
        click.echo(f"wrote {readable(str(file), 300)}", err=True)


def _certify_nodes(bus: BusFolder, facts: BusFile, now: datetime, *, renew: bool) -> None:
    """Renew the certificates with which nodes speak to each other."""
    if node_certificates(bus):
        authority, _ = NodeAuthority.open(bus, facts.name, now)
        _tell(authority.renew_all(now, renew=renew))


def _copy(bus: BusFolder) -> None:
    """Give nodes and a second site the present certificate of the bus.

    The nodes of `sealbus up` have no copy: they read the files of the bus itself.
    """
    with reading(bus.state):
        copies = bus.tls_copies()
    for copy in copies:
        if written := copy_tls(bus, copy.parent):
            _tell(written)
            shown = readable(str(copy.parent), 300)
            click.echo(f"copy {shown} again to the machine that it is for", err=True)


def _facts(bus: BusFolder) -> BusFile:
    known = bus.bus_file()
    if known is None:
        raise Unusable(
            f"{bus.path / FILE} is missing, so the name of the bus is not known",
            hint="`sealbus up` and `sealbus prepare` write it",
        )
    return known
