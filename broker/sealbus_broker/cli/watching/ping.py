"""``sealbus ping``: reports whether the bus works, for people and for health checks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Final

import click
from nats.errors import Error as NatsError
from rich.console import Console
from rich.table import Table

from sealbus.errors import ConnectionFailed
from sealbus.nats.client import HardenedClient
from sealbus.nats.diagnosis import STORES_NOTHING
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.subjects import check_name
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import BusSilent
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.signals import Stop, run
from sealbus_broker.escape import json_line, readable
from sealbus_broker.nats.jetstream import API, is_missing, request_over_reload
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.relay.health import PING_SUBJECT, PROBE_S
from sealbus_broker.relay.probe import Prober, is_accepted
from sealbus_broker.relay.problems import (
    NO_LEADER,
    RESTART,
    BusProblem,
    Level,
    fill,
    unheard,
    worst,
)
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.store.clocks import clock_ms

ASK_S: Final = 3.0
"""Longest time for one answer of NATS or a relay.

The connection takes one, and all questions together another. So ``--relay`` stays below the ten
seconds of the health check of ``compose.yaml``.
"""

AGAIN_S: Final = 0.1
"""The pause before a relay that has not looked at the bus yet is asked again."""

MIB: Final = 1024 * 1024


@dataclass(slots=True)
class Found:
    """The findings of a ping. ``--json`` prints them as they are."""

    health: str = Level.OK.value
    problems: list[BusProblem] = field(default_factory=list)
    relay: dict[str, Any] | None = None
    """The health that the relay reports."""
    probe: dict[str, Any] | None = None
    """The verdict on a message that was sent the whole way, and its time in milliseconds."""
    streams: list[dict[str, Any]] = field(default_factory=list)

    def judge(self) -> None:
        """Set ``health`` to the worst of the problems."""
        self.health = worst(self.problems).value


@click.command()
@dir_option
@server_option
@click.option("--relay", "relay", metavar="NAME", help="Ask only this relay for its health.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ping(folder: str | None, servers: tuple[str, ...], relay: str | None, as_json: bool) -> int:
    """Say whether the bus works. Send a message the whole way, ask a relay, and show the streams.

    The exit code is 1 after an error: the bus accepts nothing, no relay answers, a stream is full
    or has no leader, or the relay has not looked at the bus for 9 s. It is 0 after a warning, such
    as a stream that is 80 % full, or a disk of `sealbus up` with little room. A health check can
    ask one relay with --relay NAME. Where several relays run, it also shows the partitions that
    each works on.
    """
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    if relay is not None:
        check_name(relay, "relay")

    async def look(_: Stop) -> Found:
        return await _ping(list(bus.servers(servers)), secrets, relay, bus.tls(servers))

    found = run(look)
    if as_json:
        click.echo(json_line(asdict(found)))
    else:
        _show(found)
    return 1 if found.health == Level.RED else 0


def _show(found: Found) -> None:
    if found.streams:
        table = Table(
            "stream",
            "messages",
            "MiB",
            "of MiB",
            "full",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        for row in found.streams:
            sizes = f"{row['bytes'] / MIB:,.1f}", f"{row['limit'] / MIB:,.0f}"
            table.add_row(row["stream"], f"{row['messages']:,}", *sizes, f"{row['full']:.0%}")
        for column in table.columns[1:]:
            column.justify = "right"
        console = Console(width=78, highlight=False)
        console.print(table)
    # The loss of a node is a problem of each stream, and has one hint.
    for hint, problems in groupby(found.problems, lambda problem: problem.hint):
        for problem in problems:
            is_red = problem.level == Level.RED
            word = ("error:", "red") if is_red else ("warning:", "yellow")
            click.echo(f"{click.style(word[0], fg=word[1])} {problem.what}", err=True)
        click.echo(f"{click.style('hint:', fg='yellow')} {hint}", err=True)
    if found.relay is not None and found.health != Level.RED:
        took = f", a message took {found.probe['ms']:g} ms" if found.probe else ""
        told = f"ok: relay {found.relay['relay']} serves the bus {found.relay['bus']}{took}"
        click.echo(f"{told} (policy {found.relay['policy'][:16]})", err=True)
        _show_shares(found.relay)


def _show_shares(relay: dict[str, Any]) -> None:
    """Say which relay works on which partitions, where there are several."""
    # A relay of an earlier version says nothing of it.
    if not relay.get("peers"):
        return
    for one in sorted([relay, *relay["peers"]], key=lambda one: str(one["relay"])):
        held = ", ".join(map(str, one["partitions"])) or "none"
        click.echo(f"relay {readable(str(one['relay']), 80)}: partitions {held}", err=True)


async def _ping(
    servers: list[str], secrets: BusSecrets, relay: str | None, tls: TlsFiles | None = None
) -> Found:
    found = Found()
    try:
        async with as_relay(servers, secrets, "sealbus ping", ASK_S, tls, is_check=True) as nc:
            await _ask(nc, secrets, relay, found)
    except (ConnectionFailed, BusSilent) as error:
        about = "disk" if STORES_NOTHING in error.what else "nats"
        found.problems.append(BusProblem(Level.RED, about, error.what, str(error.hint)))
    found.judge()
    return found


async def _ask(nc: HardenedClient, secrets: BusSecrets, relay: str | None, found: Found) -> None:
    _, found.relay = await asyncio.gather(_ask_streams(nc, found), _ask_relay(nc, relay))
    if found.relay is None:
        which = "no relay answers" if relay is None else f"the relay {relay} does not answer"
        hint = "start one: `sealbus relay`" if relay is None else "start it with this --name"
        hint += "; the log of a running relay says why it does not answer"
        found.problems.append(BusProblem(Level.RED, "relay", f"NATS answers, and {which}", hint))
        return
    told = [
        BusProblem(Level(one["level"]), one["about"], one["what"], one["hint"])
        for one in found.relay["problems"]
    ]
    known = {problem.about for problem in found.problems}
    found.problems += [problem for problem in told if problem.about not in known]
    if relay is None:
        await _probe(nc, secrets, found.relay, found)


async def _ask_streams(nc: HardenedClient, found: Found) -> None:
    # At the same time: a cluster is silent about each stream without a leader.
    infos = await asyncio.gather(*(_ask_stream(nc, name) for name in STREAMS))
    if not any(infos):
        what = "JetStream does not answer"
        found.problems.append(BusProblem(Level.RED, "jetstream", what, RESTART))
        return
    for name, info in zip(STREAMS, infos, strict=True):
        if info is None:
            found.problems.append(unheard(name, is_cluster=bool(nc.cluster)))
            continue
        if "error" in info:
            what = f"stream {name}: {info['error'].get('description')}"
            hint = "has a relay run yet?" if is_missing(info) else NO_LEADER
            found.problems.append(BusProblem(Level.RED, name, what, hint))
            continue
        state = info["state"]
        limit = info["config"]["max_bytes"]
        row = {
            "stream": name,
            "messages": state["messages"],
            "bytes": state["bytes"],
            "limit": limit,
        }
        found.streams.append(row | {"full": round(fill(info), 4)})


async def _ask_stream(nc: HardenedClient, name: str) -> dict[str, Any] | None:
    """Ask for the state of a stream. ``None``: there is no answer."""
    try:
        answer = await request_over_reload(nc, f"{API}.STREAM.INFO.{name}", b"", ASK_S)
        info: dict[str, Any] = json.loads(answer.data)
    except (NatsError, OSError, TimeoutError, ValueError):
        return None
    return info


async def _ask_relay(nc: HardenedClient, relay: str | None) -> dict[str, Any] | None:
    """Ask a relay for its report. ``None``: there is no answer.

    A relay that has just started is asked again until its first look at the bus is over.
    """
    subject = PING_SUBJECT if relay is None else f"{PING_SUBJECT}.{relay}"
    report: dict[str, Any] | None = None
    with contextlib.suppress(NatsError, OSError, TimeoutError, ValueError):
        async with asyncio.timeout(ASK_S):
            report = json.loads((await nc.request(subject, b"", ASK_S)).data)
            while report is not None and report["looked_s_ago"] is None:
                await asyncio.sleep(AGAIN_S)
                report = json.loads((await nc.request(subject, b"", ASK_S)).data)
    return report


async def _probe(
    nc: HardenedClient, secrets: BusSecrets, relay: dict[str, Any], found: Found
) -> None:
    """Send a message the whole way, unless the relay has reported that none is accepted."""
    if any(problem.about == "probe" for problem in found.problems):
        return
    prober = Prober(
        nc, key=secrets.signing(clock_ms()), sender="ping", trusted=lambda: secrets.trusted
    )
    await prober.open()
    began = time.monotonic()
    try:
        stamp = await prober.probe(relay["bus"], relay["ttl_ms"], clock_ms(), PROBE_S)
    except (NatsError, OSError, TimeoutError):
        what = f"the bus accepts nothing: a message had no verdict within {PROBE_S:g} s"
        found.problems.append(BusProblem(Level.RED, "probe", what, RESTART))
        return
    found.probe = {
        "verdict": stamp.verdict.value,
        "ms": round((time.monotonic() - began) * 1000, 1),
    }
    if not is_accepted(stamp):
        what = f"the bus refused its own test message ({stamp.reason})"
        hint = "are the clocks of this machine, the relays and nats-server right?"
        found.problems.append(BusProblem(Level.RED, "probe", what, hint))
