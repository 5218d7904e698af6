"""``sealbus reload``: has relays look at their folder, and shows the policy that is in force."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import click
from nats.aio.msg import Msg

from sealbus.errors import ConnectionFailed, Malformed
from sealbus.nats.client import HardenedClient
from sealbus.protocol.keys import PublicKey
from sealbus_broker.cli.shared.as_relay import as_relay
from sealbus_broker.cli.shared.bus_options import dir_option, server_option
from sealbus_broker.cli.shared.errors import AnsweredNo, Unusable
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.operator import table
from sealbus_broker.cli.shared.options import seconds
from sealbus_broker.cli.shared.signals import CONNECT_S, Stop, run
from sealbus_broker.escape import json_line, readable
from sealbus_broker.gate.policy import Policy
from sealbus_broker.nats.presence import RELAY_SUBJECT, PresenceWord
from sealbus_broker.policy.problems import Problem
from sealbus_broker.relay.following.asking import RELOAD_SUBJECT, question
from sealbus_broker.relay.secrets import BusSecrets

WAIT_S: Final = 10.0
"""Longest wait by default. A change takes less than two seconds, with the sessions of bots."""

FIRST_S: Final = 8.0
"""Longest wait for the first answer. A relay reads its folder before it answers. A folder of a
thousand bots takes a second, and some on a busy machine."""

REST_S: Final = 0.5
"""Longest silence before the next answer, where no relay is known to be late. All relays are asked
at once, and read folders of one size. In this time each has said twice that it is there."""

NOTICE_S: Final = 2.0
"""After this time (s) --wait names the cause of the wait, and after as much time a new cause. A
change without trouble is done by then."""

PAUSE_S: Final = 0.1
"""The pause before the next question where no relay answers. NATS says that at once."""

AGAIN_S: Final = 0.1
"""Longest silence before the next answer to a later question of ``--wait``. Then relays answer at
once."""

HEAD: Final = ("relay", "policy in force", "newest", "sessions obey")


@click.command()
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until all relays have this folder's policy in force, and all sessions obey it.",
)
@click.option(
    "--timeout",
    type=seconds,
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long --wait may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a relay, one a line.")
@server_option
@dir_option
def reload(
    wait: bool, timeout: float, as_json: bool, servers: tuple[str, ...], folder: str | None
) -> None:
    """Have all relays read their folder now.

    The command shows the policy that each relay has in force, whether that is the policy of this
    folder (newest), and whether no session of a bot has older rights (sessions obey). Relays notice
    a change by themselves within seconds, so the command is needed only to see it. The exit code is
    3 if this folder has a problem, or if a relay cannot use or read its own. It is 1 if no relay
    answers, or if --timeout ends --wait.
    """
    bus = BusFolder.find(folder)
    secrets = bus.secrets()
    wanted = _policy(bus, secrets.bus.public).digest.hex()

    async def ask(_: Stop) -> _Answers:
        within_s, end_s = _limits(timeout if wait else None)
        tls = bus.tls(servers)
        async with as_relay(bus.servers(servers), secrets, "sealbus reload", within_s, tls) as nc:
            return await _until(nc, wanted, end_s)

    answers = run(ask)
    reports = sorted(answers.reports, key=lambda one: str(one["relay"]))
    if as_json:
        for report in reports:
            click.echo(json_line(report | {"newest": report["policy"] == wanted}))
    else:
        for line in table(HEAD, [_columns(report, wanted) for report in reports]):
            click.echo(line)
    _judge(answers, wanted, timeout if wait else None)
    _tell_unheard(reports)


@dataclass(frozen=True, slots=True)
class ReloadWait:
    """A command that changes the folder, and then waits until the change is in force."""

    bus: BusFolder
    secrets: BusSecrets
    servers: tuple[str, ...]
    timeout_s: float

    @classmethod
    def prepare(cls, bus: BusFolder, servers: tuple[str, ...], timeout_s: float) -> ReloadWait:
        """Find what the wait needs, before anything is changed. Raises as a missing key does."""
        return cls(bus, bus.secrets(), bus.servers(servers), timeout_s)

    def run(self) -> None:
        """Wait, and say how long it took, and how many sessions ended.

        Raises:
            ConnectionFailed: No relay answers, or not all obey in time. The change is made.
            BusSilent: The connection is lost. The change is made.
            AnsweredNo: A relay cannot use the folder.
        """
        began = time.monotonic()
        wanted = _policy(self.bus, self.secrets.bus.public).digest.hex()

        async def ask(_: Stop) -> _Answers:
            within_s, end_s = _limits(self.timeout_s)
            tls = self.bus.tls(self.servers)
            async with as_relay(self.servers, self.secrets, "sealbus keys", within_s, tls) as nc:
                return await _until(nc, wanted, end_s)

        answers = run(ask)
        _judge(answers, wanted, self.timeout_s)
        reports = answers.reports
        relays = f"{len(reports)} {'relay' if len(reports) == 1 else 'relays'}"
        ended = max(int(one["sessions_ended"]) for one in reports)
        sessions = f"{ended} {'session' if ended == 1 else 'sessions'}"
        took = time.monotonic() - began
        click.echo(f"in force at {relays} after {took:.1f} s; {sessions} ended", err=True)
        _tell_unheard(reports)


def _policy(bus: BusFolder, bus_key: PublicKey) -> Policy:
    try:
        return bus.policy(bus_key)
    except Unusable as error:
        hint = "relays keep the policy that is in force; `sealbus check` lists the problems"
        raise AnsweredNo(error.what, hint=hint) from None


def _limits(timeout_s: float | None) -> tuple[float, float | None]:
    """How long it may take to connect, and the time by the loop's clock at which ``--wait`` ends.

    ``None`` stands for a command that does not wait.
    """
    if timeout_s is None:
        return CONNECT_S, None
    return min(CONNECT_S, timeout_s), asyncio.get_running_loop().time() + timeout_s


@dataclass(frozen=True, slots=True)
class _Answers:
    """The answers of relays to one question, or the last answer of each."""

    reports: list[dict[str, Any]]
    silent: frozenset[str] = frozenset()
    """The relays that say that they are there, and have not answered."""


async def _until(nc: HardenedClient, wanted: str, end_s: float | None) -> _Answers:
    """Ask all relays; then ask again until all obey, or until ``end_s``. ``None``: ask once.

    Return the last answer of each. A relay that has answered once counts, also if it falls silent.
    """
    loop = asyncio.get_running_loop()
    notice_s = loop.time() + NOTICE_S
    noticed = ""
    told = await _ask(nc, end_s, look=True)
    reports = _by_relay(told.reports)
    while not _is_done(reports, wanted) or told.silent:
        if end_s is None or loop.time() >= end_s or _is_refused(reports):
            break
        awaited = _awaited(reports, wanted, told.silent)
        if loop.time() >= notice_s and awaited != noticed:
            notice_s, noticed = loop.time() + NOTICE_S, awaited
            click.echo(f"waiting for {awaited}", err=True)
        # A relay that has not answered yet looks when it does.
        told = await _ask(nc, end_s, look=not reports or bool(told.silent))
        reports = _by_relay([*reports, *told.reports])
        if not told.reports:
            await asyncio.sleep(PAUSE_S)
    if not reports:
        raise ConnectionFailed(
            "NATS answers, and no relay does",
            hint="is one running, and of this version? its log says more",
        )
    return _Answers(reports, told.silent)


def _by_relay(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last answer of each relay."""
    return list({report["relay"]: report for report in reports}.values())


async def _ask(nc: HardenedClient, end_s: float | None, *, look: bool) -> _Answers:
    """Ask all relays; return the answers that come before ``end_s``.

    With ``look``, a relay that says that it is there is waited for, up to :data:`FIRST_S`.
    """
    reports: list[dict[str, Any]] = []
    there: set[str] = set()
    now = asyncio.get_running_loop().time
    last_s = now() + FIRST_S if end_s is None else min(now() + FIRST_S, end_s)

    async def hear(word: Msg) -> None:
        with contextlib.suppress(Malformed):
            said = PresenceWord.decode(word.data)
            (there.discard if said.stopping else there.add)(said.name)

    words = await nc.subscribe(RELAY_SUBJECT, cb=hear)
    subscription = await nc.subscribe(inbox := nc.new_inbox())
    try:
        await nc.publish(RELOAD_SUBJECT, question(look=look), reply=inbox)
        rest_s = REST_S if look else AGAIN_S
        while True:
            left_s = max(0.0, last_s - now())
            try:
                answer = await subscription.next_msg(min(rest_s, left_s) if reports else left_s)
            except TimeoutError:
                if now() >= last_s or not look or there <= _names(reports):
                    break
                continue
            if not answer.data:  # NATS itself says that nobody listens
                break
            reports.append(json.loads(answer.data))
    finally:
        await words.unsubscribe()
        await subscription.unsubscribe()
    return _Answers(reports, frozenset(there - _names(reports)) if look else frozenset())


def _names(reports: list[dict[str, Any]]) -> set[str]:
    return {str(one["relay"]) for one in reports}


def _is_done(reports: list[dict[str, Any]], wanted: str) -> bool:
    done = [one["policy"] == wanted and one["sessions_obey"] for one in reports]
    return all(done) and bool(done)


def _awaited(reports: list[dict[str, Any]], wanted: str, silent: frozenset[str]) -> str:
    """Say what a wait waits for."""
    if not reports:
        return "a relay to answer: while a majority of the nodes is away, none may serve"
    found = []
    for one in reports:
        reason = one.get("waits_for")
        if one["policy"] != wanted:
            reason = "the policy of this folder"
        if reason is not None:
            found.append(f"{readable(str(one['relay']))}: {readable(str(reason), 200)}")
    found += [f"{readable(name)}: its answer" for name in sorted(silent)]
    return "; ".join(found) or "all sessions to obey"


def _is_refused(reports: list[dict[str, Any]]) -> bool:
    return any(one["problems"] for one in reports)


def _judge(answers: _Answers, wanted: str, waited_s: float | None) -> None:
    """Raise an error if not all relays have the policy in force, or cannot use it."""
    reports = answers.reports
    for report in reports:
        name = readable(str(report["relay"]))
        if report["problems"]:
            problem = Problem(**report["problems"][0])
            raise AnsweredNo(
                f"the relay {name} cannot use its folder: {readable(str(problem))}",
                hint="the policy in force stays; the relay's log has all problems",
            )
        if report["unseen"] is not None:
            raise AnsweredNo(
                f"the relay {name} cannot read its folder: {readable(str(report['unseen']))}",
                hint="it goes by the last policy that it has read; look at its disk",
            )
    if waited_s is None or (_is_done(reports, wanted) and not answers.silent):
        return
    others = [readable(str(one["relay"])) for one in reports if one["policy"] != wanted]
    if others:
        raise ConnectionFailed(
            f"after {waited_s:g} s another policy is in force at: {', '.join(others)}",
            hint="does that relay have another copy of the folder? bring it the change",
        )
    if answers.silent:
        names = ", ".join(readable(name) for name in sorted(answers.silent))
        raise ConnectionFailed(
            f"after {waited_s:g} s there is no answer from: {names}",
            hint="give --timeout more time; the log of that relay says more",
        )
    raise ConnectionFailed(
        f"the policy is in force, and after {waited_s:g} s not all sessions obey it; relays wait"
        f" for {_awaited(reports, wanted, answers.silent)}",
        hint="relays go on until all do; their logs say why it takes long",
    )


def _tell_unheard(reports: list[dict[str, Any]]) -> None:
    """Name the nodes of a cluster whose sessions no relay could ask for."""
    unheard = sorted({str(name) for one in reports for name in one.get("nodes_unheard", ())})
    if unheard:
        names = ", ".join(readable(name) for name in unheard)
        click.echo(
            f"note: no answer from {names}. Nothing that a session there sends is accepted under"
            " rights that have ended. Relays end such sessions when the node answers",
            err=True,
        )


def _columns(report: dict[str, Any], wanted: str) -> list[str]:
    return [
        readable(str(report["relay"])),
        str(report["policy"])[:16],
        "yes" if report["policy"] == wanted else "no",
        "yes" if report["sessions_obey"] else "not yet",
    ]
