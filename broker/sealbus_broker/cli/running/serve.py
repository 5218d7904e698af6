"""``sealbus up`` and ``relay``: running a bus."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import click

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import PublicKey
from sealbus.protocol.subjects import check_name
from sealbus.supervision import Supervisor, end
from sealbus.waiting import Interrupted, race
from sealbus_broker.cli.running.nodes import (
    addresses,
    check_addresses,
    check_single,
    how_many,
    make_servers,
    tell_replicas,
)
from sealbus_broker.cli.running.relay_name import OwnName
from sealbus_broker.cli.running.serving import IN_THE_LOG, Serve, run_until_signal
from sealbus_broker.cli.running.workers import MOST_WORKERS, WorkerProcesses
from sealbus_broker.cli.shared.bus_options import dir_option, new_keys_option, server_option
from sealbus_broker.cli.shared.folder import BusFolder, found_at
from sealbus_broker.cli.shared.options import WholeNumber, sync_interval
from sealbus_broker.cli.tls.embedded_tls import (
    any_client_option,
    check_address,
    check_server,
    is_loopback,
    locked_out,
    server_tls,
)
from sealbus_broker.escape import readable
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.nats.streams import file_bytes
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.relay.background import tell
from sealbus_broker.relay.problems import FULL_AT, BusProblem, Level
from sealbus_broker.relay.relay import Relay
from sealbus_broker.relay.stopping import StoppedEarly, until_stopped
from sealbus_broker.server.cluster import LocalCluster
from sealbus_broker.server.process import Disk, NatsServer

log = get_logger(__name__)

DISK_AT: Final = 1 - FULL_AT
"""The room on the disk from which on it is a warning, as a share of all that the streams may take.
It is the room that a stream has left when its own warning begins. With the usual limits that is 1.4
GiB: six minutes at the rate of a disk that syncs 3,000 messages of 1 KiB a second."""

MIB: Final = 1024 * 1024

_REMEDY: Final = (
    "`sealbus certs init` makes certificates; or run nats-server yourself with TLS, and use "
    "`sealbus relay`"
)

name_option = click.option(
    "--name", default="relay", show_default=True, help="Name of this relay in stamps and logs."
)


@click.command()
@dir_option
@click.option(
    "--port",
    type=WholeNumber(1, 65535),
    help="Port of nats-server. It goes into bus.toml. [default: the port in bus.toml]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address of nats-server. Without TLS, it has to be an address of this machine alone.",
)
@click.option(
    "--insecure-plaintext",
    "plaintext",
    is_flag=True,
    help="Let other machines reach a server without TLS. All who see the network see the payloads.",
)
@click.option(
    "--nodes",
    type=WholeNumber(1, 5),
    help="Run a cluster of 3 or 5 nats-servers on this machine, for trying one out. A bus on one"
    " server grows into it. [default: as many as the folder has, or 1]",
)
@any_client_option
@click.option(
    "--sync",
    type=sync_interval,
    default="always",
    metavar="DURATION",
    show_default=True,
    help="JetStream's sync_interval: always, or a time such as 2m.",
)
@new_keys_option
@name_option
@click.option(
    "--workers",
    type=WholeNumber(1, MOST_WORKERS),
    default=1,
    show_default=True,
    help="How many relays share the work, each in a process of its own: NAME-1, NAME-2, and so on.",
)
def up(
    folder: str | None,
    port: int | None,
    host: str,
    plaintext: bool,
    nodes: int | None,
    any_client: bool,
    sync: str,
    new_keys: bool,
    name: str,
    workers: int,
) -> int:
    """Run a whole bus: a relay, and a nats-server that is watched and restarted.

    Ctrl-C stops both. With --nodes 3 there are three nats-servers. With --workers several relays
    share the work, and one that dies is started again. Relays follow the folder, so a change of it
    needs no restart. They enrol the keys of bots that were invited without --approve.
    """

    def begin() -> Serve:
        bus = BusFolder.find(folder, IN_THE_LOG)
        # Before anything is written: keys of a bus that does not start are of no use.
        tls = bus.own_tls()
        if tls is not None:
            known = bus.bus_file()
            check_server(tls, host, is_own=known is None or known.tls is None)
        elif not plaintext:
            _check_exposure(host)
        if tls is None:
            check_address(bus)
        names = _names(name, workers)
        count = how_many(bus, nodes)
        check_addresses(bus, host, bus.port(port), count)
        bus.check_before_keys()
        secrets = bus.open_secrets(new_keys=new_keys)
        policy, watched = bus.followed(secrets.bus.public)
        config = NatsConfig(
            store_dir=Path(os.path.realpath(bus.state / "jetstream")),
            relay=secrets.relay.public,
            issuer=secrets.issuer.public,
            host=host,
            port=bus.port(port),
            sync_interval=sync,
            tls=None if tls is None else server_tls(tls, asks_clients=not any_client),
        )
        moved = partial(_moved, name=policy.bus, key=secrets.bus.public, config=config, nodes=count)
        # Before the start: a folder with a problem then has no server.
        found = moved(bus.bus_file())
        server: NatsServer | LocalCluster
        if count == 1:
            state = Path(os.path.realpath(bus.state))
            server = NatsServer(config, state, check=partial(check_single, bus, nodes))
        else:
            server = make_servers(bus, secrets, config, found)
        work: Relay | WorkerProcesses
        if workers > 1:
            disk = Disk(server.store, server.copies)
            work = WorkerProcesses(
                folder=bus.path.resolve(),
                servers=server.urls,
                disk=disk,
                names=names,
            )
        else:
            work = Relay(
                servers=server.urls,
                secrets=secrets,
                policy=policy,
                name=name,
                tls=tls,
                folder=watched,
                enrols_in=bus.path.resolve(),
                surroundings=partial(disk_problems, server),
                secrets_file=bus.secrets_file,
            )

        async def serve(stopping: asyncio.Event) -> None:
            try:
                await until_stopped(stopping, server.start())
            except StoppedEarly:
                return
            bus.record(moved)
            _say_started(bus, server)
            if count > 1:
                tell_replicas(bus, policy, count)
            if tls is None:
                _warn_without_tls(host)
            elif any_client and (what := locked_out(policy)) is not None:
                log.warning("bots.locked-out", text=f"warning: {what}")
            told = ", ".join(names)
            await _watch(server, work, stopping, lambda: say_ready(policy, told, server.url))
            log.info("bus.stopped", text="stopped")

        return serve

    return run_until_signal(begin)


def _moved(
    known: BusFile | None, *, name: str, key: PublicKey, config: NatsConfig, nodes: int
) -> BusFile:
    """``bus.toml`` with the addresses of servers that listen as ``config`` says."""
    has_tls = config.tls is not None
    found = found_at(known, name, key, config.host, config.port, tls=has_tls)
    if nodes == 1:
        return found
    return addresses(found, config.host, config.port, nodes, tls=has_tls)


def _names(name: str, workers: int) -> list[str]:
    """The names of the relays. Raises InvalidInput if one cannot be a name."""
    numbered = [f"{name}-{number}" for number in range(1, workers + 1)]
    names = [name] if workers == 1 else numbered
    for one in names:
        check_name(one, "relay")
    return names


def _say_started(bus: BusFolder, server: NatsServer | LocalCluster) -> None:
    if isinstance(server, NatsServer):
        log_file = str(bus.state / "nats.log")
        text = f"nats-server listens on {server.url}, its log is {log_file}"
        log.info("nats-server.started", text=text, url=server.url, log=log_file)
        return
    logs = str(bus.state / "nodes" / "node-*" / "nats.log")
    text = f"{server.copies} nats-servers listen on {', '.join(server.urls)}, their logs are {logs}"
    log.info("nats-server.started", text=text, url=server.url, log=logs)


def disk_problems(
    server: NatsServer | LocalCluster | Disk, limits: Limits
) -> tuple[BusProblem, ...]:
    """Warn while the disk of the streams has little room. A disk may be full long before they
    are."""
    needed = file_bytes(limits) * min(limits.replicas, server.copies)
    free, warned = server.free_bytes, int(DISK_AT * needed)
    if free >= warned:
        return ()
    what = (
        f"the disk of {server.store} has room for {free / MIB:,.0f} MiB, which is less than"
        f" {warned / MIB:,.0f} MiB; when it is full, nothing more is accepted"
    )
    hint = "free space there, or lower accepted_bytes and retention in policy.yaml"
    return (BusProblem(Level.WARNING, "disk", what, hint),)


async def _watch(
    server: NatsServer | LocalCluster,
    work: Relay | WorkerProcesses,
    stopping: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    """Run a relay, or several, and watch their server, until they end or the server cannot be kept
    running.

    Then stop the server.
    """
    supervisor = Supervisor("sealbus up", tell=tell)
    watching = supervisor.must("watching nats-server", server.supervise(), until=server.stopping)
    following = supervisor.must(
        "watching the certificates",
        server.follow_certificates(lambda: work.admits),
        until=server.stopping,
    )
    try:
        with contextlib.suppress(Interrupted):
            await race(work.run(stopping, ready), supervisor.failed)
        if supervisor.failure is not None:
            raise supervisor.failure
    finally:
        await server.stop()
        await end(watching)
        await end(following)


@click.command()
@dir_option
@server_option
@click.option(
    "--name",
    help="Name of this relay in stamps and logs. [default: the name of this machine, with a number"
    " from its second relay on]",
)
def relay(folder: str | None, servers: tuple[str, ...], name: str | None) -> int:
    """Run a relay against a nats-server that runs elsewhere.

    The server has the configuration of `sealbus prepare`. The relay waits for a server that it
    cannot reach, and says so. It follows the folder, so a change of it needs no restart. Any number
    of relays may serve one bus, on one machine or on several.
    """

    def begin() -> Serve:
        bus = BusFolder.find(folder, IN_THE_LOG)
        secrets = bus.secrets()
        policy, watched = bus.followed(secrets.bus.public)
        own = OwnName(policy.bus, socket.gethostname()) if name is None else None
        called = check_name(name if own is None else own.text, "relay")
        found = bus.servers(servers)
        one = Relay(
            servers=list(found),
            secrets=secrets,
            policy=policy,
            name=called,
            tls=bus.tls(servers),
            folder=watched,
            secrets_file=bus.secrets_file,
        )

        async def serve(stopping: asyncio.Event) -> None:
            try:
                await one.run(stopping, lambda: say_ready(policy, called, found[0]))
            finally:
                if own is not None:
                    own.close()

        return serve

    return run_until_signal(begin)


def say_ready(policy: Policy, relay: str, url: str) -> None:
    word = "relays" if "," in relay else "relay"
    text = (
        f"the bus {policy.bus} is up at {url} ({word} {relay}, policy {policy.digest.hex()[:16]})"
    )
    log.info(
        "relay.started", text=text, bus=policy.bus, relay=relay, url=url, policy=policy.digest.hex()
    )


def _check_exposure(host: str) -> None:
    """Refuse an address that other machines can reach, because this server has no TLS.

    Raises:
        InvalidInput: The address is not a loopback address.
    """
    if not is_loopback(host):
        raise InvalidInput(
            f"--host {readable(host, 80)} can be reached from other machines, and this server has"
            " no TLS: whoever is on the network reads every message; expected an address of this"
            " machine alone, such as 127.0.0.1 or ::1",
            hint=f"{_REMEDY}; on a private network, --insecure-plaintext allows it",
        )


def _warn_without_tls(host: str) -> None:
    if not is_loopback(host):
        text = (
            f"warning: {host} can be reached from other machines, and this server has no TLS: "
            "whoever is on the network reads every message"
        )
        log.warning("nats-server.exposed", text=f"{text}\nhint: {_REMEDY}", host=host, hint=_REMEDY)
