"""``sealbus check``: would this folder load?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from sealbus_broker.cli.folder import dir_option
from sealbus_broker.policy.loader import load


@click.command()
@dir_option
@click.option("--json", "as_json", is_flag=True, help="One object a problem or note, a line each.")
def check(folder: str | None, as_json: bool) -> int:
    """Say whether a relay would load the bus's folder, and if not, everything that is wrong with it.

    Exit code 0 if it would, 3 if not. Starts nothing, changes nothing.
    """
    path = Path(folder or ".")
    loaded = load(path)
    rows = [("problem", problem) for problem in loaded.problems] + [("note", note) for note in loaded.notes]
    for kind, row in rows:
        click.echo(json.dumps({"kind": kind, **row.as_dict()}) if as_json else f"{kind}: {row}")
    policy = loaded.policy
    if policy is None:
        click.echo(f"{len(loaded.problems)} problem(s): a relay would not load this folder", err=True)
        return 3
    subjects = sum(not rule.pattern.startswith("sealbus.") for rule in policy.subjects)
    summary = f"bus {policy.bus}: {len(policy.bots)} bots, {subjects} subjects, policy {policy.digest.hex()[:16]}"
    click.echo(f"ok: {summary}", err=True)
    return 0
