"""``sealbus keys rotate-bus`` and ``show-bus``: the keys of the bus itself.

A rotation has two steps with a wait between them. The first makes the next key, links it to the
present one, and publishes the link. From then on bots learn the next key. Relays seal with it once
every session of before is over. The second, ``--finish``, deletes the private half of the old key.

Each step writes ``.sealbus/relay.toml`` first and as a whole, and everything else follows from that
file. So a command that was killed half-way is said again, and goes on.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Final

import click

from sealbus.errors import ConnectionFailed
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.cli.keys.files import the_bus
from sealbus_broker.cli.keys.times import LONGEST_DAYS, OVERLAP, read_duration
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import BusSilent, Unusable
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.operator import table
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, run
from sealbus_broker.escape import json_line
from sealbus_broker.gate.policy import Policy
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.reader import time_text
from sealbus_broker.policy.replace import alone
from sealbus_broker.relay.bus_keys import RelayKeys
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.store.clocks import clock_ms

SPARE_MS: Final = 60_000
"""How much later than the last session of before the next key is used: for the publishing, and for
clocks that differ."""

LEAST_OVERLAP_MS: Final = 60 * 60 * 1000
"""The shortest overlap. An operator has to copy a file to each machine with a relay."""

HEAD: Final = ("key", "state", "from", "until")


@click.command("rotate-bus")
@click.option(
    "--overlap",
    default=OVERLAP,
    show_default=True,
    callback=read_duration,
    metavar="DURATION",
    help="How long the old key counts after relays seal with the new one: from 1h to"
    f" {LONGEST_DAYS}d.",
)
@click.option("--finish", is_flag=True, help="Delete the private half of the old key.")
@server_option
@dir_option
def rotate_bus(overlap: int, finish: bool, servers: tuple[str, ...], folder: str | None) -> None:
    """Give the bus another key of its own. Credentials of bots stay as they are.

    The first call makes the next key in .sealbus/relay.toml, and publishes a link to it that the
    present key seals. Bots follow it when they renew their sessions. Relays seal with the next key
    when all earlier sessions are over (limits.session, and a minute). They notice the file by
    themselves. Where relays run on several machines, copy the file to each of them within the
    overlap. Then say it with --finish on each.

    This does not help where a thief has the present key already, because the thief can publish a
    link too. Then move .sealbus/relay.toml away, make another bus key with
    `sealbus up --new-keys`, and new credentials for each bot.
    """
    bus = BusFolder.find(folder)
    facts = the_bus(bus, ())
    secrets = bus.secrets()
    policy = bus.policy(secrets.bus.public)
    now_ms = clock_ms()
    if not finish and secrets.next is None:
        with contextlib.suppress(ConnectionFailed):
            # Before anything is made: a second rotation elsewhere would contradict the first. A
            # bus that runs and is silent may have one, so BusSilent ends the command.
            _agree(bus, secrets, policy, servers)
    with alone(bus.state):
        # Read again: another command may have written the file meanwhile.
        secrets = bus.secrets()
        if finish:
            secrets = _finish(bus, secrets, now_ms)
        elif secrets.next is None:
            secrets = _begin(bus, secrets, policy, now_ms, overlap)
    bus.record(lambda known: replace(known or facts, bus_keys=secrets.publics, links=secrets.links))
    if not secrets.links:
        return
    try:
        _agree(bus, secrets, policy, servers)
    except (ConnectionFailed, BusSilent) as error:
        bus.talk.note(
            f"bots do not learn the new key yet: {error.what}; a relay tells them when it runs"
        )
    click.echo(secrets.publics[-1].text)
    _say_phase(bus, secrets, now_ms)


def _begin(
    bus: BusFolder, secrets: BusSecrets, policy: Policy, now_ms: int, overlap_ms: int
) -> BusSecrets:
    if overlap_ms < LEAST_OVERLAP_MS:
        raise click.BadParameter(
            "shorter than 1h, in which no operator copies a file to all relays",
            param_hint="--overlap",
        )
    # In whole seconds, as everything shows it.
    from_ms = -(-(now_ms + policy.limits.session_ms + SPARE_MS) // 1000) * 1000
    made = secrets.rotated(
        policy.bus,
        now_ms=now_ms,
        from_ms=from_ms,
        end_ms=from_ms + overlap_ms,
        kept_ms=_kept_ms(policy),
    )
    made.rewrite(bus.secrets_file)
    click.echo(f"made the next bus key in {bus.secrets_file}", err=True)
    return made


def _kept_ms(policy: Policy) -> int:
    """How long the streams keep a message that a key has stamped."""
    return max(policy.limits.retention_ms, policy.ledger_window_ms)


def _finish(bus: BusFolder, secrets: BusSecrets, now_ms: int) -> BusSecrets:
    if secrets.next is None:
        click.echo("nothing to do: no rotation of the bus key is under way here", err=True)
        return secrets
    from_ms = secrets.chain[-1].from_ms
    if now_ms < from_ms:
        raise Unusable(
            f"relays seal with the old bus key until {time_text(from_ms)}",
            hint="say it again then; until then the old key is needed",
        )
    finished = secrets.finished()
    finished.rewrite(bus.secrets_file)
    click.echo(f"deleted {secrets.bus.public.text} from {bus.secrets_file}", err=True)
    return finished


def _agree(bus: BusFolder, secrets: BusSecrets, policy: Policy, servers: tuple[str, ...]) -> None:
    """Have the list for bots stored, and see that it is that of this folder.

    Raises:
        ConnectionFailed: The bus is down.
        BusSilent: It runs, and does not answer.
        Unusable: Another machine has rotated the bus key, or a list contradicts this one.
    """
    keys = RelayKeys(secrets, InForce(policy, time.monotonic), now_ms=clock_ms)

    async def look(_: Stop) -> None:
        tls = bus.tls(servers)
        async with as_relay(bus.servers(servers), secrets, "sealbus keys", CONNECT_S, tls) as nc:
            await keys.look(nc)

    run(look)
    for problem in keys.problems():
        raise Unusable(problem.what, hint=problem.hint)


def _say_phase(bus: BusFolder, secrets: BusSecrets, now_ms: int) -> None:
    """Say what happens next, and what there is to do."""
    last = secrets.chain[-1]
    old = PublicKey(last.old, KeyKind.BUS).text
    if secrets.next is None:
        click.echo(f"{old} counts until {time_text(last.end_ms)}", err=True)
        return
    verb = "seal" if last.from_ms <= now_ms else "will seal"
    click.echo(f"relays {verb} with the new key from {time_text(last.from_ms)} on", err=True)
    click.echo(
        f"copy {bus.secrets_file} to each other machine with a relay before"
        f" {time_text(last.end_ms)}, when the old key ends",
        err=True,
    )
    click.echo(f"say `sealbus keys rotate-bus --finish` after {time_text(last.from_ms)}", err=True)


@click.command("show-bus")
@dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a key, one a line.")
def show_bus(folder: str | None, as_json: bool) -> None:
    """Show the keys of the bus itself, with the times from when to when each seals.

    They are those in bus.toml. "next" is a key that relays do not seal with yet, and "ending" one
    that relays may still seal with.
    """
    facts = the_bus(BusFolder.find(folder), ())
    rows = bus_key_rows(facts, clock_ms())
    if as_json:
        for row in rows:
            click.echo(json_line(row))
        return
    for line in table(HEAD, [[row[name] or "-" for name in HEAD] for row in rows]):
        click.echo(line)


def bus_key_rows(facts: BusFile, now_ms: int) -> list[dict[str, str | None]]:
    """The keys of a bus, oldest first: key, state, and the times from when and until when."""
    chain = facts.chain
    begins = {link.new: link.from_ms for link in chain}
    ends = {link.old: (link.from_ms, link.end_ms) for link in chain}
    raws = [*(link.old for link in chain), *(link.new for link in chain[-1:])]
    raws += [key.raw for key in facts.bus_keys if key.raw not in raws]
    rows = []
    for raw in raws:
        begin = begins.get(raw, facts.made_ms)
        follower_ms, end = ends.get(raw, (None, None))
        if end is not None and end < now_ms:
            state = "ended"
        elif begin is not None and begin > now_ms:
            state = "next"
        else:
            state = "ending" if follower_ms is not None and follower_ms <= now_ms else "in use"
        rows.append(
            {
                "key": PublicKey(raw, KeyKind.BUS).text,
                "state": state,
                "from": None if begin is None else time_text(begin),
                "until": None if end is None else time_text(end),
            }
        )
    return rows
