"""The files that ``sealbus init`` writes can be loaded. It changes no existing file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.keys import add_key
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.scaffold import BOTS, scaffold


def test_a_new_bus_loads_and_its_bots_may_have_keys(tmp_path: Path) -> None:
    scaffold(tmp_path / "bus", "mybus")
    for bot in BOTS:
        add_key(tmp_path / "bus", bot, SigningKey.generate(KeyKind.BOT).public, datetime.now(UTC))
    loaded = load(tmp_path / "bus")
    assert loaded.problems == ()
    assert loaded.notes == ()
    assert loaded.policy is not None
    assert loaded.policy.bus == "mybus"
    assert set(loaded.policy.bots) == set(BOTS)
    assert loaded.policy.bots["operator"].may_publish("sealbus.quarantine.list")


def test_private_files_are_ignored_by_git(tmp_path: Path) -> None:
    scaffold(tmp_path, "mybus")
    ignored = (tmp_path / ".gitignore").read_text().split("\n")
    assert ".sealbus/" in ignored
    assert "credentials/" in ignored


@pytest.mark.parametrize("file", ["policy.yaml", ".gitignore", "schemas/clock.ask.v1.json"])
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path: Path, file: str) -> None:
    taken = tmp_path / file
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_text("mine")
    with pytest.raises(InvalidInput):
        scaffold(tmp_path, "mybus")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [taken]
    assert taken.read_text() == "mine"


def test_a_link_to_nowhere_is_something_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput):
        scaffold(tmp_path, "mybus")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["My Bus", "", "../x", "bus\n", "x" * 33, "{}"])
def test_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        scaffold(tmp_path / "bus", name)
    assert not (tmp_path / "bus").exists()
