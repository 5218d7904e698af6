"""``sealbus prepare``: the configuration for nats-servers that run elsewhere, alone or as a
cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from sealbus.errors import InvalidInput
from sealbus.nats.addresses import is_encrypted
from sealbus_broker.cli.shared.bus_options import dir_option, new_keys_option, server_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading
from sealbus_broker.cli.shared.folder import BusFolder, encrypted, found_at
from sealbus_broker.cli.shared.options import DIGITS, WholeNumber, sync_interval
from sealbus_broker.cli.tls.embedded_tls import (
    any_client_option,
    is_loopback,
    locked_out,
    server_tls,
)
from sealbus_broker.escape import readable
from sealbus_broker.nats.config import ROUTES_PORT, NatsConfig, ServerTls, render
from sealbus_broker.nats.sites import LEAF_PORT
from sealbus_broker.policy.bus_file import BusFile, address
from sealbus_broker.server.folder import ServerFolder

if TYPE_CHECKING:
    from sealbus_broker.cli.preparing.second_site import Site

# Options by their names in Python. Elsewhere they would have no effect.
_ONE_SERVER: Final = frozenset(
    {"nats_conf", "listen", "tls_names", "tls_dir", "copy_tls", "servers"}
)
_CLUSTER: Final = frozenset({"nodes", "routes_port", "node_dir"})
_SITE: Final = frozenset({"site_port", "site_dir"})


@click.command()
@dir_option
@click.option(
    "--nats-conf",
    metavar="FILE",
    help="File for the configuration. [default: DIR/.sealbus/nats.conf]",
)
@click.option(
    "--listen",
    default="127.0.0.1:4222",
    show_default=True,
    metavar="HOST:PORT",
    help="Address at which nats-server listens.",
)
@click.option(
    "--store",
    default="/data",
    show_default=True,
    metavar="DIR",
    help="JetStream's folder, on the server's machine. Each of several --node on one host has a"
    " folder in it.",
)
@click.option(
    "--monitor-port",
    type=WholeNumber(1, 65535),
    help="Port for monitoring over HTTP, on 127.0.0.1 of the server's machine. Of several --node on"
    " one host, each further one has the next port.",
)
@click.option(
    "--sync",
    type=sync_interval,
    default="always",
    metavar="DURATION",
    show_default=True,
    help="JetStream's sync_interval: always, or a time such as 2m.",
)
@click.option(
    "--tls-name",
    "tls_names",
    multiple=True,
    metavar="HOST",
    help="Make or renew certificates of the bus for this host, as `sealbus certs init --name` does."
    " May be repeated.",
)
@click.option(
    "--tls-dir",
    metavar="DIR",
    help="Folder of the certificates on the server's machine. [default: where they are here]",
)
@click.option(
    "--copy-tls",
    is_flag=True,
    help="Copy the certificates of the bus into --tls-dir, and not the key of the authority.",
)
@click.option(
    "--cluster",
    is_flag=True,
    help="Write the files of all nodes of a cluster, one folder a node, below DIR/.sealbus/nodes.",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="HOST[:PORT]",
    help="With --cluster, the address of a node. May be repeated. [default: from bus.toml]",
)
@click.option(
    "--routes-port",
    type=WholeNumber(1, 65535),
    default=ROUTES_PORT,
    show_default=True,
    help="With --cluster, the port on which the nodes find each other. Of several --node on one"
    " host, each further one has the next port.",
)
@click.option(
    "--node-dir",
    metavar="DIR",
    help="With --cluster, the folder of a node's files on its machine. Each of several --node on"
    " one host has a folder in it. [default: where they are here]",
)
@click.option(
    "--second-site",
    metavar="HOST[:PORT]",
    help="Write the files of a second site too, which keeps a mirror, into"
    " DIR/.sealbus/second-site, and a door for it into the configuration.",
)
@click.option(
    "--site-port",
    type=WholeNumber(1, 65535),
    default=LEAF_PORT,
    show_default=True,
    help="With --second-site, the port of the door. Of several --node on one host, each further one"
    " has the next port.",
)
@click.option(
    "--site-dir",
    metavar="DIR",
    help="With --second-site, the folder of its files on its machine. [default: where they are"
    " here]",
)
@any_client_option
@server_option
@new_keys_option
def prepare(
    folder: str | None,
    nats_conf: str | None,
    listen: str,
    store: str,
    monitor_port: int | None,
    sync: str,
    tls_names: tuple[str, ...],
    tls_dir: str | None,
    copy_tls: bool,
    cluster: bool,
    nodes: tuple[str, ...],
    routes_port: int,
    node_dir: str | None,
    second_site: str | None,
    site_port: int,
    site_dir: str | None,
    any_client: bool,
    servers: tuple[str, ...],
    new_keys: bool,
) -> None:
    """Write the configuration for a nats-server that runs elsewhere, and make missing bus keys.

    The configuration has no secret in it. The command prints the bus's public key. It writes the
    key into bus.toml, with the address at which bots find the server: --server, or in a new
    bus.toml --listen. It does not write the configuration on which a `sealbus up` runs.

    Where the bus has certificates, the server speaks mutual TLS 1.3 and nothing else. It reads
    them from the paths that they have here, or from --tls-dir under the same names.

    With --cluster, the command writes a folder for each --node, and bus.toml names all of them. A
    node's folder has everything that its machine needs: nats.conf, the certificates for bots and
    relays, and a certificate for the other nodes, by an authority for nodes alone. Run the command
    again when a certificate is due, or when nodes change.

    With --second-site, nats-server gets a second door, of a port, an account and a key of its own.
    A run without this option closes it again. Both take a start of nats-server, not a SIGHUP.
    """
    bus = BusFolder.find(folder)
    # Before anything is written: a command line that is refused does nothing.
    _check_options(second_site, cluster=cluster)
    host, port = _place(listen)
    if copy_tls and tls_dir is None:
        raise InvalidInput("--copy-tls needs --tls-dir", hint="name the folder for the copies")
    need_tls = {"--tls-dir": tls_dir, "--second-site": second_site}
    has_tls = cluster or _check_tls(bus, tls_names, servers, need_tls)
    all_nodes = None
    if cluster:
        # A bus without a cluster does not wait for the library of certificates.
        from sealbus_broker.cli.preparing.cluster import nodes_of

        more = {} if monitor_port is None else {"--monitor-port": monitor_port}
        more |= {} if second_site is None else {"--site-port": site_port}
        all_nodes = nodes_of(bus, nodes, routes_port, more)
    bus.check_before_keys()
    secrets = bus.open_secrets(new_keys=new_keys)
    target = Path(nats_conf) if nats_conf else bus.state / "nats.conf"
    if not cluster:
        _check_unused(target)
    policy = bus.policy(secrets.bus.public)
    site = _site(bus, second_site, site_port, site_dir, store, sync)
    if all_nodes is not None:
        from sealbus_broker.cli.preparing.cluster import ClusterOptions, prepare_cluster

        options = ClusterOptions(
            all_nodes, routes_port, node_dir, store, sync, monitor_port, any_client, site
        )
        prepare_cluster(bus, secrets, policy, options)
        click.echo(secrets.bus.public.text)
        return
    first = found_at(None, policy.bus, secrets.bus.public, host, port)
    moved = partial(_moved, first=first, servers=servers, tls=has_tls)
    # The second site finds the bus there too.
    known = moved(bus.bus_file())
    if tls_names:
        _certify(bus, known, tls_names)
    if site is not None:
        site.certify(known)
    tls = _server_tls(bus, tls_dir, copy=copy_tls)
    if tls is None and not is_loopback(host):
        what = f"{readable(host, 80)} can be reached from other machines, and the server has no TLS"
        bus.talk.note(f"{what}; `sealbus certs init` makes certificates")
    if tls is not None and any_client:
        tls = replace(tls, asks_clients=False)
        if (locked := locked_out(policy)) is not None:
            bus.talk.note(locked)
    config = NatsConfig(
        store_dir=Path(store),
        relay=secrets.relay.public,
        issuer=secrets.issuer.public,
        host=host,
        port=port,
        http_port=monitor_port,
        sync_interval=sync,
        tls=tls,
        second_site=None if site is None or tls is None else site.door(host, tls),
    )
    _write(target, config)
    if site is not None:
        site.say(site.write(secrets, [(address(known.servers[0])[0], 0)]))
        if is_loopback(host) and not is_loopback(site.host):
            what = f"the door listens on {readable(host, 80)}, which {site.host} cannot reach"
            bus.talk.note(f"{what}; name another address with --listen")
    bus.record(moved)
    click.echo(secrets.bus.public.text)


def _moved(
    known: BusFile | None, *, first: BusFile, servers: tuple[str, ...], tls: bool
) -> BusFile:
    """``bus.toml`` with ``servers``, if given. ``first``: its content where there is no file."""
    found = known or first
    found = encrypted(found) if tls else found
    return replace(found, servers=servers or found.servers)


def _site(
    bus: BusFolder, address: str | None, port: int, folder: str | None, store: str, sync: str
) -> Site | None:
    if address is not None:
        # A bus without a second site does not wait for the library of certificates.
        from sealbus_broker.cli.preparing.second_site import Site, SiteOptions

        return Site(bus, SiteOptions(address, port, folder, store, sync))
    return None


def _check_options(site: str | None, *, cluster: bool) -> None:
    """Raise InvalidInput if an option has no effect beside the others, or if ``site`` is no
    address."""
    if cluster:
        _refuse(
            _ONE_SERVER,
            "one server; --cluster writes the files of all nodes",
            hint="leave it out: --node says where the nodes are",
        )
    else:
        _refuse(_CLUSTER, "a cluster", hint="add --cluster")
    if site is None:
        _refuse(_SITE, "a second site", hint="add --second-site")
    else:
        # A bus without a second site does not wait for the library of certificates.
        from sealbus_broker.certificates import check_hosts
        from sealbus_broker.cli.tls.node_files import read_address

        check_hosts([read_address(site, "--second-site")[0]])


def _check_tls(
    bus: BusFolder,
    names: tuple[str, ...],
    servers: tuple[str, ...],
    need_tls: Mapping[str, str | None],
) -> bool:
    """Return whether the server will have TLS. ``need_tls``: options that need it, if given.

    Raises:
        InvalidInput: A name cannot be in a certificate, or an address has no TLS.
        Unusable: The certificates are not made here, or there are none and an option needs them.
    """
    if names:
        # A bus without TLS does not wait for the library of certificates.
        from sealbus_broker.certificates import check_hosts
        from sealbus_broker.cli.tls.cert_files import check_authority

        check_hosts(names)
        if (known := bus.bus_file()) is not None:
            check_authority(known)
    has_tls = bool(names) or bus.own_tls() is not None
    if has_tls and servers and not is_encrypted(servers[0]):
        raise InvalidInput(
            f"--server {readable(servers[0], 80)} has no TLS, and this bus has certificates",
            hint="write tls:// in place of nats://",
        )
    needing = [option for option, given in need_tls.items() if given is not None]
    if needing and not has_tls:
        raise Unusable(
            f"{needing[0]} is for a bus with TLS, and this bus has no certificates",
            hint="`sealbus certs init` makes them, and so does --tls-name",
        )
    return has_tls


def _refuse(options: frozenset[str], purpose: str, *, hint: str) -> None:
    """Raise InvalidInput if one of ``options`` was given, because it would have no effect."""
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in options and source is not ParameterSource.DEFAULT:
            raise InvalidInput(f"{option.opts[0]} is for {purpose}", hint=hint)


def _place(listen: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port of ``--listen``."""
    host, _, port = listen.rpartition(":")
    if not host or not DIGITS.fullmatch(port) or not 0 < int(port) < 65536:
        raise InvalidInput(
            f"--listen {readable(listen, 80)} is not an address", hint="like 0.0.0.0:4222"
        )
    return host.strip("[]"), int(port)


def _check_unused(config: Path) -> None:
    """Raise :class:`Unusable` if a server of `sealbus up` runs on the file ``config``."""
    file = Path(os.path.realpath(config))
    folder = ServerFolder(file.parent)
    with reading(folder.path):
        is_used = file == folder.config_file and folder.is_taken()
    if is_used:
        raise Unusable(
            f"{readable(str(config), 300)} is the configuration of a `sealbus up` that runs",
            hint="stop it before, or name another file with --nats-conf",
        )


def _write(target: Path, config: NatsConfig) -> None:
    """Write the configuration as a whole. Raises :class:`Unusable`."""
    # A command line that is refused does not wait for the library of certificates.
    from sealbus_broker.cli.tls.cert_files import put_new

    for file in put_new(target, render(config).encode(), 0o644):
        click.echo(f"wrote {file}", err=True)


def _certify(bus: BusFolder, facts: BusFile, names: tuple[str, ...]) -> None:
    """Make the authority and the certificate of the bus where they are missing or due."""
    # A bus without TLS does not wait for the library.
    from sealbus_broker.cli.tls.cert_files import Authority

    now = datetime.now(UTC)
    authority, written = Authority.open(bus, facts, now)
    for file in (*written, *authority.certify_bus(facts, names, now, renew=False)):
        click.echo(f"wrote {readable(str(file), 300)}", err=True)


def _server_tls(bus: BusFolder, folder: str | None, *, copy: bool) -> ServerTls | None:
    """Return the files that the server reads, copied to ``folder`` with ``copy``.

    Raises:
        Unusable: A file cannot be read or written.
    """
    own = bus.own_tls()
    if own is None:
        return None
    here = server_tls(own)
    if folder is None:
        return here
    ca, cert, key = (Path(folder) / one.name for one in (here.ca, here.cert, here.key))
    there = ServerTls(ca, cert, key)
    if copy:
        from sealbus_broker.cli.tls.cert_files import put

        # The certificate last: whoever sees the new one finds its key and its authority.
        for source, target, mode in (
            (here.ca, there.ca, 0o644),
            (here.key, there.key, 0o600),
            (here.cert, there.cert, 0o644),
        ):
            with reading(source):
                content = source.read_bytes()
            put(target, content, mode)
            click.echo(f"wrote {readable(str(target), 300)}", err=True)
    return there
