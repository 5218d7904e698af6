"""``make attack``: every attack on a bus that runs, and a table of what stopped each. Exits 1 if one got through, or met another reason than its own.

``ARGS=--without`` tells for each check of the gate which attacks get through where it is missing; ``ARGS=--json`` one object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.attacks.corpus import GATE_ALONE, Attack, Shown, Written
from tests.attacks.ground import Ground
from tests.attacks.trial import ATTACKS, RUNNING, Found, attempt, checks, in_the_gate, through_without


async def tried(without: str | None = None) -> list[Found]:
    """Try everything, on a bus of its own, whose relay does not make the check ``without``."""
    with tempfile.TemporaryDirectory(prefix="sealbus-attacked-") as folder:
        async with Ground(Path(folder) / "bus", without) as ground:
            running = {attack.name: await attempt(attack, ground) for attack in RUNNING}
    return [running.get(attack.name) or in_the_gate(attack) for attack in ATTACKS]


def tried_on(attack: Attack) -> str:
    """Where an attack is tried."""
    if attack.name in GATE_ALONE:
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

    table = Table("family", "attack", "stopped by", "reason", "delivered", title="Attacks tried", title_justify="left")
    for found in all_found:
        attack = found.attack
        where = attack.where.value if found.is_stopped else f"not as it must be: {attack.reason} expected"
        name = attack.name.replace("_", " ") + (" (gate alone)" if attack.name in GATE_ALONE else "")
        table.add_row(attack.family, name, where, found.reason, str(found.delivered) if found.delivered else "nothing")
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False, markup=False)
    console.print(table)
    stopped = sum(found.is_stopped for found in all_found)
    delivered = sum(found.delivered for found in all_found)
    console.print(f"{len(all_found)} tried, {stopped} stopped for their own reason, {delivered} delivered")


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make attack", description="Attack a bus that runs, from outside.")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument(
        "--without", action="store_true", help="take out one check after the other, and say what gets through"
    )
    parser.add_argument(
        "--relay-without", metavar="CHECK", choices=list(checks()), help="attack a relay that lacks this check"
    )
    asked = parser.parse_args()
    if asked.without:
        for check in checks():
            through = [attack.name for attack in through_without(check)]
            if asked.json:
                say(json.dumps({"without": check, "through": through}))
            else:
                say("\n    ".join([f"without {check}: {len(through)} get through", *through]))
        return 0
    all_found = asyncio.run(tried(asked.relay_without))
    if asked.json:
        for found in all_found:
            say(json.dumps(row(found)))
    else:
        show(all_found)
    return 0 if all(found.is_stopped for found in all_found) else 1


if __name__ == "__main__":
    sys.exit(main())
