"""The certificates of nats-server, checked before it starts, and the clients that it lets in."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from sealbus.errors import InvalidInput
from sealbus.nats.addresses import is_encrypted
from sealbus.nats.tls_files import TlsFiles, UnusableTls
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading
from sealbus_broker.cli.shared.folder import RENEW_ELSEWHERE, BusFolder
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.config import ServerTls
from sealbus_broker.policy.bus_file import FILE
from sealbus_broker.server.process import reached_at

if TYPE_CHECKING:
    from sealbus_broker.certificates import Facts

_RENEW: Final = "`sealbus certs init --renew` makes a new one"

any_client_option: Final = click.option(
    "--any-client",
    is_flag=True,
    help="With TLS, let clients without a certificate connect, as bots that log in with tokens. No"
    " certificate of a client is verified then, so bots with `certificate` are refused.",
)
"""``--any-client``: whether nats-server asks no client for a certificate."""


def locked_out(policy: Policy) -> str | None:
    """A sentence about the bots that a server with ``--any-client`` locks out, if there are any."""
    bots = sorted(bot.name for bot in policy.bots.values() if bot.certificate_names)
    if not bots:
        return None
    why = "--any-client has nats-server verify no certificate"
    return f"{why}, so bots with `certificate` in the policy are refused: {', '.join(bots)}"


def server_tls(tls: TlsFiles, *, asks_clients: bool = True) -> ServerTls:
    """The files for nats-server, which has another working folder.

    ``asks_clients``: whether clients have to show a certificate.
    """
    assert tls.cert is not None
    assert tls.key is not None
    return ServerTls(tls.ca.absolute(), tls.cert.absolute(), tls.key.absolute(), asks_clients)


def check_server(tls: TlsFiles, host: str, *, is_own: bool) -> None:
    """Check that nats-server can use the certificates on ``host``, and the relay beside it too.

    ``is_own``: whether ``sealbus certs`` has made them.

    Raises:
        Unusable: A file cannot be used, its time is over, or it is not for the address at which
            the relay finds the server.
    """
    from sealbus_broker.certificates import (
        State,
        covers,
        read,
    )  # a bus without TLS does not wait for this library

    try:
        tls.context()
    except UnusableTls as error:
        raise Unusable(error.what, hint=error.hint) from None
    assert tls.cert is not None
    with reading(tls.cert):
        content = tls.cert.read_bytes()
    try:
        facts = read(content)
    except InvalidInput as error:
        raise Unusable(f"{tls.cert} {error.what}", hint=error.hint) from None
    state = facts.state(datetime.now(UTC))
    if state in (State.EXPIRED, State.NOT_YET_VALID):
        times = f"{facts.begins:%Y-%m-%dT%H:%M:%SZ} to {facts.ends:%Y-%m-%dT%H:%M:%SZ}"
        raise Unusable(
            f"{tls.cert} is not valid now, only from {times}",
            hint=f"{_RENEW if is_own else RENEW_ELSEWHERE}; or is this machine's clock wrong?",
        )
    address = reached_at(host)
    if not covers(facts, address):
        raise Unusable(
            f"{tls.cert} is not for {address}, where the relay finds the server;"
            f" it is for {', '.join(facts.names) or 'no address'}",
            hint=_with_name(facts, address) if is_own else f"have it made anew for {address} too",
        )


def _with_name(facts: Facts, name: str) -> str:
    """The command that adds ``name`` to a certificate of ``sealbus certs``."""
    from sealbus_broker.cli.tls.cert_files import LOCAL

    # All names: those that are not given again are dropped. The local ones are always there.
    names = (f"--name {one}" for one in (*facts.names, name) if one not in LOCAL)
    return f"`{' '.join(('sealbus certs init', *names))}` adds it"


def check_address(bus: BusFolder) -> None:
    """Refuse a server without TLS where ``bus.toml`` says that the bus has TLS.

    Raises:
        Unusable: It does.
    """
    if is_encrypted(bus.servers()[0]):
        raise Unusable(
            f"{FILE} names {bus.servers()[0]}, and this folder has no certificates;"
            f" expected {bus.state / 'bus.pem'}",
            hint="`sealbus certs init` makes them; or use `sealbus relay` with that server",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``. A name other than ``localhost`` may lead
    anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
