"""Attacks of the corpus (``tests/attacks``) that have a meaning everywhere, tried on every peer.

The question is whether the peer's receiver hears a message that it should not hear. Each row names
its cases of the corpus. The attacker of each peer says how it is done there
(:mod:`benchmarks.attacking`).

``python -m benchmarks.attacks`` prints the matrix. Each attack meets a peer that has just started,
with the peer's own sender and receiver, and has three steps:

1. the honest message, sent by the attacker: it must arrive, or the rest means nothing;
2. the attack, over the peer's real interfaces (:mod:`benchmarks.attacking`);
3. honest messages of the peer's own sender to each receiver: when they have arrived, each message
   before them has arrived too, or never will.

An attack was let through if the receivers' handlers were called more often than there were honest
messages. No outcome is known before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.attacking.attacker import SIZE, Attacker, NotApplicable
from benchmarks.bus import BUS, Bus, pairs_plan
from benchmarks.peers import make
from benchmarks.workload import order
from sealbus import Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from tests.attacks.families import NAMED

if TYPE_CHECKING:
    from benchmarks.peer import Peer, Sender

PAIRS: Final = 2
ARRIVE_S: Final = 5.0
SOON_S: Final = 0.05
"""Long enough for most attacks that get through.

Slower ones are heard before the honest message that follows.
"""
QUIET_S: Final = 0.1
"""How long nothing more may arrive after that message.

Lines keep their order, so this is for handlers that run side by side.
"""

NETWORK, BOT, SENDER = "the network", "a lesser bot", "the sender's key"


@dataclass(frozen=True, slots=True)
class Attack:
    """One row. The attacker's method of the same name carries it out."""

    key: str
    what: str
    needs: str
    """The means of the attacker."""
    cases: tuple[str, ...]
    """The cases of the corpus. A peer with several ways in is tried in each."""

    @property
    def method(self) -> str:
        """The name of the method of :class:`Attacker`."""
        return self.key.replace("-", "_")

    @property
    def family(self) -> str:
        """The corpus's family of the first case."""
        return NAMED[self.cases[0]].family


ATTACKS: Final = (
    Attack("anonymous", "an order, without credentials of any kind", NETWORK, ("nothing_said",)),
    Attack(
        "injected",
        "an order of the attacker's own, past all that stands before the receiver",
        NETWORK,
        ("a_delivery_of_its_own_making",),
    ),
    Attack("altered", "a captured order, its prices changed", NETWORK, ("a_changed_payload",)),
    Attack(
        "replay",
        "a captured order, once more",
        NETWORK,
        ("replayed_at_once", "a_captured_envelope_in_another_session", "a_delivery_shown_again"),
    ),
    Attack(
        "replay-late",
        "a captured order, kept back until it has expired",
        NETWORK,
        ("kept_for_later",),
    ),
    Attack(
        "other-receiver",
        "a captured order, to another receiver",
        NETWORK,
        ("a_changed_subject", "a_delivery_on_another_subject"),
    ),
    Attack("garbage", "bytes that are no message", BOT, ("garbage",)),
    Attack(
        "unsigned",
        "an order to whom the bot may speak, but unsigned",
        BOT,
        ("no_signature_at_all",),
    ),
    Attack(
        "other-name",
        "an order in the sender's name, with the bot's own key",
        BOT,
        ("another_name_inside", "another_bots_key"),
    ),
    Attack(
        "not-granted",
        "an order in the bot's own name, to whom it may not speak",
        BOT,
        ("a_subject_outside_the_grant",),
    ),
    Attack("schema", "an order that the schema does not allow", SENDER, ("a_quantity_of_nothing",)),
    Attack("named-twice", "an order with two values for one name", SENDER, ("a_duplicate_key",)),
    Attack(
        "same-id",
        "another order under an identifier that has been used",
        SENDER,
        ("another_payload_under_a_used_nonce",),
    ),
    Attack("future", "an order dated an hour ahead", SENDER, ("issued_ahead_of_time",)),
    Attack("long-life", "an order that can be used for a day", SENDER, ("a_life_too_long",)),
    Attack(
        "revoked",
        "an order under a key that has been revoked",
        SENDER,
        ("a_revoked_key", "a_key_that_leaked"),
    ),
)
"""In the order of the table."""

ATTACKERS: Final = {
    "sealbus": "benchmarks.attacking.sealbus:OnSealbus",
    "https": "benchmarks.attacking.https:OnHttps",
    "uagents": "benchmarks.attacking.uagents:OnUAgents",
    "nostr": "benchmarks.attacking.nostr:OnNostr",
    "faststream": "benchmarks.attacking.nats:OnFastStream",
    "jetstream": "benchmarks.attacking.nats:OnJetStream",
    "nats": "benchmarks.attacking.nats:OnNats",
}
"""By the name of the peer. A peer that only sends in another way has none: see :data:`VARIANTS`."""

VARIANTS: Final = frozenset({"sealbus-tls", "sealbus-alone", "https-64", "jetstream-64"})
"""Peers whose messages are protected as those of the peer before the hyphen are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One attack on one peer."""

    attack: str
    what: str
    needs: str
    cases: tuple[str, ...]
    peer: str
    let_through: bool | None
    """``None`` if it does not apply, or could not be tried. The note says which."""
    note: str = ""


class Invalid(RuntimeError):
    """The trial says nothing, because an honest message did not arrive."""


class _Ear:
    """Counts the calls of the receiver's handler."""

    def __init__(self) -> None:
        self.count = 0
        self._more = asyncio.Event()

    def hear(self) -> None:
        """The handler was called."""
        self.count += 1
        self._more.set()

    async def reaches(self, count: int, within_s: float) -> bool:
        """Whether ``count`` were heard in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.count < count:
                    self._more.clear()
                    await self._more.wait()
        return self.count >= count


async def run(
    folder: Path,
    peers: Iterable[str] | None = None,
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Try every attack on each of ``peers``, which by default are all.

    Returns :class:`Row` as plain values, peer by peer. ``folder`` exists, and takes the files.
    ``quick`` changes nothing, because a short run tries every attack too.
    """
    del quick
    rows: list[Row] = []
    async with attacked_bus(folder / "bus") as bus:
        for name in ATTACKERS if peers is None else peers:
            mine = await attacked(name, bus, folder)
            through = sum(row.let_through is True for row in mine)
            tried = sum(row.let_through is not None for row in mine)
            say(f"{name}: lets {through} of {tried} through")
            rows += mine
    return [asdict(row) for row in rows]


async def attacked(name: str, bus: Bus, folder: Path) -> list[Row]:
    """Try every attack on the peer ``name``, one after the other."""
    return [await trial(name, attack, bus, folder) for attack in ATTACKS]


def attacked_bus(folder: Path) -> Bus:
    """A bus on which ``s0`` has a second key, revoked an hour ago."""
    bus = Bus(folder, pairs_plan(PAIRS))
    valid = Credentials.load(bus.credentials("s0"))
    old = SigningKey.generate(KeyKind.BOT)
    Credentials(BUS, "s0", old, valid.servers, valid.bus_keys).write(bus.credentials("s0-revoked"))
    made, revoked = (datetime.now(UTC) - timedelta(hours=hours) for hours in (2, 1))
    with (folder / "keys" / "s0.yaml").open("a") as keys:
        keys.write(f"  - key: {old.public.text}\n")
        keys.write(f"    not_before: {made:%FT%TZ}\n    revoked: {revoked:%FT%TZ}\n")
    return bus


async def trial(name: str, attack: Attack, bus: Bus, folder: Path) -> Row:
    """Try one attack on one peer, started for it."""
    place = folder / f"{name}-{attack.key}"
    place.mkdir()
    about = (attack.key, attack.what, attack.needs, attack.cases, name)
    peer = make(name, bus)
    try:
        return Row(*about, *await attempt(peer, attacker_class(name), attack, place))
    except NotApplicable as lack:
        return Row(*about, None, str(lack))
    except Invalid as error:
        return Row(*about, None, f"invalid: {error}")


def attacker_class(name: str) -> type[Attacker]:
    """The attacker of the peer ``name``."""
    module, _, attribute = ATTACKERS[name].partition(":")
    found: type[Attacker] = getattr(importlib.import_module(module), attribute)
    return found


async def attempt(
    peer: Peer, kind: type[Attacker], attack: Attack, folder: Path
) -> tuple[bool, str]:
    """Whether the attack got through, and a note about it."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(peer.stop)
        setup = await peer.start(folder, PAIRS)
        attacker = kind(setup)
        stack.push_async_callback(attacker.close)
        tapped = await attacker.open(folder)
        receiver, sender, ear = peer.receiver(), peer.sender(), _Ear()
        stack.push_async_callback(receiver.close)
        await receiver.open(tapped, PAIRS, ear.hear)
        stack.push_async_callback(sender.close)
        await sender.open(setup, PAIRS)

        await attacker.honest()
        if not await ear.reaches(1, ARRIVE_S):
            raise Invalid("the honest message that the attacker sent did not arrive")
        await getattr(attacker, attack.method)()
        honest = 1 + attacker.meant
        if await ear.reaches(honest + 1, SOON_S):
            return True, ""
        await _speak(sender)
        await ear.reaches(honest + PAIRS, ARRIVE_S)
        await ear.reaches(honest + PAIRS + 1, QUIET_S)
        heard = ear.count
        if heard < honest:
            raise Invalid(f"{honest} honest messages were sent, {heard} arrived")
        # Once more. A receiver that an attack reached and ended has heard as many messages as a
        # receiver that it did not reach.
        await _speak(sender)
        await ear.reaches(heard + PAIRS, ARRIVE_S)
        alive = ear.count - heard
        note = (
            ""
            if alive == PAIRS
            else f"of {PAIRS} receivers, {PAIRS - alive} heard nothing afterwards"
        )
        return heard > honest + alive, note


async def _speak(sender: Sender) -> None:
    """Make the peer's own sender send an order to each receiver."""
    for pair in range(PAIRS):
        try:
            async with asyncio.timeout(ARRIVE_S):
                await sender.send(pair, order(2 + pair, SIZE))
        except Exception as error:  # noqa: BLE001 - a peer may raise any error
            print(f"honest message {pair}: {error!r}", file=sys.stderr)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the matrix, and the notes."""
    from rich.console import Console
    from rich.table import Table

    peers = list(dict.fromkeys(row["peer"] for row in rows))
    table = Table(title="What each peer lets through", title_justify="left")
    for column in ("family", "attack", "what", "by one who has", *peers):
        table.add_column(column)
    for attack in ATTACKS:
        found = {row["peer"]: _word(row) for row in rows if row["attack"] == attack.key}
        table.add_row(
            attack.family, attack.key, attack.what, attack.needs, *(found[peer] for peer in peers)
        )
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    console.print(table)
    for row in rows:
        if row["note"]:
            console.print(f"{row['peer']}, {row['attack']}: {row['note']}", markup=False)


def _word(row: dict[str, Any]) -> str:
    word = {True: "[red]through[/red]", False: "[green]stopped[/green]", None: "–"}[
        row["let_through"]
    ]
    return f"{word}*" if row["note"] else word


def main() -> int:
    """Returns the exit code: 1 if a trial was invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description="Try a corpus of attacks on every peer."
    )
    parser.add_argument("--only", metavar="PEER,…", help=f"only these of {', '.join(ATTACKERS)}")
    parser.add_argument(
        "--json", action="store_true", help="one object a line, in place of the table"
    )
    asked = parser.parse_args()
    peers = asked.only.split(",") if asked.only else list(ATTACKERS)
    if unknown := [name for name in peers if name not in ATTACKERS]:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(ATTACKERS)}")
    with tempfile.TemporaryDirectory(prefix="sealbus-attacks-") as temporary:
        rows = asyncio.run(
            run(Path(temporary), peers, say=lambda what: print(what, file=sys.stderr, flush=True))
        )
    if asked.json:
        for row in rows:
            print(json.dumps(row))
    else:
        show(rows)
    return 1 if any(row["note"].startswith("invalid") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
