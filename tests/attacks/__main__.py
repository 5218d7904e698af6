"""``make attack`` tries every attack on a running bus.

It prints a table of the checks that stopped them. It exits with 1 if an attack got through or met
another reason than its own.

``ARGS=--without-each`` takes out each check of the gate in turn, and names the attacks that get
through then, and the reasons that stop the others. ``ARGS="--relay-without each"`` sends the
attacks that get through to a bus whose relay lacks the check. ``ARGS=--json`` gives one object a
line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.attacks.corpus import Attack, Shown, Written
from tests.attacks.families import ATTACKS
from tests.attacks.ground import Ground
from tests.attacks.trial import Found, attempt, in_the_gate
from tests.attacks.without import checks, each, without
from tests.gate.bus import ACCEPTED


async def tried(missing: str | None, attacks: Sequence[Attack] = ATTACKS) -> list[Found]:
    """Try ``attacks`` on a bus of their own, whose relay does not make the check ``missing``."""
    with tempfile.TemporaryDirectory(prefix="sealbus-attacked-") as folder:
        async with Ground(Path(folder) / "bus", missing) as ground:
            return [
                in_the_gate(attack) if attack.alone else await attempt(attack, ground)
                for attack in attacks
            ]


def tried_on(attack: Attack) -> str:
    """Where an attack is tried."""
    if attack.alone:
        return "gate"
    return "this machine" if isinstance(attack.case, Written | Shown) else "running bus"


def row(found: Found) -> dict[str, object]:
    """One line of ``--json``."""
    attack = found.attack
    return {
        "family": attack.family,
        "attack": attack.name,
        "about": attack.about,
        "on": tried_on(attack),
        "expected": {"where": attack.where.value, "reason": attack.reason},
        "reason": found.reason,
        "stopped": found.is_stopped,
        "delivered": found.delivered,
        "before": found.before or None,
    }


def say(line: str) -> None:
    """Write a line of data."""
    sys.stdout.write(line + "\n")


def show(all_found: list[Found]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "family",
        "attack",
        "stopped by",
        "reason",
        "delivered",
        title="Attacks tried",
        title_justify="left",
    )
    for found in all_found:
        attack = found.attack
        where = attack.where.value if found.is_stopped else f"wrong: {attack.reason} expected"
        name = attack.name.replace("_", " ") + (" (gate alone)" if attack.alone else "")
        table.add_row(
            attack.family,
            name,
            where,
            found.reason,
            str(found.delivered) if found.delivered else "nothing",
        )
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False, markup=False)
    console.print(table)
    stopped = sum(found.is_stopped for found in all_found)
    delivered = sum(found.delivered for found in all_found)
    console.print(
        f"{len(all_found)} tried, {stopped} stopped for their own reason, {delivered} delivered"
    )


def show_without_each(*, as_json: bool) -> int:
    """Take out each check in turn. Returns 1 if no attack notices one of them."""
    all_found = list(each())
    for found in all_found:
        through = [attack.name for attack in found.through]
        say(
            json.dumps({"without": found.check, "through": through, "instead": found.instead})
            if as_json
            else str(found)
        )
    return 0 if all(found.through or found.instead for found in all_found) else 1


def show_relays_without_each(*, as_json: bool) -> int:
    """Send the attacks that get through the gate without a check to a relay without that check.

    This is done for each check. Returns 1 if such a relay still stops an attack.
    """
    held = 0
    for missing in map(without, checks()):
        attacks = [attack for attack in missing.through if not attack.alone]
        all_found = asyncio.run(tried(missing.check, attacks)) if attacks else []
        delivered = [found.attack.name for found in all_found if found.reason == ACCEPTED]
        stopped = [
            f"{found.attack.name} ({found.reason})"
            for found in all_found
            if found.reason != ACCEPTED
        ]
        held += len(stopped)
        if as_json:
            say(
                json.dumps(
                    {"relay without": missing.check, "delivered": delivered, "stopped": stopped}
                )
            )
        else:
            counts = f"{len(delivered)} delivered, {len(stopped)} still stopped"
            say(f"relay without {missing.check}: {counts}")
            for name in (*delivered, *(f"stopped: {one}" for one in stopped)):
                say(f"    {name}")
    return 1 if held else 0


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="make attack", description="Attack a running bus from outside."
    )
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument(
        "--without-each",
        action="store_true",
        help="take out one check after the other, and name the attacks that get through",
    )
    parser.add_argument(
        "--relay-without",
        metavar="CHECK",
        choices=[*checks(), "each"],
        help="attack a relay that lacks this check; 'each' tries every check in turn",
    )
    asked = parser.parse_args()
    if asked.without_each:
        return show_without_each(as_json=asked.json)
    if asked.relay_without == "each":
        return show_relays_without_each(as_json=asked.json)
    all_found = asyncio.run(tried(asked.relay_without))
    if asked.json:
        for found in all_found:
            say(json.dumps(row(found)))
    else:
        show(all_found)
    return 0 if all(found.is_stopped for found in all_found) else 1


if __name__ == "__main__":
    sys.exit(main())
