"""``sealbus backup``: folders that it does not touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sealbus_broker.cli.copies import backup
from sealbus_broker.cli.shared.files import writing
from tests.cli.command import quickly


@pytest.fixture
def bus(tmp_path: Path) -> Path:
    assert quickly("init", "mybus", cwd=tmp_path).code == 0
    return tmp_path / "mybus"


@pytest.mark.parametrize("target", [".", "..", "/", "keys/.."])
def test_folder_that_exists_is_no_target(bus: Path, target: str) -> None:
    ran = quickly("backup", target, cwd=bus)
    assert ran.code != 0
    assert "exists already" in ran.err


def test_folder_of_another_backup_is_not_removed(
    bus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has begun one at the same time."""
    kept = tmp_path / "saved.part" / "kept"

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        with writing(path):
            kept.parent.mkdir()
            kept.touch()
            yield

    monkeypatch.setattr(backup, "writing", late)
    ran = quickly("backup", str(tmp_path / "saved"), cwd=bus)
    assert ran.code != 0
    assert "saved.part cannot be written: File exists" in ran.err
    assert kept.exists()
