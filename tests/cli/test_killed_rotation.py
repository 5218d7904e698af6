"""``sealbus keys rotate`` that is killed before one of its changes, and said again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealbus import Credentials
from tests.cli.command import Ran, quickly
from tests.forked import forked
from tests.waiting import PATIENCE_S

CREDENTIALS = "credentials/greeter.toml"


def killed_runs(bus: Path, *command: str) -> Iterator[tuple[int, Path]]:
    """Copies of ``bus`` in which the command was killed: one for each of its changes."""
    for changes in range(100):
        copy = Path(shutil.copytree(bus, bus.with_name(f"killed-{changes}")))
        line = ("tests.cli.killed", str(changes), *command)
        with forked(line, cwd=copy, environment=os.environ) as run:
            run.process.join(PATIENCE_S)
            code, _, err = run.told
        if code == 0:
            assert changes > 0, "no change was seen"
            return
        assert code == -signal.SIGKILL, err.decode()
        yield changes, copy
    raise AssertionError("the command does not end")


def rows(bus: Path) -> dict[str, dict[str, Any]]:
    told = quickly("keys", "show", "greeter", "--json", cwd=bus)
    assert told.code == 0, told.err
    return {row["key"]: row for row in map(json.loads, told.out.splitlines())}


def key_in(file: Path) -> str:
    return Credentials.load(file).key.public.text


def said_again(bus: Path, *command: str) -> Ran:
    """Say the command again, as a person does who follows its hint."""
    told = quickly(*command, cwd=bus)
    if told.code == 1 and (hint := re.search("a key is never overwritten|hint: move", told.err)):
        made = "next.toml" if hint[0].startswith("a") else CREDENTIALS
        (bus / made).rename(bus / "away.toml")
        return quickly(*command, cwd=bus)
    return told


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "options", [[], ["--no-link"], ["--old", "old.toml"], ["--out", "next.toml"]], ids=" ".join
)
def test_rotation_that_was_killed_is_said_again(bus: Path, options: list[str], tls: bool) -> None:
    if tls:
        assert quickly("certs", "init", cwd=bus).code == 0
    shutil.copy2(bus / CREDENTIALS, bus / "old.toml")
    (old,) = rows(bus)
    command = ("keys", "rotate", "greeter", *options)
    made = "next.toml" if "--out" in options else CREDENTIALS
    kept = CREDENTIALS if "--out" in options else f"{CREDENTIALS}.old"
    for changes, copy in killed_runs(bus, *command):
        where = f"after {changes} changes"
        there = [one for one in (copy / CREDENTIALS, copy / f"{CREDENTIALS}.old") if one.exists()]
        assert old in [key_in(one) for one in there], where
        assert rows(copy)[old]["state"] == "valid", where
        told = said_again(copy, *command)
        found = rows(copy)
        assert (told.code, len(found)) == (0, 2), (where, told.err)
        (new,) = found.keys() - {old}
        assert key_in(copy / made) == new, where
        assert key_in(copy / kept) == old, where
        assert found[old]["not_after"] is not None, where
        assert found[new]["not_after"] is None, where
        assert found[new]["follows"] == (None if "--no-link" in options else old), where
        assert quickly("check", cwd=copy).out == "", where
